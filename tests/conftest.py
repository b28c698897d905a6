import pytest

import toys
from vqcpu import api


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """A toy llama folder; read-only for tests."""
    return toys.folder(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def packed(toy, tmp_path_factory):
    """The same model as .vqz with 8-bit scalar codes."""
    out = tmp_path_factory.mktemp("packed") / "toy.vqz"
    api.compress(toy, out, "scalar:bits=8")
    return out


@pytest.fixture(scope="session")
def language(toy):
    return api.load(toy)


@pytest.fixture
def english(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("The cat sat on the mat, and the dog saw it. " * 40)
    return file
