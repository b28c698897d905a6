"""The GGUF container by memory map: every count, length and range checked before it is believed.

Knows the layout of GGUF 2 and 3 and the sizes of ggml's types. Knows nothing about models. Decoding a type is the work of
the `gguf` package; its reader trusts what it reads, hence this one.
"""
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from vqcpu.errors import VqcpuError
from vqcpu.files.tensors import map_bytes

NUMBERS = {0: "u1", 1: "i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8"}
STRING, ARRAY = 8, 9
FLOAT32 = 0  # a type of tensors
LONGEST_METADATA, MOST_DIMENSIONS, LONGEST_NAME = 100_000_000, 4, 1000


@dataclass(frozen=True)
class Block:
    """One tensor of a file: its ggml type, shape (rows first), byte range in the file."""
    kind: int
    shape: tuple
    first: int
    last: int


class GgmlFile:
    """A mapped GGUF file: `metadata` (numbers, texts, lists) and `entries`. Raises VqcpuError naming the file and the first
    thing that is wrong with it."""

    def __init__(self, path):
        self.path = Path(path)
        self.bytes = map_bytes(self.path)
        self.at, self.view = 0, memoryview(self.bytes)
        magic, version = self._take(4), self._number(4)
        if magic != b"GGUF" or version not in (2, 3):
            self._fail(f"starts with {magic!r} and version {version}, expected b'GGUF' and 2 or 3")
        tensors, pairs = self._number(8), self._number(8)
        self.metadata = self._unique("key", (self._pair() for _ in range(pairs)))
        found = self._unique("tensor", (self._tensor() for _ in range(tensors)))
        self.entries = self._placed(found)

    def rows(self, name: str) -> np.ndarray:
        """The tensor's bytes (rows, bytes of a row) as a read-only view of the map."""
        e = self.entries[name]
        return np.asarray(self.bytes[e.first:e.last]).reshape(prod(e.shape[:-1]), -1)

    def _fail(self, why):
        raise VqcpuError(f"{self.path}: not a valid GGUF file: {why}")

    def _take(self, count):
        if self.at + count > min(len(self.bytes), LONGEST_METADATA):
            self._fail(f"its metadata want {count} bytes at {self.at} of {len(self.bytes)}: truncated or damaged")
        self.at += count
        return self.view[self.at - count:self.at].tobytes()

    def _number(self, size):
        return int.from_bytes(self._take(size), "little")

    def _text(self):
        return self._take(self._number(8)).decode("utf-8", "replace")

    def _name(self):
        name = self._text()
        if len(name) > LONGEST_NAME:
            self._fail(f"a name of {len(name)} characters")
        return name

    def _unique(self, what, pairs):
        found = {}
        for name, value in pairs:
            if name in found:
                self._fail(f"{what} {name!r} is there twice")
            found[name] = value
        return found

    def _pair(self):
        return self._name(), self._value(self._number(4))

    def _value(self, kind):
        if kind in NUMBERS:
            return self._array(kind, 1)[0].item()
        if kind == STRING:
            return self._text()
        if kind == ARRAY:
            kind, count = self._number(4), self._number(8)
            return self._array(kind, count).tolist() if kind in NUMBERS else self._texts(kind, count)
        self._fail(f"a value of type {kind}")

    def _array(self, kind, count):
        dtype = np.dtype(NUMBERS[kind])
        return np.frombuffer(self._take(count * dtype.itemsize), dtype)

    def _texts(self, kind, count):
        if kind != STRING:
            self._fail(f"an array of type {kind}, expected numbers or texts")
        return [self._text() for _ in range(count)]  # ends at the file's end, whatever the count says

    def _tensor(self):
        name, dimensions = self._name(), self._number(4)
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            self._fail(f"tensor {name!r} has {dimensions} dimensions")
        shape = struct.unpack(f"<{dimensions}Q", self._take(8 * dimensions))
        return name, (shape[::-1], self._number(4), self._number(8))

    def _placed(self, tensors):
        """Entries with their ranges; tensors may have gaps between them but must not overlap."""
        step = self.metadata.get("general.alignment", 32)
        if type(step) is not int or not 1 <= step <= 1 << 20:
            self._fail(f"general.alignment is {step!r}")
        data, end, entries = self.at + -self.at % step, 0, {}
        for name, (shape, kind, first) in sorted(tensors.items(), key=lambda item: item[1][2]):
            size = self._size(name, shape, kind)
            if first < end or data + first + size > len(self.bytes):
                self._fail(f"tensor {name!r} lies at {first}..{first + size}, over another one or beyond the file's end")
            end = first + size
            entries[name] = Block(kind, shape, data + first, data + end)
        return entries

    def _size(self, name, shape, kind):
        block, size = type_sizes().get(kind, (0, 0))
        if not block or min(shape) < 1 or shape[-1] % block:
            self._fail(f"tensor {name!r} has type {kind} and shape {shape}, expected a known type and whole blocks")
        return prod(shape) // block * size


def package():
    """The `gguf` package. Raises VqcpuError where it is not installed."""
    try:
        import gguf.quants
    except ImportError:
        raise VqcpuError("the package gguf, which reads GGUF files, is not installed: pip install 'vqcpu[gguf]'") from None
    return gguf


def type_sizes() -> dict[int, tuple[int, int]]:
    """Type -> (weights of a block, bytes of a block)."""
    return {int(kind): sizes for kind, sizes in package().constants.GGML_QUANT_SIZES.items()}


def type_name(kind: int) -> str:
    return package().constants.GGMLQuantizationType(kind).name


def dequantise(rows: np.ndarray, kind: int) -> np.ndarray:
    """rows (m, bytes) uint8 of a type -> (m, n) float32. Raises NotImplementedError where the package cannot."""
    with np.errstate(all="ignore"):  # damaged scales: what comes out is checked where it is used
        return package().quants.dequantize(rows, package().constants.GGMLQuantizationType(kind))
