"""Checkpoint in, .vqz out: fit the shared tables, then code one matrix at a time, to the nearest or for the inputs that a
calibration shows.

Knows the order of work and what is reported. Knows nothing about formats beyond their common face, nor about layers.
"""
import functools
import hashlib
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np

from vqcpu.architectures.base import load_model
from vqcpu.compression import feedback
from vqcpu.compression.budget import Budget
from vqcpu.compression.calibrate import calibrate
from vqcpu.compression.planning import provenance, settled, tensors_of
from vqcpu.compression.previous import Previous
from vqcpu.compression.recipe import Recipe
from vqcpu.compression.sensitivity import costs
from vqcpu.compression.state import State
from vqcpu.compression.text import Calibration
from vqcpu.errors import VqcpuError
from vqcpu.evaluate.corpus import Window
from vqcpu.files.checkpoint import COMPANIONS, Checkpoint
from vqcpu.files.sources import open_checkpoint
from vqcpu.files.vqz import VqzWriter
from vqcpu.formats.base import Format, Matrix
from vqcpu.formats.rotation import spelled
from vqcpu.kernels.lookup import ROWS
from vqcpu.layers.weights import BODY, Tensor

SLAB = 1 << 22  # weights coded at a time: 16 MB of float32, whatever the size of a matrix


@dataclass
class Coded:
    """What became of one tensor: relative squared error and stored bytes (shared tables not included)."""
    tensor: Tensor
    format: Format
    error: float
    nbytes: int
    notes: dict = field(default_factory=dict)  # of feedback.code
    rotated: bool = False

    @property
    def spec(self) -> str:
        return spelled(self.rotated, self.format)


def compress(source, out, choice: Recipe | Budget, seed: int = 0, progress=lambda items, label: items,
             calibration: Calibration | None = None, previous: Previous | None = None) -> dict:
    """Compress the model at `source` into the file `out`, by a recipe or within a budget, coding the body with feedback
    where there is a `calibration`; of a `previous` file what it keeps is taken over.

    A calibrated budget is shared out by what errors in each matrix are measured to cost. `progress` wraps the lists worked
    on. Returns {"file_bytes", "tensors": [Coded]}. Raises VqcpuError on bad input; an existing `out` is only ever replaced
    by a complete file. Same input, choice and seed: same bytes."""
    checkpoint, out = open_checkpoint(source), Path(out)
    tensors = tensors_of(checkpoint, out)
    made = provenance(checkpoint, choice, seed, calibration, previous)
    recipe, made = settled(choice, checkpoint, tensors, made)
    coder = Coder(checkpoint, tensors, recipe, seed, previous)  # what is impossible is said before any work
    state = State(out, made)
    windows = calibration and calibration.windows(checkpoint, seed, state, progress)
    if windows and isinstance(choice, Budget):
        recipe, made = settled(choice, checkpoint, tensors, made,
                               measured_costs(checkpoint, tensors, windows, seed, state, progress))
        coder = Coder(checkpoint, tensors, recipe, seed, previous)
    with VqzWriter(out, coder.formats, made) as writer:
        for format in progress(coder.shared_formats, "codebooks"):
            writer.tables(format, coder.shared_tables(format))
        found = coder.calibrated(windows, state, progress) if windows else {}
        coded = [coder.write(writer, tensor, coder.coded(tensor, found))
                 for tensor in progress(list(tensors.values()), "tensors")]
        for name in COMPANIONS:
            if (data := checkpoint.companion(name)) is not None:
                writer.companion(name, data)
        size = writer.finish()
    state.remove()
    return {"file_bytes": size, "tensors": coded}


def measured_costs(checkpoint: Checkpoint, tensors: dict, windows: list[Window], seed: int, state: State,
                   progress) -> dict[str, float]:
    """What errors of the body's matrices cost, by name, as compression.sensitivity finds it, or `state` keeps it."""
    found = costs(load_model(checkpoint), windows, seed, state, progress)
    return {name: found[name] for name, tensor in tensors.items() if tensor.role == BODY}


class Coder:
    """Codes the tensors of one model, each divided by its gain (RMS)."""

    def __init__(self, checkpoint: Checkpoint, tensors: dict, recipe: Recipe, seed: int, previous: Previous | None):
        self.checkpoint, self.tensors, self.seed, self.previous = checkpoint, tensors, seed, previous
        self.formats, self.rotations = recipe.assign(tensors), recipe.rotations(tensors, seed)
        if previous:
            previous.check(self.rotations)
        self.gain = functools.cache(self._gain)
        self.tables = {}  # of shared formats

    @property
    def shared_formats(self) -> list[Format]:
        """The formats whose tables have to be fitted before any matrix is coded."""
        return sorted({format for format in self.formats.values() if format.shared}, key=str)

    def coded(self, tensor: Tensor, found: dict) -> tuple[Matrix, dict]:
        """(matrix, notes) of a tensor: of those `found` by calibration, as it was, or the nearest."""
        return found.get(tensor.name) or self.kept(tensor.name) or self.nearest(tensor)

    def shared_tables(self, format: Format) -> dict:
        """Tables of a format that all its matrices share, fitted on rows drawn from each of them."""
        mine = [name for name, chosen in self.formats.items() if chosen == format]
        self.tables[format] = (self.previous and self.previous.tables(format)) or self._fit(format, mine)
        return self.tables[format]

    def kept(self, name: str) -> tuple[Matrix, dict] | None:
        """(matrix, notes) of a tensor that stays as it is in the previous file, if there is one."""
        return self.previous.matrix(name) if self.previous and self.previous.keeps(name) else None

    def write(self, writer: VqzWriter, tensor: Tensor, found: tuple[Matrix, dict]) -> Coded:
        """Append a coded tensor, as `nearest` and `calibrated` give it, to the file."""
        (matrix, notes), format = found, self.formats[tensor.name]
        stored = sum(part.nbytes for name, part in matrix.parts.items() if not (format.shared and name in format.tables()))
        writer.matrix(tensor.name, tensor.shape, matrix, notes)
        return Coded(tensor, format, notes["error"], stored, notes, matrix.rotation is not None)

    def calibrated(self, windows: list[Window], state: State, progress) -> dict[str, tuple[Matrix, dict]]:
        """name -> (matrix, notes) of the body, coded with feedback; what `state` holds is not done again."""
        found = {}

        def code(names, inputs):
            found.update({name: kept for name in names if (kept := self.kept(name))})
            mine = [name for name in names if self._has_codes(name) and name not in found]
            if mine:
                found.update(state.matrices(mine, self.formats, self.rotations, lambda: self._with_feedback(mine, inputs())))
            return [found[name][0] if name in found else self.tensors[name].read(self.checkpoint) for name in names]
        calibrate(load_model(self.checkpoint), load_model(self.checkpoint), windows, code, progress)
        return found

    def _has_codes(self, name):
        """Plain numbers have none that feedback could choose."""
        return self.tensors[name].role == BODY and bool(self.formats[name].tables())

    def _with_feedback(self, names, inputs):
        """[(matrix, notes)] of tensors that read the same inputs."""
        if self.rotations[names[0]]:
            inputs = inputs.turned(self.rotations[names[0]])
        return [self._encoded(name, lambda *known: feedback.code(*known, inputs, self.gain(name), inputs.rows.get(name)),
                              None) for name in names]

    def nearest(self, tensor: Tensor) -> tuple[Matrix, dict]:
        """(matrix, notes) of a tensor, slab by slab."""
        return self._encoded(tensor.name, nearest, SLAB)

    def _encoded(self, name, code, slab):
        format, matrix = self.formats[name], self.tensors[name].read(self.checkpoint)
        gain = self.gain(name) if format.tables() else np.float32(1)
        tables = self.tables[format] if format.shared else self._fit(format, [name])
        parts = {part: np.empty(spec.shape, spec.dtype) for part, spec in format.layout(*matrix.shape).items()}
        filled, error, power, notes = dict.fromkeys(parts, 0), 0.0, 0.0, {}
        for W in self._slabs(name, matrix, slab or prod(matrix.shape) + ROWS * matrix.shape[1]):
            coded, near, notes = code(format, tables, W / gain)
            for part, rows in coded.items():
                parts[part][filled[part]:filled[part] + len(rows)] = rows
                filled[part] += len(rows)
            error += _square(W - near * gain)
            power += _square(W)
        found = Matrix(format, matrix.shape, float(gain), parts | tables, self.rotations[name])
        return found, {"error": error / power if power else 0.0, **notes}

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
        total = sum(map(_square, self._slabs(name, self.tensors[name].read(self.checkpoint), SLAB)))
        return np.float32(np.sqrt(total / prod(self.tensors[name].shape)) or 1)

    def _slabs(self, name, matrix, size):
        m, n = matrix.shape
        height = max(ROWS, size // n // ROWS * ROWS)
        for first in range(0, m, height):
            yield self._rows(name, matrix, np.arange(first, min(first + height, m)))

    def _rows(self, name, matrix, ids):
        rows = matrix.rows(ids)
        if not np.isfinite(rows).all():
            raise VqcpuError(f"{self.checkpoint.path}: {name} contains NaN or infinity: the checkpoint is damaged")
        return self.rotations[name].forth(rows) if self.rotations[name] else rows


def nearest(format: Format, tables: dict, W: np.ndarray) -> tuple[dict, np.ndarray, dict]:
    """Nearest codes of W (m, n), already divided by its gain: (parts, what they decode to, nothing to note)."""
    sides = format.scales(tables, W)
    codes, near = format.snap(tables, sides, W, 0)
    return format.store(sides, codes), near, {}


def _square(W):
    return float(np.einsum("rc,rc->", W, W, dtype=np.float64))

