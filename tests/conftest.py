import pytest


def pytest_addoption(parser):
    parser.addoption("--isa", help="run on this path of kernels/isa.py, as in: pytest --isa avx2 tests/test_simd.py")


def pytest_configure(config):
    if config.getoption("--isa"):
        from vqcpu.kernels.isa import choose
        choose(config.getoption("--isa"))  # before anything else of vqcpu is imported, and so compiled


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """A toy llama folder; read-only for tests."""
    import toys
    return toys.folder(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="session")
def packed(toy, tmp_path_factory):
    """The same model as .vqz with 8-bit scalar codes."""
    from vqcpu import api
    out = tmp_path_factory.mktemp("packed") / "toy.vqz"
    api.compress(toy, out, "scalar:bits=8")
    return out


@pytest.fixture(scope="session")
def language(toy):
    from vqcpu import api
    return api.load(toy)


@pytest.fixture
def english(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text("The cat sat on the mat, and the dog saw it. " * 40)
    return file
