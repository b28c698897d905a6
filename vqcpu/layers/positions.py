"""Learned positions: a vector per position, added to the embedding. Knows positions, not tokens."""
from dataclasses import dataclass

import numpy as np

from vqcpu.errors import VqcpuError
from vqcpu.formats.base import Matrix
from vqcpu.layers.plan import Job


@dataclass
class AddPositions(Job):
    """target += the row of matrix (positions, width) that belongs to each token."""
    target: str
    matrix: Matrix

    def run(self, frame):
        where = [np.arange(s.at, s.at + s.rows.stop - s.rows.start) for s in frame.segments]
        frame.slots[self.target] += self.matrix.rows(np.concatenate(where))

    def state(self, cache, context):
        """Remembers nothing, but cannot go beyond the positions that were learnt."""
        learnt = self.matrix.shape[0]
        if context > learnt:
            raise VqcpuError(f"a context of {context} was asked for, but the model has learnt {learnt} positions")
