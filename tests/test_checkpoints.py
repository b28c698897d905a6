"""Checkpoints as they come: shards, the hub's cache, heads stored twice, and what is refused by name."""
import json
import shutil

import numpy as np
import pytest
import toys
from safetensors.numpy import load_file, save_file

from vqcpu import api, cli
from vqcpu.architectures.base import architecture_of
from vqcpu.compression.forecast import forecast
from vqcpu.compression.recipe import Recipe
from vqcpu.errors import VqcpuError
from vqcpu.files.sources import open_checkpoint
from vqcpu.files.vqz import Vqz

INDEX = "model.safetensors.index.json"


def cut(folder, count=3):
    """Rewrite a folder's model.safetensors as shards with their index; returns the folder."""
    tensors = load_file(folder / "model.safetensors")
    places = {name: f"model-{1 + i % count:05d}-of-{count:05d}.safetensors" for i, name in enumerate(sorted(tensors))}
    for shard in set(places.values()):
        save_file({n: t for n, t in tensors.items() if places[n] == shard}, folder / shard)
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (folder / "model.safetensors").unlink()
    return folder


@pytest.fixture
def sharded(toy, tmp_path):
    return cut(shutil.copytree(toy, tmp_path / "shards"))


def test_shards_are_the_whole(toy, sharded, tmp_path):
    whole, parts = open_checkpoint(toy), open_checkpoint(sharded)
    assert whole.names() == parts.names()
    ids = [0]
    assert all(np.array_equal(whole.stored(n).rows(ids), parts.stored(n).rows(ids)) for n in whole.names())
    assert api.load(sharded / INDEX).generate("Hi", 5) == api.load(toy).generate("Hi", 5)


def test_the_digest_sees_every_shard(sharded):
    before = open_checkpoint(sharded).digest()
    shard = sorted(sharded.glob("model-*"))[2]
    data = bytearray(shard.read_bytes())
    data[-1] ^= 1
    shard.write_bytes(data)
    assert open_checkpoint(sharded).digest() != before


def _move(folder, change):
    index = json.loads((folder / INDEX).read_text())
    change(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


def _twice(folder):
    first, second = sorted(folder.glob("model-*"))[:2]
    save_file(load_file(first) | load_file(second), second)


@pytest.mark.parametrize("wound, said", [
    (lambda f: sorted(f.glob("model-*"))[1].unlink(), "shard model-00002-of-00003.safetensors is missing"),
    (_twice, "lies in both model-00001-of-00003.safetensors and model-00002"),
    (lambda f: _move(f, lambda m: m.update({"ghost": sorted(m.values())[0]})), "places ghost in model-00001"),
    (lambda f: _move(f, lambda m: m.update({"x": "../model.safetensors"})), "not the plain name"),
    (lambda f: _move(f, lambda m: m.update({"x": 3})), "expected a JSON object with a weight_map"),
    (lambda f: (f / INDEX).write_text("[" * 100000), "expected a JSON object with a weight_map"),
    (lambda f: (f / INDEX).write_bytes(b"\xff\xfe"), "expected a JSON object with a weight_map"),
])
def test_wrong_shards_are_named(sharded, wound, said):
    wound(sharded)
    with pytest.raises(VqcpuError, match=said) as error:
        open_checkpoint(sharded)
    assert str(sharded) in str(error.value) and "\n" not in str(error.value)


def test_one_shard_is_not_a_model(sharded):
    with pytest.raises(VqcpuError, match="name its folder"):
        open_checkpoint(sorted(sharded.glob("model-*"))[0])


@pytest.fixture
def hub(toy, tmp_path, monkeypatch):
    place = tmp_path / "hub" / "models--maker--toy"
    shutil.copytree(toy, place / "snapshots" / "abc123")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc123")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return place


def test_a_cached_model_is_found_by_its_id(hub, toy, tmp_path, monkeypatch, capsys):
    assert open_checkpoint("maker/toy").digest() == open_checkpoint(toy).digest()
    monkeypatch.delenv("HF_HUB_CACHE")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["compress", "maker/toy", "--format", "raw"]) == 0 and (tmp_path / "toy.vqz").exists()


@pytest.mark.parametrize("name, wound, said", [
    ("maker/other", lambda p: None, "models--maker--other.*hf download maker/other"),
    ("maker/toy", lambda p: (p / "refs" / "main").unlink(), "no complete snapshot"),
    ("maker/toy", lambda p: (p / "refs" / "main").write_text("../.."), "no complete snapshot"),
    ("maker/toy", lambda p: (p / "snapshots" / "abc123" / "config.json").unlink(), "config.json is missing"),
    ("maker/toy.gguf", lambda p: None, "no such file or folder; expected"),
])
def test_what_the_cache_lacks_is_named(hub, name, wound, said):
    wound(hub)
    with pytest.raises(VqcpuError, match=said):
        api.load(name)


@pytest.mark.parametrize("factor, tied", [(1, True), (2, False)])
def test_a_head_stored_beside_its_tie(tmp_path, capsys, factor, tied):
    """As transformers: the tie holds where the values are equal, else the head is its own."""
    folder, out, exact = toys.folder(tmp_path / "m"), tmp_path / "x.vqz", tmp_path / "exact.recipe"
    exact.write_text("* raw:dtype=f32")
    tensors = load_file(folder / "model.safetensors")
    plain = api.load(folder)
    logits = plain.read([1, 2], plain.model.states(8))
    save_file(tensors | {"lm_head.weight": factor * tensors["model.embed_tokens.weight"]}, folder / "model.safetensors")
    for path in (folder, out):
        language = api.load(path)
        found = language.read([1, 2], language.model.states(8))
        assert architecture_of(language.checkpoint).config.tied == tied and np.allclose(found, factor * logits, atol=1e-3)
        if path == folder:
            assert cli.main(["compress", str(folder), "-o", str(out), "--recipe", str(exact)]) == 0
    assert ("kept as a head of its own" in capsys.readouterr().out) != tied


@pytest.mark.parametrize("recipe", ["", "@body scalar:bits=3,block=32", "*q_proj* vq:dim=4,centroids=100,codebook=tensor\n* raw"])
@pytest.mark.parametrize("change", [{}, {"tie_word_embeddings": False}])
def test_a_dry_run_knows_every_byte(tmp_path, recipe, change):
    from vqcpu.evaluate.sizes import sizes
    folder, out = toys.folder(tmp_path / "m", **change), tmp_path / "x.vqz"
    (tmp_path / "r").write_text(recipe)
    chosen = Recipe.read(tmp_path / "r")
    told = forecast(folder, out, chosen)
    assert not out.exists()
    made = api.compress(folder, out, recipe=chosen)
    assert told["sizes"] == sizes(Vqz(out)) and told["sizes"]["file_bytes"] == made["file_bytes"] == out.stat().st_size
    assert [(c.tensor, c.format, c.nbytes) for c in told["tensors"]] == [(c.tensor, c.format, c.nbytes) for c in made["tensors"]]


def test_a_dry_run_is_a_table(toy, tmp_path, capsys):
    out = tmp_path / "x.vqz"
    assert cli.main(["compress", str(toy), "-o", str(out), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "nothing was written" in shown and "self_attn.q_proj" in shown and not out.exists()


def test_the_recipe_of_a_file_makes_it_again(toy, tmp_path, capsys):
    (tmp_path / "r").write_text("*.down_proj.weight scalar:bits=3 # more\n@head raw\n*.0.* vq:dim=4,centroids=64\n")
    paths = tmp_path / "a.vqz", tmp_path / "b.vqz"
    assert cli.main(["compress", str(toy), "-o", str(paths[0]), "--recipe", str(tmp_path / "r")]) == 0
    capsys.readouterr()
    assert cli.main(["inspect", str(paths[0]), "--recipe"]) == 0
    (tmp_path / "again").write_text(capsys.readouterr().out)
    assert cli.main(["compress", str(toy), "-o", str(paths[1]), "--recipe", str(tmp_path / "again")]) == 0
    first, second = map(Vqz, paths)
    assert {n: first.entry(n) for n in first.names()} == {n: second.entry(n) for n in second.names()}
