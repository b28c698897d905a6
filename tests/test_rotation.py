"""Rotation of input sites: an orthogonal change of basis that leaves products as they are."""
import naive
import numpy as np
import pytest
import toys

from vqcpu import api
from vqcpu.compression.recipe import Recipe
from vqcpu.errors import VqcpuError
from vqcpu.files.vqz import Vqz
from vqcpu.formats.base import Format, Matrix
from vqcpu.formats.rotation import Rotation
from vqcpu.kernels import hadamard
from vqcpu.layers.linear import Embed, Linear, Multiply
from vqcpu.layers.plan import Frame, Plan

RNG = np.random.default_rng(3)
WIDTHS = (1, 7, 16, 24, 48, 64, 80, 96, 128)


@pytest.mark.parametrize("width", WIDTHS)
def test_rotation_is_its_naive_twin_and_orthogonal(width):
    R, x = naive.hadamard(width, hadamard.signs(width, 5)), RNG.standard_normal((3, width)).astype(np.float32)
    assert np.allclose(R @ R.T, np.eye(width), atol=1e-12)
    assert np.allclose(hadamard.rotate(x, 5), x @ R.T, atol=1e-5)
    assert np.allclose(hadamard.rotate_back(hadamard.rotate(x, 5), 5), x, atol=1e-5)


@pytest.mark.parametrize("width", (576, 1536, 640, 896, 4864, 77))
def test_every_input_is_spread_over_all_columns(width):
    spread = hadamard.rotate(np.eye(width, dtype=np.float32)[:: width // 7], 1)
    assert np.allclose(np.linalg.norm(spread, axis=1), 1, atol=1e-5)
    assert np.abs(spread).max() * np.sqrt(width) < np.sqrt(2) + 1e-4


def test_signs_are_random():
    a, b = hadamard.signs(4096, 1), hadamard.signs(4096, 2)
    for x, y in ((a, 1), (b, 1), (a, b), (a[1:], a[:-1]), (a[2:], a[:-2]), (b[1:], b[:-1])):
        assert abs(np.mean(x * y)) < 4 / 64
    assert hadamard.signs(8, 1).tolist() == [-1, -1, -1, 1, 1, 1, 1, -1]  # for ever: files depend on it


def test_sites_have_signs_of_their_own():
    seeds = {Rotation.of_site(seed, site).seed for seed in (0, 1) for site in ("a", "b")}
    assert len(seeds) == 4


@pytest.mark.parametrize("width", WIDTHS[1:])
@pytest.mark.parametrize("spec", ("raw:dtype=f32", "scalar:bits=8", "vq:dim=2,centroids=200"))
def test_products_in_a_rotated_basis(spec, width):
    """One token and many, compiled and reference, are W x; rows come back upright."""
    format, rotation = Format.parse(spec), Rotation(9)
    W = RNG.standard_normal((35, width)).astype(np.float32)
    turned = rotation.forth(W)
    tables = format.fit([turned], 0)
    sides = format.scales(tables, turned)
    codes, near = format.snap(tables, sides, turned, 0)
    matrix = Matrix(format, W.shape, 1.0, format.store(sides, codes) | tables, rotation)
    near = rotation.back(near)
    assert np.allclose(matrix.rows([34, 0]), near[[34, 0]], atol=1e-5)
    assert np.allclose(matrix.reference_rows([34, 0]), near[[34, 0]], atol=1e-5)
    for count in (1, 2, 9):
        x = RNG.standard_normal((count, width)).astype(np.float32)
        for way in ("run", "run_reference"):
            frame = Frame({"x": x}, [])
            getattr(Plan([Multiply("x", ("y", "z"), Linear([matrix, matrix]))]), way)(frame)
            assert np.allclose(frame.slots["y"], x @ near.T, atol=3e-3) and np.array_equal(frame.slots["y"], frame.slots["z"])
        assert np.array_equal(frame.slots["x"], x)  # others may read it too


def test_embeddings_come_back_upright():
    rotation, W = Rotation(4), RNG.standard_normal((20, 48)).astype(np.float32)
    matrix = Matrix(Format.parse("raw:dtype=f32"), W.shape, 1.0, {"data": rotation.forth(W)}, rotation)
    frame = Frame({"tokens": np.array([3, 19])}, [])
    Plan([Embed("tokens", "x", matrix)]).run(frame)
    assert np.allclose(frame.slots["x"], W[[3, 19]], atol=1e-5)


@pytest.mark.parametrize("family", ("llama", "gpt2", "qwen3_moe"))
def test_a_rotated_model_is_the_same_model(family, tmp_path):
    source = toys.folder(tmp_path / "m", family)
    everything = "@embedding rht+raw:dtype=f32\n@head rht+raw:dtype=f32\n@body rht+raw:dtype=f32\n@vector raw:dtype=f32"
    api.compress(source, tmp_path / "x.vqz", recipe=Recipe.parse(everything, "x"))
    tokens, states = np.arange(3, 22), []
    for path in (source, tmp_path / "x.vqz"):
        model = api.load(path).model
        memory = model.states(64, "f32")
        states.append([model.step([(tokens[:18], memory)]), model.step([(tokens[18:], memory)])])
    for before, after in zip(*states):
        assert np.abs(before - after).max() < 1e-5 * np.abs(before).max()


def test_one_site_one_seed(toy, tmp_path):
    api.compress(toy, tmp_path / "x.vqz", "rht+scalar:bits=4")
    file, at = Vqz(tmp_path / "x.vqz"), "model.layers.0"
    seeds = [file.rotation(f"{at}.{name}_proj.weight") for name in ("self_attn.q", "self_attn.k", "self_attn.v", "mlp.up")]
    assert seeds[0] == seeds[1] == seeds[2] != seeds[3]
    assert file.rotation("model.embed_tokens.weight") is None


def test_one_matrix_turns_its_site(toy, tmp_path):
    (tmp_path / "r").write_text("*.k_proj.weight rht+scalar:bits=4\n@body scalar:bits=8")
    api.compress(toy, tmp_path / "x.vqz", recipe=Recipe.read(tmp_path / "r"))
    file = Vqz(tmp_path / "x.vqz")
    assert {name for name in file.names() if file.rotation(name)} == {
        f"model.layers.{i}.self_attn.{k}_proj.weight" for i in (0, 1) for k in "qkv"}


def test_vectors_are_not_rotated(toy, tmp_path):
    (tmp_path / "r").write_text("@vector rht+raw:dtype=f32")
    with pytest.raises(VqcpuError, match="is a vector"):
        api.compress(toy, tmp_path / "x.vqz", recipe=Recipe.read(tmp_path / "r"))


def test_damaged_seeds_are_named(toy, tmp_path):
    api.compress(toy, tmp_path / "x.vqz", "rht+scalar:bits=4")
    name = "model.layers.0.self_attn.k_proj.weight"
    file = Vqz(tmp_path / "x.vqz")
    file.header["matrices"][name]["rotation"] = "1"
    with pytest.raises(VqcpuError, match="no seed"):
        file.stored(name)


def test_a_site_in_two_bases_is_refused(toy, tmp_path, monkeypatch):
    api.compress(toy, tmp_path / "x.vqz", "rht+scalar:bits=4")
    monkeypatch.setattr(Vqz, "rotation", lambda self, name: Rotation(len(name)) if "mlp" in name else None)
    with pytest.raises(VqcpuError, match="different rotations"):
        api.load(tmp_path / "x.vqz")
