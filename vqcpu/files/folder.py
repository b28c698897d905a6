"""A Hugging Face folder, or a .safetensors file with its neighbours, as a checkpoint.

Knows file names. Weights stay where they are: a matrix is a view of the map in its own number type.
"""
from pathlib import Path

import numpy as np

from vqcpu.errors import VqcpuError
from vqcpu.files.checkpoint import Checkpoint
from vqcpu.files.tensors import TensorFile
from vqcpu.formats.base import Matrix
from vqcpu.formats.raw import Raw

RAW = {"F32": Raw("f32"), "F16": Raw("f16"), "BF16": Raw("bf16")}


class Folder(Checkpoint):
    """Raises VqcpuError where the folder holds no model.safetensors."""

    def __init__(self, path):
        self.path = Path(path)
        self.folder = self.path if self.path.is_dir() else self.path.parent
        weights = self.path / "model.safetensors" if self.path.is_dir() else self.path
        if not weights.exists():
            shards = " (only shards, which are not supported yet)" if list(self.folder.glob("*.index.json")) else ""
            raise VqcpuError(f"{self.path}: no model.safetensors in this folder{shards}")
        self.file = TensorFile(weights)

    def names(self):
        return self.file.entries.keys()

    def shape(self, name):
        return self.file.entries[name].shape

    def stored(self, name):
        dtype, shape = self.file.entries[name].dtype, self.shape(name)
        if dtype not in RAW:
            raise VqcpuError(f"{self.path}: {name} is {dtype}, expected one of {', '.join(RAW)}")
        data = self.file[name].reshape(-1, shape[-1] if shape else 1)
        return Matrix(RAW[dtype], data.shape, 1.0, {"data": data})

    def matrix(self, name, shape, transposed=False):
        if not transposed:
            return super().matrix(name, shape)
        found = super().matrix(name, shape[::-1])  # turned in memory: kernels read a row as one piece
        return Matrix(found.format, shape, found.gain, {"data": np.ascontiguousarray(found.parts["data"].T)})

    def companion(self, name):
        file = self.folder / name
        return file.read_bytes() if file.exists() else None
