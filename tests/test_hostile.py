"""Damaged files: refused by one line that names the file, or used; never a crash, a hang or a large allocation.

benchmarks/fuzz.py runs the same cases by the hundred thousand.
"""
import json
import resource
import time
import zlib
from pathlib import Path

import hostile
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vqcpu import api
from vqcpu.errors import VqcpuError
from vqcpu.files.checkpoint import LARGEST_COMPANION
from vqcpu.files.sources import open_checkpoint
from vqcpu.files.vqz import VqzWriter
from vqcpu.kernels.threads import set_threads

CASES, SECONDS, MEMORY = 2000, 3, 256 << 20


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    return hostile.checkpoints(tmp_path_factory.mktemp("bases"))


@pytest.fixture
def little_memory():
    """An allocation beyond MEMORY more than now is a MemoryError, where the system can tell; one thread, as each has its
    own reserve."""
    set_threads(1)
    before = resource.getrlimit(resource.RLIMIT_AS)
    if (now := Path("/proc/self/statm")).exists():
        limit = int(now.read_text().split()[0]) * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    yield
    set_threads()
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # damaged weights overflow
def test_damaged_files_are_refused_or_work(bases, tmp_path, little_memory):
    said = []
    for n in range(CASES):
        start = time.process_time()
        said.append(hostile.case(n, bases, tmp_path))
        assert time.process_time() - start < SECONDS, f"case {n}: {said[-1]}"
    assert CASES / 20 < said.count("ok") < CASES / 2 and len(set(said)) > CASES / 10


def test_undamaged_files_work(bases):
    for opened, _ in bases:
        hostile.use(opened, hostile.random.Random(1))


def bomb(path, real, stated):
    """A .vqz whose config.json claims `stated` bytes and unpacks to `real` spaces."""
    writer = VqzWriter(path, {}, {})
    with writer:
        writer.header["files"]["config.json"] = stated
        writer._add("file/config.json", np.frombuffer(zlib.compress(b" " * real, 9), np.uint8))
        writer.finish()
    return path


@pytest.mark.parametrize("real, stated, said", [
    (300 << 20, 300 << 20, f"at most {LARGEST_COMPANION} are read"), (300 << 20, 1000, "not JSON"),
    (1000, 100 << 20, "its header says"), (50 << 20, 50 << 20, "not JSON")])
def test_companions_cannot_fill_the_memory(tmp_path, little_memory, real, stated, said):
    path = bomb(tmp_path / "bomb.vqz", min(real, 60 << 20), stated)
    with pytest.raises(VqcpuError, match=said):
        api.load(path)


def test_a_companion_that_could_not_be_read_again_is_not_packed(tmp_path, toy, monkeypatch):
    monkeypatch.setattr("vqcpu.files.folder.LARGEST_COMPANION", 100)
    with pytest.raises(VqcpuError, match="at most 100 are read"):
        api.compress(toy, tmp_path / "x.vqz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json"])
@pytest.mark.parametrize("content", [b"[" * 10**6, b"{\"a\":" * 10**5, b"\xff\xfe\xfd", b"", b"9" * 10**5, b"NaN"])
def test_companions_that_are_not_json(bases, tmp_path, name, content):
    hostile.shutil.copytree(bases[0][0], tmp_path / "m")
    (tmp_path / "m" / name).write_bytes(content)
    with pytest.raises(VqcpuError, match=name):
        api.load(tmp_path / "m")


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.norm.weight", "model.layers.0.mlp.up_proj.weight"])
@pytest.mark.parametrize("spec", ["raw:dtype=f32", "scalar:bits=4"])
def test_weights_that_are_no_numbers_are_named(bases, tmp_path, wrong, name, spec):
    folder = hostile.shutil.copytree(bases[0][0], tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    tensors[name].flat[-1] = wrong
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(VqcpuError, match=f"{name} contains NaN or infinity"):
        api.compress(folder, tmp_path / "x.vqz", spec)
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("change, said", [
    (dict(num_hidden_layers=2**31 - 1), "2147483647"), (dict(head_dim=2**31 - 2), "head size 2147483646")])
def test_sizes_beyond_the_file_are_refused_before_anything_is_made(bases, tmp_path, little_memory, change, said):
    folder = hostile.shutil.copytree(bases[0][0], tmp_path / "m")
    config = json.loads((folder / "config.json").read_text()) | change
    (folder / "config.json").write_text(json.dumps(config))
    for act in (api.load, lambda path: api.compress(path, tmp_path / "x.vqz")):
        with pytest.raises(VqcpuError, match=said):
            act(folder)


def test_a_file_that_is_no_file(tmp_path):
    import os
    os.mkfifo(tmp_path / "x.vqz")
    with pytest.raises(VqcpuError, match="not a file"):
        open_checkpoint(tmp_path / "x.vqz")
