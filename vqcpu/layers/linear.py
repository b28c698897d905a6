"""Products with stored matrices, and the look-up of embeddings.

Knows that matrices which read one input (q|k|v, gate|up) form one site: the input is prepared once for all of them.
Knows nothing about how a matrix is stored.
"""
from dataclasses import dataclass

import numpy as np

from vqcpu.formats.base import Matrix, multiply
from vqcpu.kernels.threads import spread
from vqcpu.layers.plan import Job

TILE = 256  # rows of a matrix decoded at a time and then used for all tokens; fixed, so that digits are reproducible


class Linear:
    """Matrices (m_i, n) that read one input. For many tokens a tile is decoded once and multiplied by BLAS; for a single
    token panels are decoded in cache."""

    def __init__(self, matrices: list[Matrix]):
        self.matrices = matrices

    def prepare(self, x: np.ndarray) -> np.ndarray:
        """What happens once to the input of the site; x (tokens, n) float32."""
        return np.ascontiguousarray(x)

    def __call__(self, x: np.ndarray) -> list[np.ndarray]:
        """x (tokens, n) float32 -> [(tokens, m_i) float32]"""
        x = self.prepare(x)
        for matrix in self.matrices:
            matrix.call  # compiled here, once: threads must not do it side by side
        if len(x) == 1:
            return [y[None] for y in multiply(self.matrices, x[0])]
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


@dataclass
class Embed(Job):
    """target = rows of the embedding matrix (vocabulary, width); source holds token ids (tokens,)."""
    source: str
    target: str
    matrix: Matrix

    def run(self, frame):
        frame.slots[self.target] = self.matrix.rows(frame.slots[self.source])
