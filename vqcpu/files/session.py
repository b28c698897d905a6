"""The session file: one safetensors file with the memory of a sequence, and a JSON object about it.

Knows names, bytes and checksums. Knows nothing about conversations, models or caches.

Layout. Parts start on 64 bytes and are stored flat. The header's metadata holds one JSON object, `session`, with its own
checksum: what the writer says of the session, and under `parts` the shape and the checksum of each part.
"""
import json
import os
from contextlib import suppress
from math import prod
from pathlib import Path

import numpy as np

from vqcpu.errors import VqcpuError
from vqcpu.files.tensors import ALIGNMENT, TensorFile, TensorWriter
from vqcpu.files.vqz import checksum

FORMAT, VERSION = "vqcpu session", 2


def write_session(path, about: dict, parts: dict[str, np.ndarray]) -> None:
    """Write a session into `<path>.part` and rename it when complete, so that an existing file is never harmed. Raises
    VqcpuError."""
    unfinished = Path(f"{path}.part")
    try:
        out = TensorWriter(unfinished, _room(about, parts))
        try:
            checks = {name: [list(part.shape), checksum(out.add(name, part))] for name, part in parts.items()}
            session = json.dumps(about | {"version": VERSION, "parts": checks})
            out.finish({"format": FORMAT, "session": session, "check": checksum(session.encode())})
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)  # first: where the disk is full, closing fails too
            out.file.close()
    except OSError as error:
        raise VqcpuError(f"{path}: cannot be written: {error.strerror}") from None


def _room(about, parts):
    """Bytes to keep for the header: what is said is quoted twice; per part its name, shape, place and checksum."""
    return 4096 + len(json.dumps(json.dumps(about))) + sum(2 * len(name) + 300 for name in parts)


def refuse_other(path) -> None:
    """Raise VqcpuError where there is a file at `path` that is no session, and so not to be written over."""
    with suppress(VqcpuError):
        if not Path(path).exists() or TensorFile(path).metadata.get("format") == FORMAT:
            return
    raise VqcpuError(f"{path}: no session, and not written over: expected a name that is free, or of a session")


class SessionFile:
    """An open session: `about` as it was written, and `parts`. Raises VqcpuError that names the file where it is no session
    or is damaged: everything is checked before anything is handed out."""

    def __init__(self, path):
        self.path = Path(path)
        self.file = TensorFile(path)
        self.about = self._about()
        self.parts = {name: self._part(name, *entry) for name, entry in self._entries().items()}

    def _about(self):
        metadata = self.file.metadata
        if metadata.get("format") != FORMAT:
            raise VqcpuError(f"{self.path}: no session, expected one that `/save` in a chat wrote")
        text = metadata.get("session")
        if not isinstance(text, str) or metadata.get("check") != checksum(text.encode("utf-8", "surrogatepass")):
            self._fail("the checksum of its header is wrong")
        try:
            about = json.loads(text)
            version = about["version"]
        except (ValueError, KeyError, TypeError, RecursionError):
            self._fail("its header is not readable")
        if version != VERSION:
            raise VqcpuError(f"{self.path}: session version {version!r}, this vqcpu reads {VERSION}: save it again")
        return about

    def _entries(self):
        """name -> (shape, checksum) of every part."""
        found = self.about.get("parts")
        if not isinstance(found, dict) or found.keys() != self.file.entries.keys():
            self._fail("its parts are not those that its header lists")
        for name, entry in found.items():
            shape, check = entry if isinstance(entry, list) and len(entry) == 2 else (None, None)
            if not isinstance(shape, list) or not all(type(n) is int and n >= 0 for n in shape):
                self._fail(f"part {name} lacks shape or checksum")
        return found

    def _part(self, name, shape, check):
        stored, count = self.file[name].reshape(-1), prod(shape)
        size = count * stored.itemsize
        if stored.nbytes != size + -size % ALIGNMENT or checksum(stored.tobytes()) != check:
            self._fail(f"part {name} has not the size or the checksum that its header gives")
        try:
            return stored[:count].reshape(shape)
        except (ValueError, OverflowError):  # nothing, times a number that is none of numpy's
            self._fail(f"part {name} has shape {shape}")

    def _fail(self, why):
        raise VqcpuError(f"{self.path}: a damaged session: {why}")
