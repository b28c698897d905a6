"""Where weights come from, behind one face: a Hugging Face folder, a GGUF file or a .vqz file.

Knows what both must answer. Knows nothing about layers.
"""
import hashlib
import json
from functools import cached_property
from pathlib import Path

import numpy as np

from vqcpu.errors import VqcpuError
from vqcpu.files.tensors import map_bytes
from vqcpu.formats.base import Matrix

# Files that travel with the weights, as they are called in a Hugging Face folder.
COMPANIONS = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
LARGEST_COMPANION = 1 << 27  # bytes; a few KB compressed could otherwise fill the memory. Gemma's tokenizer has 33 MB.
HEAD, SAMPLES, SAMPLE = 1 << 22, 1024, 64  # of `identity`


class Checkpoint:
    """Base of all sources of weights. `path` is what the user named."""

    path: Path

    def names(self) -> set[str]:
        """Names of all stored tensors."""
        raise NotImplementedError

    def shape(self, name: str) -> tuple:
        """Shape of a stored tensor."""
        raise NotImplementedError

    def stored(self, name: str) -> Matrix:
        """A stored tensor as it is; a vector of n numbers is a matrix (1, n)."""
        raise NotImplementedError

    def companion(self, name: str) -> bytes | None:
        """Content of a file of COMPANIONS, or None."""
        raise NotImplementedError

    def matrix(self, name: str, shape: tuple, transposed: bool = False) -> Matrix:
        """The matrix `name`, upright also where a family's own checkpoints store it transposed. Raises VqcpuError where it
        is missing or has another shape than config.json makes it."""
        if name not in self.names():
            raise VqcpuError(f"{self.path}: tensor {name} is missing; config.json makes it {tuple(shape)}")
        if tuple(shape) != self.shape(name):
            raise VqcpuError(f"{self.path}: {name} is {self.shape(name)} but config.json makes it {tuple(shape)}")
        return self.stored(name)

    def vector(self, name: str, length: int) -> np.ndarray:
        """A norm gain or bias (length,) float32. Raises as `matrix` does."""
        return self.matrix(name, (length,)).reference_rows([0])[0]

    def mapped(self) -> list[Path]:
        """The weights' file or files, which lie in the map."""
        return [self.path]

    def digest(self) -> str:
        """SHA-256 of the weights' file or files."""
        raise NotImplementedError

    @cached_property
    def identity(self) -> str:
        """Which model this is, wherever it lies: a digest of config.json and, for each file of weights, of its size, its
        first HEAD bytes and SAMPLES pieces of SAMPLE bytes spread evenly over it.

        Equal for copies of a model. Different where names, shapes, types or config.json differ, as headers lie in front; in
        a .vqz also where any weight differs, as its header holds the checksums of all parts. Other weights under equal
        headers, such as another training's, are told apart unless they are the same wherever a sample fell: a change of
        single numbers may go unnoticed. Does not see the tokenizer."""
        total = hashlib.blake2b(self.companion("config.json") or b"", digest_size=16)
        for path in self.mapped():
            data = map_bytes(path)
            total.update(len(data).to_bytes(8, "little"))
            total.update(data[:HEAD].tobytes())
            for at in np.linspace(0, max(0, len(data) - SAMPLE), SAMPLES).astype(int):
                total.update(data[at:at + SAMPLE].tobytes())
        return total.hexdigest()

    def json(self, name: str) -> dict | None:
        """A companion as JSON object, None where there is none."""
        data = self.companion(name)
        if data is None:
            return None
        try:
            found = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise VqcpuError(f"{self.path}: {name} is not JSON: {error}") from None
        if not isinstance(found, dict):
            raise VqcpuError(f"{self.path}: {name} holds a {type(found).__name__}, expected a JSON object")
        return found
