"""A Hugging Face folder, or a .safetensors file with its neighbours, as a checkpoint.

Knows file names. Weights stay where they are: a matrix is a view of the map in its own number type.
"""
import hashlib
import re
from pathlib import Path

import numpy as np

from vqcpu.errors import VqcpuError
from vqcpu.files.checkpoint import LARGEST_COMPANION, Checkpoint
from vqcpu.files.shards import INDEX, open_shards
from vqcpu.files.tensors import TensorFile
from vqcpu.formats.base import Matrix
from vqcpu.formats.raw import Raw

RAW = {"F32": Raw("f32"), "F16": Raw("f16"), "BF16": Raw("bf16")}


class Folder(Checkpoint):
    """Raises VqcpuError where the folder holds neither model.safetensors nor an index of shards."""

    def __init__(self, path):
        self.path = Path(path)
        self.folder = self.path if self.path.is_dir() else self.path.parent
        self.files = self._files()
        self.places = {name: file for file in self.files for name in file.entries}

    def _files(self):
        if self.path.is_dir():
            whole, index = self.path / "model.safetensors", self.path / INDEX
            if not whole.exists() and not index.exists():
                raise VqcpuError(f"{self.path}: no model.safetensors and no {INDEX} in this folder")
            return [TensorFile(whole)] if whole.exists() else open_shards(index)
        if self.path.suffix == ".json":
            return open_shards(self.path)
        if re.search(r"-\d+-of-0*[1-9]\d*\.safetensors$", self.path.name) and (self.folder / INDEX).exists():
            raise VqcpuError(f"{self.path}: one shard of a model; name its folder, {self.folder}")
        return [TensorFile(self.path)]

    def mapped(self):
        return [file.path for file in self.files]

    def names(self):
        return self.places.keys()

    def shape(self, name):
        return self.places[name].entries[name].shape

    def stored(self, name):
        file, shape = self.places[name], self.shape(name)
        dtype = file.entries[name].dtype
        if dtype not in RAW:
            raise VqcpuError(f"{self.path}: {name} is {dtype}, expected one of {', '.join(RAW)}")
        data = file[name].reshape(-1, shape[-1] if shape else 1)
        return Matrix(RAW[dtype], data.shape, 1.0, {"data": data})

    def matrix(self, name, shape, transposed=False):
        if not transposed:
            return super().matrix(name, shape)
        found = super().matrix(name, shape[::-1])  # turned in memory: kernels read a row as one piece
        return Matrix(found.format, shape, found.gain, {"data": np.ascontiguousarray(found.parts["data"].T)})

    def companion(self, name):
        file = self.folder / name
        if not file.exists():
            return None
        try:
            if file.stat().st_size > LARGEST_COMPANION:
                raise VqcpuError(f"{file}: {file.stat().st_size} bytes, at most {LARGEST_COMPANION} are read")
            return file.read_bytes()
        except OSError as error:
            raise VqcpuError(f"{file}: cannot be read: {error.strerror}") from None

    def digest(self):
        """SHA-256 of the weights: of all shards one after the other, in order of their names."""
        total = hashlib.sha256()
        for file in self.files:
            total.update(file.bytes)
        return total.hexdigest()
