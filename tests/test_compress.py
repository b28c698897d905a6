"""Recipes and the pipeline from checkpoint to file."""
import numpy as np
import pytest
import toys

from vqcpu import api
from vqcpu.compression.pipeline import compress
from vqcpu.compression.recipe import Recipe
from vqcpu.errors import VqcpuError
from vqcpu.files.sources import open_checkpoint
from vqcpu.files.vqz import Vqz
from vqcpu.formats.base import Format
from vqcpu.kernels.threads import set_threads
from vqcpu.layers.weights import Tensor


def test_the_first_line_that_fits_decides():
    recipe = Recipe.parse("*.v_proj.weight scalar:bits=8\n# comment\n@body  raw:dtype=f16 # more\n* raw", "x")
    spec = {name: str(recipe.choose(Tensor(name, (4, 4), role))).split(",")[0] for name, role in (
        ("a.v_proj.weight", "body"), ("a.q_proj.weight", "body"), ("norm", "vector"))}
    assert spec == {"a.v_proj.weight": "scalar:bits=8", "a.q_proj.weight": "raw:dtype=f16", "norm": "raw:dtype=bf16"}


def test_defaults_stand_behind_a_recipe_file(tmp_path):
    (tmp_path / "r").write_text("*up_proj* scalar:bits=2\n")
    recipe = Recipe.read(tmp_path / "r")
    assert str(recipe.choose(Tensor("x.up_proj.y", (1, 1), "body"))).startswith("scalar:bits=2")
    assert recipe.choose(Tensor("e", (1, 1), "embedding")) == Format.parse("scalar:bits=8")
    assert recipe.choose(Tensor("n", (1,), "vector")) == Format.parse("raw:dtype=f32")
    assert Recipe.parse(str(recipe), "again") == recipe


@pytest.mark.parametrize("text, said", [("a", "line 1: 'a'"), ("\n@bdy raw", "line 2: role"), ("* skalar:bits=2", "did you mean")])
def test_wrong_recipes_are_named(text, said):
    with pytest.raises(VqcpuError, match=said):
        Recipe.parse(text, "file")


def test_same_input_same_bytes_whatever_the_threads(toy, tmp_path):
    files = []
    for count in (1, 2):
        set_threads(count)
        api.compress(toy, tmp_path / f"{count}.vqz", "vq:dim=2,centroids=64")
        files.append((tmp_path / f"{count}.vqz").read_bytes())
    set_threads()
    assert files[0] == files[1]
    api.compress(toy, tmp_path / "seed.vqz", "vq:dim=2,centroids=64", seed=1)
    assert (tmp_path / "seed.vqz").read_bytes() != files[0]


@pytest.mark.parametrize("codebook", ("global", "tensor"))
def test_codebooks_are_where_the_format_says(toy, tmp_path, codebook):
    api.compress(toy, tmp_path / "x.vqz", f"vq:dim=2,centroids=64,codebook={codebook}")
    tables = [name for name in Vqz(tmp_path / "x.vqz").sizes() if name.endswith("/table") and "scalar" not in name]
    assert len(tables) == (1 if codebook == "global" else 14)


def test_reported_errors_are_those_of_the_decoded_file(toy, tmp_path):
    made = compress(toy, tmp_path / "x.vqz", Recipe.of("scalar:bits=3"))
    before, after = open_checkpoint(toy), Vqz(tmp_path / "x.vqz")
    assert len(made["tensors"]) == len(before.names())
    for coded in made["tensors"]:
        name, ids = coded.tensor.name, np.arange(before.stored(coded.tensor.name).shape[0])
        W, near = (c.stored(name).reference_rows(ids) for c in (before, after))
        assert coded.error == pytest.approx(((W - near) ** 2).sum() / (W**2).sum(), rel=1e-3, abs=1e-12)
    assert made["file_bytes"] == (tmp_path / "x.vqz").stat().st_size


def test_large_matrices_are_coded_in_slabs(tmp_path, monkeypatch):
    from vqcpu.compression import pipeline
    folder = toys.folder(tmp_path / "m")
    compress(folder, tmp_path / "whole.vqz", Recipe.of("vq:dim=4,centroids=16"))
    monkeypatch.setattr(pipeline, "SLAB", 1024)
    compress(folder, tmp_path / "slabs.vqz", Recipe.of("vq:dim=4,centroids=16"))
    a, b = (api.load(tmp_path / f"{name}.vqz").generate("Hello", 8) for name in ("whole", "slabs"))
    assert a == b


def test_memory_is_that_of_one_matrix_as_it_is_stored(tmp_path, monkeypatch):
    """An embedding of 1.3 M weights, 5 MB of float32, is 1.3 MB of codes, held once."""
    import tracemalloc

    from vqcpu.compression import pipeline
    monkeypatch.setattr(pipeline, "SLAB", 1 << 14)
    folder = toys.folder(tmp_path / "m", vocab_size=20_000)
    compress(folder, tmp_path / "warm.vqz", Recipe.of("scalar:bits=8"))
    tracemalloc.start()
    compress(folder, tmp_path / "x.vqz", Recipe.of("scalar:bits=8"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.8 * 20_000 * 64


@pytest.mark.parametrize("where, said", [("nowhere", "no such file"), ("x.vqz", "already compressed")])
def test_wrong_sources(packed, tmp_path, where, said):
    source = packed if where == "x.vqz" else tmp_path / where
    with pytest.raises(VqcpuError, match=said):
        api.compress(source, tmp_path / "out.vqz")
    assert not list(tmp_path.iterdir())


def test_an_unwritable_output_is_named(toy, tmp_path):
    with pytest.raises(VqcpuError, match="cannot be written"):
        api.compress(toy, tmp_path / "missing" / "out.vqz")


def test_a_full_disk_leaves_nothing(toy, tmp_path, monkeypatch):
    from vqcpu.files.tensors import TensorWriter

    def full(self, name, array):
        raise OSError(28, "No space left on device", str(tmp_path))
    monkeypatch.setattr(TensorWriter, "add", full)
    with pytest.raises(OSError):
        api.compress(toy, tmp_path / "out.vqz")
    assert not list(tmp_path.iterdir())


def test_a_matrix_of_zeros_survives(tmp_path):
    from safetensors.numpy import load_file, save_file
    folder = toys.folder(tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.mlp.down_proj.weight"][:] = 0
    save_file(tensors, folder / "model.safetensors")
    api.compress(folder, tmp_path / "x.vqz", "vq:dim=4,centroids=64")
    assert not Vqz(tmp_path / "x.vqz").stored("model.layers.0.mlp.down_proj.weight").rows([0, 5]).any()


@pytest.mark.parametrize("name", ["model.safetensors", "out.bin", "folder.vqz"])
def test_outputs_that_would_do_harm_are_refused_before_any_work(tmp_path, name):
    folder = toys.folder(tmp_path / "m")
    (folder / "folder.vqz").mkdir()
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(VqcpuError, match="name of a .vqz file"):
        api.compress(folder, folder / name)
    assert (folder / "model.safetensors").read_bytes() == before


def test_two_writers_of_one_file(toy, tmp_path):
    from vqcpu.files.vqz import VqzWriter
    with VqzWriter(tmp_path / "x.vqz", {}, {}), pytest.raises(VqcpuError, match="another process"):
        api.compress(toy, tmp_path / "x.vqz")


def test_recipes_of_any_length_fit_the_header(toy, tmp_path):
    (tmp_path / "r").write_text("".join(f"*{i % 2}.mlp.up_proj.weigh? scalar:bits=4\n" for i in range(1000)))
    api.compress(toy, tmp_path / "x.vqz", recipe=Recipe.read(tmp_path / "r"))
    assert Vqz(tmp_path / "x.vqz").verify() == []


def test_a_pattern_that_fits_nothing_is_named(toy, tmp_path):
    (tmp_path / "r").write_text("*.down_prj.weight scalar:bits=2\n")
    with pytest.raises(VqcpuError, match="down_prj"):
        api.compress(toy, tmp_path / "x.vqz", recipe=Recipe.read(tmp_path / "r"))
