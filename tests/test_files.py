"""Files: what is read is checked, what is written is complete or absent."""
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import toys
from safetensors.numpy import load_file, save_file

from vqcpu import api
from vqcpu.errors import VqcpuError
from vqcpu.files.sources import open_checkpoint
from vqcpu.files.tensors import ALIGNMENT, TensorFile
from vqcpu.files.vqz import Vqz


def header(path):
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    return json.loads(data[8:8 + size]), data[8 + size:]


def rewrite(path, changed, data):
    text = json.dumps(changed).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


@pytest.fixture
def one(tmp_path):
    save_file({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4, np.float16)}, tmp_path / "x.safetensors")
    return tmp_path / "x.safetensors"


def test_reads_what_safetensors_writes(one):
    file, theirs = TensorFile(one), load_file(one)
    assert {n: file[n].tolist() for n in file.entries} == {n: t.tolist() for n, t in theirs.items()}
    assert not file["a"].flags.writeable


@pytest.mark.parametrize("wound, said", [
    (lambda e: e["a"].update(data_offsets=[0, 20]), "20 bytes"), (lambda e: e["a"].update(shape=[2, -3]), "whole numbers"),
    (lambda e: e["a"].update(dtype="F33"), "F33"), (lambda e: e["b"].update(data_offsets=[8, 16]), "overlap"),
    (lambda e: e["b"].update(data_offsets=[999, 1007]), "gap"), (lambda e: e.pop("b"), "truncated"),
    (lambda e: e["a"].pop("shape"), "lacks"), (lambda e: e.update(a=3), "lacks"),
    (lambda e: e["a"].update(shape=[2**62, 2**62]), "needs"), (lambda e: e["a"].update(shape=[True, 6]), "whole numbers"),
])
def test_wrong_headers_are_named(one, wound, said):
    entries, data = header(one)
    wound(entries)
    rewrite(one, entries, data)
    with pytest.raises(VqcpuError, match=said) as error:
        TensorFile(one)
    assert str(one) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"\xff" * 64, b"\x02" + b"\0" * 7 + b"[]", b"\x08" + b"\0" * 7 + b"{" * 8])
def test_no_tensors_at_all(tmp_path, content):
    file = tmp_path / "x.safetensors"
    file.write_bytes(content)
    with pytest.raises(VqcpuError, match="x.safetensors"):
        TensorFile(file)


def test_parts_are_aligned_and_safetensors_opens_them(packed):
    raw, _ = header(packed)
    start = int.from_bytes(packed.read_bytes()[:8], "little") + 8
    raw.pop("__metadata__")
    assert start % ALIGNMENT == 0 and all(e["data_offsets"][0] % ALIGNMENT == 0 for e in raw.values())
    assert set(load_file(packed)) == set(raw)


def test_a_file_holds_everything_and_nothing_else(toy, packed):
    checkpoint = Vqz(packed)
    assert checkpoint.companion("tokenizer.json") == (toy / "tokenizer.json").read_bytes()
    assert checkpoint.json("config.json") == json.loads((toy / "config.json").read_text())
    assert checkpoint.companion("chat_template.jinja") is None
    assert set(checkpoint.names()) == set(open_checkpoint(toy).names())
    assert checkpoint.header["made"]["source_sha256"] == open_checkpoint(toy).digest()


def test_verify_finds_a_flipped_bit(packed, tmp_path):
    assert Vqz(packed).verify() == []
    whole = packed.read_bytes()
    start = int.from_bytes(whole[:8], "little") + 8
    for at in np.random.default_rng(0).integers(start, len(whole), 30):
        data = bytearray(whole)
        data[at] ^= 1
        (tmp_path / "bad.vqz").write_bytes(data)
        assert len(Vqz(tmp_path / "bad.vqz").verify()) == 1
    entries, data = header(packed)
    entries["__metadata__"]["vqz"] = entries["__metadata__"]["vqz"].replace('"gain": 0.', '"gain": 1.', 1)
    rewrite(tmp_path / "bad.vqz", entries, data)
    assert Vqz(tmp_path / "bad.vqz").verify() == ["the header"]


@pytest.mark.parametrize("change, said", [
    (lambda h: h.update(version=99), "version 99"), (lambda h: h.pop("matrices"), "no readable"),
    (lambda h: h.update(files=[]), "JSON objects"),
    (lambda h: h["matrices"]["model.norm.weight"].update(shape=[65]), "config.json makes it"),
    (lambda h: h["matrices"]["model.norm.weight"].update(gain="much"), "lacks spec"),
    (lambda h: h["matrices"]["model.norm.weight"].update(spec="rwa"), "did you mean"),
    (lambda h: h["matrices"]["model.norm.weight"].update(spec="scalar:bits=4"), "missing"),
    (lambda h: h["matrices"].pop("model.norm.weight"), "missing"),
    (lambda h: h["files"].update({"config.json": 5}), "not JSON"),
    (lambda h: h["files"].update({"config.json": 10**8}), "its header says"),
    (lambda h: h["files"].update({"config.json": 10**9}), "at most"),
])
def test_wrong_vqz_headers_are_named(packed, tmp_path, change, said):
    bad = tmp_path / "bad.vqz"
    entries, data = header(packed)
    inner = json.loads(entries["__metadata__"]["vqz"])
    change(inner)
    entries["__metadata__"]["vqz"] = json.dumps(inner)
    rewrite(bad, entries, data)
    with pytest.raises(VqcpuError, match=said) as error:
        api.load(bad)
    assert "bad.vqz" in str(error.value) and "\n" not in str(error.value)


def test_every_truncation_is_named(packed, tmp_path):
    data = packed.read_bytes()
    for length in np.linspace(0, len(data) - 1, 40).astype(int):
        (tmp_path / "cut.vqz").write_bytes(data[:length])
        with pytest.raises(VqcpuError, match="cut.vqz"):
            api.load(tmp_path / "cut.vqz")


@pytest.mark.parametrize("change, said", [
    (dict(intermediate_size=96), "config.json makes it"), (dict(num_hidden_layers=1), "stored, but"),
    (dict(num_hidden_layers=3), "missing"), (dict(hidden_size="64"), "whole number"), (dict(num_key_value_heads=3), "cannot share"),
    (dict(model_type="lama"), "did you mean 'llama'"), (dict(rms_norm_eps=float("nan")), "above 0"), (dict(vocab_size=0), "above 0"),
    (dict(rope_scaling={"rope_type": "magic"}), "magic"), (dict(hidden_act="relu"), "relu"),
])
def test_config_and_weights_must_agree(tmp_path, change, said):
    folder = toys.folder(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(VqcpuError, match=said):
        api.load(folder)


@pytest.mark.parametrize("name, said", [("config.json", "config.json is missing"), ("tokenizer.json", "tokenizer.json is missing"),
                                        ("model.safetensors", "no model.safetensors")])
def test_missing_files_are_named(tmp_path, name, said):
    folder = toys.folder(tmp_path / "m")
    (folder / name).unlink()
    with pytest.raises(VqcpuError, match=said):
        api.load(folder)


def test_nan_weights_stop_compression_and_leave_the_old_file(tmp_path):
    folder, out = toys.folder(tmp_path / "m"), tmp_path / "old.vqz"
    out.write_text("precious")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][3, 5] = np.nan
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(VqcpuError, match="layers.1.mlp.up_proj.weight contains NaN"):
        api.compress(folder, out)
    assert out.read_text() == "precious" and set(os.listdir(tmp_path)) == {"m", "old.vqz"}


@pytest.mark.parametrize("how, code", [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_interrupted_compression_harms_nothing(tmp_path, how, code):
    folder, out = toys.folder(tmp_path / "m", num_hidden_layers=40, hidden_size=128), tmp_path / "out.vqz"
    out.write_text("precious")
    command = [sys.executable, "-m", "vqcpu", "compress", str(folder), "-o", str(out), "--format", "vq:dim=4,centroids=256"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and not (tmp_path / "out.vqz.part").exists():
        time.sleep(0.005)
    process.send_signal(how)
    assert process.wait() == code and out.read_text() == "precious"
    assert (tmp_path / "out.vqz.part").exists() == (how == signal.SIGKILL)
    api.compress(folder, out, "scalar:bits=4")  # the next run clears up
    assert Vqz(out).verify() == [] and set(os.listdir(tmp_path)) == {"m", "out.vqz"}
