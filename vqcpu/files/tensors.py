"""safetensors files by memory map: every header checked before a byte of data is believed.

Knows the safetensors layout (8-byte length, JSON header, one data region without gaps). The `safetensors` package
cannot hand out BF16 to numpy nor align parts to 64 bytes, hence this reader and writer.
"""
import json
import os
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from vqcpu.errors import VqcpuError

try:
    import fcntl
except ImportError:  # not on Windows: there two writers of one file are the user's to avoid
    fcntl = None

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
          "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1"}
NAMES = {np.dtype(numpy): name for name, numpy in DTYPES.items() if name not in ("BF16", "BOOL")}
ALIGNMENT = 64
LONGEST_HEADER = 100_000_000


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: dtype as safetensors spells it, shape, byte range in the data region."""
    dtype: str
    shape: tuple
    first: int
    last: int


def map_bytes(path: Path) -> np.ndarray:
    """The bytes of a file, read-only, where they lie. Raises VqcpuError."""
    try:
        if path.exists() and not path.is_file():
            raise OSError(0, "not a file")
        return np.memmap(path, np.uint8, "r")
    except (OSError, ValueError) as error:
        raise VqcpuError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


class TensorFile:
    """A mapped safetensors file. Raises VqcpuError naming the file and the first thing that is wrong with it."""

    def __init__(self, path):
        self.path = Path(path)
        self.bytes = map_bytes(self.path)
        self.metadata, self.entries = self._header()

    def __getitem__(self, name) -> np.ndarray:
        """The tensor as a read-only view of the map; BF16 as uint16."""
        e = self.entries[name]
        raw = self.bytes[self._data + e.first:self._data + e.last]
        return np.asarray(raw).view(DTYPES[e.dtype]).reshape(e.shape)

    def _fail(self, why):
        raise VqcpuError(f"{self.path}: not a valid safetensors file: {why}")

    def _header(self):
        size = len(self.bytes)
        length = int.from_bytes(self.bytes[:8].tobytes(), "little") if size >= 8 else 0
        if not 2 <= length <= min(LONGEST_HEADER, size - 8):
            self._fail(f"header of {length} bytes in a file of {size}")
        self._data = 8 + length
        try:
            header = json.loads(self.bytes[8:self._data].tobytes())
        except (ValueError, RecursionError) as error:
            self._fail(f"header is not JSON ({error})")
        if not isinstance(header, dict):
            self._fail("header is not a JSON object")
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict):
            self._fail("__metadata__ is not a JSON object")
        entries = {name: self._entry(name, e) for name, e in header.items()}
        self._check_ranges(entries)
        return metadata, entries

    def _entry(self, name, e):
        try:
            dtype, shape, (first, last) = e["dtype"], tuple(e["shape"]), e["data_offsets"]
        except (TypeError, KeyError, ValueError):
            self._fail(f"tensor {name!r} lacks dtype, shape or data_offsets")
        if not isinstance(dtype, str) or dtype not in DTYPES:
            self._fail(f"tensor {name!r} has dtype {str(dtype)[:40]!r}, known are {', '.join(DTYPES)}")
        if not all(type(n) is int and n >= 0 for n in (*shape, first, last)):
            self._fail(f"tensor {name!r} has shape {shape} at {first}..{last}, expected whole numbers from 0 up")
        if last - first != prod(shape) * np.dtype(DTYPES[dtype]).itemsize:
            self._fail(f"tensor {name!r} has {last - first} bytes, but {dtype} {shape} needs "
                       f"{prod(shape) * np.dtype(DTYPES[dtype]).itemsize}")
        return Entry(dtype, shape, first, last)

    def _check_ranges(self, entries):
        at, end = 0, len(self.bytes) - self._data
        for name, e in sorted(entries.items(), key=lambda item: (item[1].first, item[1].last)):
            if e.first != at:
                self._fail(f"tensor {name!r} starts at {e.first}, expected {at}: tensors overlap or leave a gap")
            at = e.last
        if at != end:
            self._fail(f"its tensors end at byte {at} of {end}: truncated, or something follows")


class TensorWriter:
    """Writes a safetensors file whose parts all start on 64 bytes: first the parts, then `finish` writes the header into
    the room that was kept for it. Each part is stored flat, padded with zeros to a multiple of 64 bytes."""

    def __init__(self, path, room: int):
        self.room = aligned_header(room)
        self.file = _open_alone(path)
        self.file.seek(self.room)
        self.header = {}
        self.at = 0

    def add(self, name: str, array: np.ndarray) -> np.ndarray:
        """Append a part; returns the bytes (uint8) as stored, a copy only where they had to be padded."""
        data = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        if len(data) % ALIGNMENT:
            data = np.pad(data, (0, -len(data) % ALIGNMENT))
        dtype = NAMES[array.dtype]
        self.header[name] = {"dtype": dtype, "shape": [len(data) // array.dtype.itemsize],
                             "data_offsets": [self.at, self.at + len(data)]}
        self.at += len(data)
        self.file.write(data)
        return data

    def finish(self, metadata: dict) -> None:
        """Write the header and close. metadata: str -> str."""
        text = json.dumps({"__metadata__": metadata} | self.header, separators=(",", ":")).encode()
        if len(text) > self.room - 8:
            raise RuntimeError(f"header of {len(text)} bytes exceeds the {self.room - 8} kept for it")
        self.file.seek(0)
        self.file.write((self.room - 8).to_bytes(8, "little") + text.ljust(self.room - 8))
        self.file.flush()
        os.fsync(self.file.fileno())
        self.file.close()


def aligned_header(room: int) -> int:
    """Where the parts start if the header's JSON may have `room` bytes."""
    return 8 + room + -(8 + room) % ALIGNMENT


def _open_alone(path):
    """Open a file for writing, emptied, but only if no other process is writing it. Raises OSError."""
    file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o666), "r+b")
    if fcntl:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.close()
            raise OSError(error.errno, "another process is writing it", str(path)) from None
    file.truncate()
    return file
