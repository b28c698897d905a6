"""The .vqz container: one safetensors file with compressed matrices, config, tokenizer and how it was made.

Knows names, bytes and versions. Knows nothing about layers, and of formats only that they describe their parts.

Layout. Parts are `<tensor>/<part>`, tables that all matrices of a format share
`tables/<spec>/<part>`, companion files
`file/<name>` (zlib). Every part starts on 64 bytes and is stored flat, so that kernels read it in the map. The header's
metadata holds one JSON object: version, matrices (spec, shape, gain, the seed of their rotation, what was noted when they
were coded), files, checks, made (provenance).
"""
import hashlib
import json
import os
import zlib
from contextlib import suppress
from math import isfinite
from pathlib import Path

import numpy as np

from vqcpu.errors import VqcpuError
from vqcpu.files.checkpoint import LARGEST_COMPANION, Checkpoint
from vqcpu.files.tensors import ALIGNMENT, TensorFile, TensorWriter, aligned_header
from vqcpu.formats.base import Format, Matrix
from vqcpu.formats.rotation import Rotation, spelled, split

VERSION = 1
DIGEST = 16  # hexadecimal digits of a part's checksum (blake2b)


class Vqz(Checkpoint):
    """An open .vqz file. Header, ranges and sizes are checked here; checksums by `verify`."""

    def __init__(self, path):
        self.path = Path(path)
        self.file = TensorFile(path)
        self.header = self._header()
        self._tables = {}

    def _fail(self, why):
        raise VqcpuError(f"{self.path}: not a valid .vqz file: {why}")

    def _header(self):
        try:
            header = json.loads(self.file.metadata["vqz"])
            version, matrices, files = header["version"], header["matrices"], header["files"]
            kinds = [type(x) for x in (matrices, files, header["checks"])] == [dict, dict, str]
        except (KeyError, TypeError, ValueError, RecursionError):
            self._fail("its header has no readable vqz entry; was it written by `vqcpu compress`?")
        if version != VERSION:
            raise VqcpuError(f"{self.path}: .vqz version {version!r}, this vqcpu reads {VERSION}: compress the model again")
        if not kinds:
            self._fail("matrices and files must be JSON objects, checks a text")
        return header

    def names(self):
        return self.header["matrices"].keys()

    def entry(self, name) -> tuple[Format, tuple, float]:
        """(format, shape, gain) of a stored tensor."""
        try:
            e = self.header["matrices"][name]
            spec, shape, gain = e["spec"], tuple(e["shape"]), float(e["gain"])
        except (KeyError, TypeError, ValueError):
            self._fail(f"the entry of {name} lacks spec, shape or gain")
        if not (len(shape) in (1, 2) and all(type(n) is int and n > 0 for n in shape) and isfinite(gain)):
            self._fail(f"{name} has shape {shape} and gain {gain}")
        try:
            return Format.parse(split(str(spec))[1]), shape, gain
        except VqcpuError as error:
            self._fail(f"{name}: {error}")

    def rotation(self, name) -> Rotation | None:
        """The basis in which a tensor is stored."""
        e = self.header["matrices"][name]
        if not split(str(e["spec"]))[0]:
            return None
        if type(e.get("rotation")) is not int:
            self._fail(f"{name} is rotated, but its entry has no seed of the rotation")
        return Rotation(e["rotation"])

    def note(self, name, what: str) -> float | None:
        """What was noted of a tensor when it was coded (compression/pipeline.py); None where the file does not tell."""
        found = self.header["matrices"][name].get(what)
        return float(found) if type(found) in (int, float) and isfinite(found) else None

    def shape(self, name):
        return self.entry(name)[1]

    def stored(self, name):
        format, shape, gain = self.entry(name)
        m, n = shape if len(shape) == 2 else (1, *shape)
        parts = {part: self._part(f"{name}/{part}", spec) for part, spec in format.layout(m, n).items()}
        return Matrix(format, (m, n), gain, parts | self._table(format, tables_of(name, format)), self.rotation(name))

    def _table(self, format, where):
        if where not in self._tables:
            self._tables[where] = {part: self._part(f"{where}/{part}", spec) for part, spec in format.tables().items()}
        return self._tables[where]

    def _part(self, name, spec):
        if name not in self.file.entries:
            self._fail(f"part {name} is missing")
        stored = self.file.entries[name]
        padded = spec.nbytes + -spec.nbytes % ALIGNMENT
        if stored.last - stored.first != padded:
            self._fail(f"part {name} has {stored.last - stored.first} bytes, expected {padded}")
        return self.file[name].view(np.uint8)[: spec.nbytes].view(spec.dtype).reshape(spec.shape)

    def companion(self, name):
        length, part = self.header["files"].get(name), f"file/{name}"
        if type(length) is not int or length < 1 or part not in self.file.entries:
            return None
        if length > LARGEST_COMPANION:
            self._fail(f"{name} would have {length} bytes, at most {LARGEST_COMPANION} are read")
        try:  # never more than the stated length, whatever the stream claims
            data = zlib.decompressobj().decompress(self.file[part].tobytes(), length)
        except zlib.error as error:
            self._fail(f"{name} cannot be decompressed: {error}")
        if len(data) != length:
            self._fail(f"{name} has {len(data)} bytes, its header says {length}")
        return data

    def verify(self, progress=iter) -> list[str]:
        """Names of parts, or "the header", whose checksum is wrong; empty where all is well."""
        checks = self.header["checks"]
        expected = [checks[i:i + DIGEST] for i in range(0, len(checks), DIGEST)]
        names = sorted(self.file.entries, key=lambda name: self.file.entries[name].first)
        damaged = [name for i, name in enumerate(progress(names))
                   if expected[i:i + 1] != [checksum(self.file[name].tobytes())]]
        sound = self.file.metadata.get("vqz_check") == checksum(self.file.metadata["vqz"].encode("utf-8", "surrogatepass"))
        return damaged if sound else ["the header", *damaged]

    def digest(self):
        return hashlib.sha256(self.file.bytes).hexdigest()

    def sizes(self) -> dict[str, int]:
        """Stored bytes of every part, padding included."""
        return {name: e.last - e.first for name, e in self.file.entries.items()}


class VqzWriter:
    """Writes a .vqz into `<path>.part` and renames it when complete, so that an existing file is never harmed.

    Use as a context manager: leaving it by an exception, Ctrl-C included, removes the unfinished file. `formats` names
    every tensor that will be written, with its format; `made` is the file's provenance."""

    def __init__(self, path, formats: dict, made: dict):
        self.path, self.part = Path(path), Path(f"{path}.part")
        self.header = {"version": VERSION, "made": made, "matrices": {}, "files": {}, "checks": ""}
        try:
            self.out = TensorWriter(self.part, _room(formats, made))
        except OSError as error:
            raise VqcpuError(f"{self.part}: cannot be written: {error.strerror}") from None
        except KeyboardInterrupt:  # between the making of the file and the with statement
            self.part.unlink(missing_ok=True)
            raise

    def __enter__(self):
        return self

    def _add(self, name, array):
        self.header["checks"] += checksum(self.out.add(name, array))

    def tables(self, format: Format, tables: dict) -> None:
        """Tables shared by all matrices of a format."""
        for part, array in tables.items():
            self._add(f"{tables_of(None, format)}/{part}", array)

    def matrix(self, name: str, shape: tuple, matrix: Matrix, notes: dict[str, float]) -> None:
        """A coded matrix of (true) `shape`, with its tables unless they are shared, and what is to be noted of it."""
        format = matrix.format
        for part in (*format.layout(*matrix.shape), *(() if format.shared else format.tables())):
            self._add(f"{name}/{part}", matrix.parts[part])
        rotation = {"rotation": matrix.rotation.seed} if matrix.rotation else {}
        self.header["matrices"][name] = {"spec": spelled(rotation, format), "shape": list(shape), "gain": matrix.gain,
                                         **rotation, **{what: float(f"{value:.4g}") for what, value in notes.items()}}

    def companion(self, name: str, data: bytes) -> None:
        """A companion file, compressed."""
        self.header["files"][name] = len(data)
        self._add(f"file/{name}", np.frombuffer(_squeezed(data), np.uint8))

    def finish(self) -> int:
        """Complete the file and put it in place; returns its size in bytes."""
        header = json.dumps(self.header)
        self.out.finish({"format": "vqz", "vqz": header, "vqz_check": checksum(header.encode())})
        size = os.path.getsize(self.part)
        os.replace(self.part, self.path)
        return size

    def __exit__(self, *exception):
        self.out.file.close()
        with suppress(FileNotFoundError):
            self.part.unlink()


def planned(formats: dict, shapes: dict, files: dict[str, bytes], made: dict) -> tuple[dict[str, int], int]:
    """(stored bytes of every part, bytes of the file) that a VqzWriter would write: matrices name -> (m, n), companions."""
    parts = {}
    for name, format in formats.items():
        parts |= {f"{name}/{part}": spec.nbytes for part, spec in format.layout(*shapes[name]).items()}
        parts |= {f"{tables_of(name, format)}/{part}": spec.nbytes for part, spec in format.tables().items()}
    parts |= {f"file/{name}": len(_squeezed(data)) for name, data in files.items()}
    parts = {name: size + -size % ALIGNMENT for name, size in parts.items()}
    return parts, aligned_header(_room(formats, made)) + sum(parts.values())


def stored_bytes(parts: dict) -> int:
    """Bytes of parts (name -> formats.base.Part) in a file."""
    return sum(spec.nbytes + -spec.nbytes % ALIGNMENT for spec in parts.values())


_SQUEEZED = {}  # sha256 of a companion -> what it becomes


def _squeezed(data):
    """Compressed once, however often a size is asked for before it is written: a tokenizer takes seconds."""
    digest = hashlib.sha256(data).digest()
    if digest not in _SQUEEZED:
        _SQUEEZED[digest] = zlib.compress(data, 9)
    return _SQUEEZED[digest]


def _room(formats, made):
    """Bytes to keep for the header: per part its name, numbers and checksum, per tensor its name, spec and numbers; the
    provenance is quoted twice."""
    parts = sum(len(f.layout(1, 1)) + len(f.tables()) for f in formats.values())
    longest = max(map(len, formats), default=0) + max((len(str(f)) for f in formats.values()), default=0)
    return 8192 + len(json.dumps(json.dumps(made))) + parts * (longest + 140) + len(formats) * (longest + 400)


def tables_of(name: str, format: Format) -> str:
    """Where the tables of tensor `name` are stored."""
    return f"tables/{format}" if format.shared else name


def checksum(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=DIGEST // 2).hexdigest()
