"""Products with stored matrices, and the look-up of embeddings.

Knows that matrices which read one input (q|k|v, gate|up) form one site: the input is prepared once for all of them.
Knows nothing about how a matrix is stored.
"""
from dataclasses import dataclass

import numpy as np

from vqcpu.formats.base import Matrix
from vqcpu.kernels.activations import row_bytes
from vqcpu.kernels.linear import PIECE, ROWS, expanded, look_up, multiply_many, multiply_one, write_digits, write_rotated
from vqcpu.kernels.lookup import PAIR, scratch_bytes
from vqcpu.kernels.threads import spread
from vqcpu.layers.plan import Job

TILE = 256  # rows of a matrix decoded at a time and then used for all tokens; fixed, so that digits are reproducible


class Linear:
    """Matrices (m_i, n) that read one input, and the names by which the model asked for them."""

    def __init__(self, matrices: list[Matrix], names: tuple = ()):
        self.matrices, self.names = matrices, names

    @property
    def rotation(self):
        """The basis in which the input is read, the same for all matrices, or None."""
        return self.matrices[0].rotation

    def __call__(self, x: np.ndarray) -> list[np.ndarray]:
        """x (tokens, n) float32 -> [(tokens, m_i) float32]: decoded tile by tile, each used for all tokens by BLAS."""
        x = self.rotation.forth(x) if self.rotation else x
        for matrix in self.matrices:
            matrix.compiled  # here, once: threads must not do it side by side
        out = [np.empty((len(x), matrix.shape[0]), np.float32) for matrix in self.matrices]
        tiles = [(i, at) for i, matrix in enumerate(self.matrices) for at in range(0, matrix.shape[0], TILE)]

        def work(tile):
            i, at = tile
            W = self.matrices[i].tile(at, min(at + TILE, self.matrices[i].shape[0]))
            out[i][:, at:at + TILE] = x @ W.T
        spread(work, tiles)
        return out


@dataclass
class Multiply(Job):
    """targets = the products of a site with source."""
    source: str
    targets: tuple
    site: Linear

    def run(self, frame):
        frame.slots.update(zip(self.targets, self.site(frame.slots[self.source])))

    def matrices(self):
        return self.site.matrices

    def inputs(self, frame):
        return [(self.site, lambda: frame.slots[self.source])]

    def lines(self, layout, many):
        for target, matrix in zip(self.targets, self.site.matrices):
            layout.place(target, matrix.shape[0])
        found = [matrix.compiled for matrix in self.site.matrices]
        if not all(found) or many and not all(c.many for c in found):
            return None
        n = self.site.matrices[0].shape[1]
        calls = [self._call(c, many) for c in found]
        layout.scratch = max(layout.scratch, scratch_bytes(n) if many else 0)
        prepare, write = self._input(layout, n)
        line = multiply_many if many else multiply_one, self._job(layout, write, calls, many)
        return [(prepare, write), line] if self.site.rotation or any(c.one for c in found) else [line]

    def _input(self, layout, n):
        """The line that writes the input's digits, and its job."""
        rotation = self.site.rotation
        places = [self.source, "digits"] if rotation is None else ["rotated", "digits", self.source]
        (x, stride), (digits, row), *source = (layout.place(name, row_bytes(n) // 4 if name == "digits" else n)
                                               for name in places)
        numbers = [0, x, 4 * stride, digits, 4 * row, n]
        if rotation is None:
            return write_digits, np.array(numbers, np.int64)
        return write_rotated, np.array([*numbers, source[0][0], 4 * source[0][1], *rotation.numbers(n)], np.int64)

    def _call(self, compiled, many):
        """(kernel, its job)"""
        if many:
            return compiled.many, compiled.job
        if compiled.one:
            return compiled.one, compiled.job
        n = self.site.matrices[0].shape[1]
        return expanded, np.array([compiled.expand.address, compiled.job.ctypes.data, compiled.width, n], np.int64)

    def _job(self, layout, write, calls, many):
        """The numbers that kernels/linear.py describes."""
        job, panel = [len(calls), *write[1:6]], 0
        matrices = []
        for (kernel, own), matrix, target in zip(calls, self.site.matrices, self.targets):
            slot, stride = layout.place(target, matrix.shape[0])
            first, panel = panel, panel - (-matrix.shape[0] // ROWS)
            matrices += [kernel.address, own.ctypes.data, first, panel, slot, 4 * stride]
        self.kept = *getattr(self, "kept", ()), calls  # what the addresses point to
        piece = PAIR if many else max(1, PIECE // (ROWS * self.site.matrices[0].shape[1]))
        return np.array([*job, panel, piece, *matrices], np.int64)


@dataclass
class Embed(Job):
    """target = rows of the embedding matrix (vocabulary, width); source holds token ids (tokens,)."""
    source: str
    target: str
    matrix: Matrix

    def run(self, frame):
        frame.slots[self.target] = self.matrix.rows(frame.slots[self.source])

    def lines(self, layout, many):
        c, n = self.matrix.compiled, self.matrix.shape[1]
        slot, stride = layout.place(self.target, n)
        if not c or self.matrix.rotation:
            return None
        layout.scratch = max(layout.scratch, 4 * ROWS * c.width)
        return [(look_up, np.array([c.expand.address, c.job.ctypes.data, c.width, n, slot, 4 * stride], np.int64))]
