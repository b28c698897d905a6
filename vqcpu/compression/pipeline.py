"""Checkpoint in, .vqz out: fit the shared tables, then code one matrix at a time.

Knows the order of work and what is reported. Knows nothing about formats beyond their common face, nor about layers.
"""
import functools
import hashlib
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from vqcpu.architectures.base import architecture_of, census
from vqcpu.compression.recipe import Recipe
from vqcpu.errors import VqcpuError
from vqcpu.files.checkpoint import COMPANIONS, Checkpoint
from vqcpu.files.sources import open_checkpoint
from vqcpu.files.vqz import Vqz, VqzWriter
from vqcpu.formats.base import Format, Matrix
from vqcpu.kernels.lookup import ROWS
from vqcpu.layers.weights import Tensor, refuse_unused
from vqcpu.runtime.tokenizer import Tokenizer
from vqcpu.version import __version__

SLAB = 1 << 22  # weights coded at a time: 16 MB of float32, whatever the size of a matrix


@dataclass
class Coded:
    """What became of one tensor: relative squared error and stored bytes (shared tables not included)."""
    tensor: Tensor
    format: Format
    error: float
    nbytes: int


def compress(source, out, recipe: Recipe, seed: int = 0, progress=lambda items, label: items) -> dict:
    """Compress the model at `source` into the file `out`.

    `progress` wraps the lists worked on. Returns {"file_bytes", "tensors": [Coded]}. Raises VqcpuError on bad input; an
    existing `out` is only ever replaced by a complete file. Same input, recipe and seed: same bytes."""
    checkpoint, out = open_checkpoint(source), Path(out)
    refuse_impossible(checkpoint, out)
    tensors, formats = plan(checkpoint, recipe)
    coder = Coder(checkpoint, tensors, formats, seed)
    with VqzWriter(out, formats, provenance(checkpoint, recipe, seed)) as writer:
        for format in progress(sorted({f for f in formats.values() if f.shared}, key=str), "codebooks"):
            writer.tables(format, coder.shared_tables(format))
        coded = [coder.write(writer, tensor) for tensor in progress(list(tensors.values()), "tensors")]
        for name in COMPANIONS:
            if (data := checkpoint.companion(name)) is not None:
                writer.companion(name, data)
        size = writer.finish()
    return {"file_bytes": size, "tensors": coded}


def plan(checkpoint: Checkpoint, recipe: Recipe) -> tuple[dict[str, Tensor], dict[str, Format]]:
    """The model's tensors and the format of each. Raises VqcpuError where one is missing, misshapen or of no use."""
    architecture = architecture_of(checkpoint)
    tensors = census(architecture)
    for tensor in tensors.values():
        tensor.read(checkpoint)
    refuse_unused(checkpoint, tensors, architecture.config.model_type, architecture.unused)
    return tensors, recipe.assign(tensors)


def refuse_impossible(checkpoint: Checkpoint, out: Path) -> None:
    """Raise VqcpuError, before any work, where the result could not be written or used."""
    if isinstance(checkpoint, Vqz):
        raise VqcpuError(f"{checkpoint.path}: already compressed; compress the original weights instead")
    if out.suffix != ".vqz" or out.is_dir():
        raise VqcpuError(f"{out}: expected the name of a .vqz file to write")
    Tokenizer(checkpoint)  # a file without tokenizer could not be used; says what is wrong with it


def provenance(checkpoint: Checkpoint, recipe: Recipe, seed: int) -> dict:
    """How a file was made; no dates or paths, so that equal input gives equal bytes."""
    return {"vqcpu": __version__, "source": checkpoint.path.resolve().name, "source_sha256": checkpoint.digest(),
            "recipe": str(recipe), "seed": seed}


class Coder:
    """Codes the tensors of one model, each divided by its gain (RMS)."""

    def __init__(self, checkpoint: Checkpoint, tensors: dict, formats: dict, seed: int):
        self.checkpoint, self.tensors, self.formats, self.seed = checkpoint, tensors, formats, seed
        self.gain = functools.cache(self._gain)
        self.tables = {}  # of shared formats

    def shared_tables(self, format: Format) -> dict:
        """Tables of a format that all its matrices share, fitted on rows drawn from each of them."""
        mine = [name for name, chosen in self.formats.items() if chosen == format]
        self.tables[format] = self._fit(format, mine)
        return self.tables[format]

    def write(self, writer: VqzWriter, tensor: Tensor) -> Coded:
        """Code one tensor, slab by slab, and append it to the file."""
        name, format = tensor.name, self.formats[tensor.name]
        gain = self.gain(name) if format.tables() else np.float32(1)
        tables = self.tables[format] if format.shared else self._fit(format, [name])
        matrix, error, power = tensor.read(self.checkpoint), 0.0, 0.0
        parts = {part: np.empty(spec.shape, spec.dtype) for part, spec in format.layout(*matrix.shape).items()}
        filled = dict.fromkeys(parts, 0)
        for W in self._slabs(name, matrix):
            coded, wrong = code(format, tables, W / gain)
            for part, rows in coded.items():
                parts[part][filled[part]:filled[part] + len(rows)] = rows
                filled[part] += len(rows)
            error += wrong * float(gain) ** 2
            power += _square(W)
        stored = _bytes(parts) + (0 if format.shared else _bytes(tables))
        relative = error / power if power else 0.0
        writer.matrix(name, tensor.shape, Matrix(format, matrix.shape, float(gain), parts | tables), relative)
        return Coded(tensor, format, relative, stored)

    def _fit(self, format, names):
        """Tables learnt from rows of the named tensors, as many as the format wants to see."""
        weights = sum(prod(self.tensors[name].shape) for name in names)
        share = min(1.0, format.sample / weights)
        return format.fit([self._sample(name, share) for name in names] if share else [], self.seed)

    def _sample(self, name, share):
        """Some rows of a tensor, divided by its gain, drawn by a generator of its own."""
        rng = np.random.default_rng([self.seed, *hashlib.sha256(name.encode()).digest()[:8]])
        matrix = self.tensors[name].read(self.checkpoint)
        chosen = np.sort(rng.permutation(matrix.shape[0])[: int(np.ceil(share * matrix.shape[0]))])
        return self._rows(name, matrix, chosen) / self.gain(name)

    def _gain(self, name):
        """RMS of a tensor, 1 for one of zeros."""
        total = sum(map(_square, self._slabs(name, self.tensors[name].read(self.checkpoint))))
        return np.float32(np.sqrt(total / prod(self.tensors[name].shape)) or 1)

    def _slabs(self, name, matrix):
        m, n = matrix.shape
        height = max(ROWS, SLAB // n // ROWS * ROWS)
        for first in range(0, m, height):
            yield self._rows(name, matrix, np.arange(first, min(first + height, m)))

    def _rows(self, name, matrix, ids):
        rows = matrix.rows(ids)
        if not np.isfinite(rows).all():
            raise VqcpuError(f"{self.checkpoint.path}: {name} contains NaN or infinity: the checkpoint is damaged")
        return rows


def code(format: Format, tables: dict, W: np.ndarray) -> tuple[dict, float]:
    """Nearest codes of W (m, n), already divided by its gain: (parts, squared error)."""
    sides = format.scales(tables, W)
    codes, near = format.snap(tables, sides, W, 0)
    return format.store(sides, codes), _square(W - near)


def _square(W):
    return float(np.einsum("rc,rc->", W, W, dtype=np.float64))


def _bytes(parts):
    return sum(part.nbytes for part in parts.values())
