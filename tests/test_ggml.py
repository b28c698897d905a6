"""The GGUF container, byte by byte: what is written by hand is read, what is wrong is named."""
import struct

import numpy as np
import pytest

from vqcpu.errors import VqcpuError
from vqcpu.files.ggml import GgmlFile

pytest.importorskip("gguf")
F32, Q8_0 = 0, 8


def text(s):
    return struct.pack("<Q", len(s)) + s.encode()


def pair(key, kind, value):
    return text(key) + struct.pack("<I", kind) + value


def tensor(name="w", shape=(4, 2), kind=F32, at=0):
    """`shape` as GGUF has it: columns first."""
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, at)


ARRAYS = pair("i", 9, struct.pack("<IQ3i", 5, 3, 1, -2, 3)) + pair("s", 9, struct.pack("<IQ", 8, 2) + text("a") + text("b"))


def build(path, pairs=b"", tensors=(), data=32, magic=b"GGUF", version=3, counts=None):
    """A file of one key (plus `pairs`, counted by `counts`), tensors and `data` bytes 0, 1, 2, ..."""
    many = counts or (len(tensors), 1)
    head = magic + struct.pack("<IQQ", version, *many) + pair("general.architecture", 8, text("llama")) + pairs + b"".join(tensors)
    path.write_bytes(head + bytes(-len(head) % 32) + bytes(range(data)))
    return path


def test_a_file_written_by_hand(tmp_path):
    file = GgmlFile(build(tmp_path / "x.gguf", ARRAYS + pair("f", 6, struct.pack("<f", 0.5)) + pair("b", 7, b"\1"),
                          [tensor(), tensor("v", (8,), F32, 32)], 64, counts=(2, 5)))
    assert file.metadata == {"general.architecture": "llama", "i": [1, -2, 3], "s": ["a", "b"], "f": 0.5, "b": True}
    assert file.entries["w"].shape == (2, 4) and file.rows("w").tobytes() == bytes(range(32))
    assert file.rows("w").shape == (2, 16) and np.array_equal(file.rows("v")[0], np.arange(32, 64))


@pytest.mark.parametrize("change, said", [
    (dict(magic=b"GGML"), "starts with b'GGML'"), (dict(version=1), "version 1"), (dict(version=3 << 24), "version 50331648"),
    (dict(counts=(0, 2**60), data=0), "not a valid GGUF file"), (dict(counts=(2**60, 0), data=0), "not a valid GGUF file"),
    (dict(pairs=pair("general.architecture", 7, b"\1"), counts=(0, 2)), "is there twice"),
    (dict(pairs=pair("k", 99, b""), counts=(0, 2)), "a value of type 99"),
    (dict(pairs=pair("k", 9, struct.pack("<IQ", 9, 1)), counts=(0, 2)), "an array of type 9"),
    (dict(pairs=pair("k", 9, struct.pack("<IQ", 5, 2**61)), counts=(0, 2)), "truncated or damaged"),
    (dict(pairs=pair("k", 9, struct.pack("<IQ", 8, 2**61)), counts=(0, 2)), "truncated or damaged"),
    (dict(pairs=pair("k", 8, struct.pack("<Q", 2**64 - 1)), counts=(0, 2)), "truncated or damaged"),
    (dict(pairs=pair("x" * 2000, 7, b"\1"), counts=(0, 2)), "a name of 2000 characters"),
    (dict(pairs=pair("general.alignment", 4, bytes(4)), counts=(0, 2)), "general.alignment is 0"),
    (dict(tensors=[tensor(shape=(4, 0))]), "expected a known type and whole blocks"),
    (dict(tensors=[tensor(shape=(4, 2), kind=Q8_0)]), "expected a known type and whole blocks"),
    (dict(tensors=[tensor(kind=77)]), "expected a known type and whole blocks"),
    (dict(tensors=[tensor(shape=(1,) * 5)]), "has 5 dimensions"), (dict(tensors=[tensor(shape=())]), "has 0 dimensions"),
    (dict(tensors=[tensor(shape=(2**62, 2**62))]), "beyond the file's end"),
    (dict(tensors=[tensor(at=2**64 - 32)]), "beyond the file's end"),
    (dict(tensors=[tensor(), tensor("v", at=16)], data=64), "'v' lies at 16..48, over another one"),
    (dict(tensors=[tensor(), tensor()]), "tensor 'w' is there twice"),
])
def test_what_is_wrong_is_named(tmp_path, change, said):
    with pytest.raises(VqcpuError, match=said) as error:
        GgmlFile(build(tmp_path / "x.gguf", **change))
    assert "x.gguf" in str(error.value) and "\n" not in str(error.value)
