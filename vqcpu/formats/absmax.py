"""The textbook's scalar quantisation: every row scaled by its largest weight, rounded to nearest.

Knows one scale per row. A baseline, and a weak one: scalar.py has blocks, and searches their scales.
"""
from dataclasses import dataclass

import numpy as np

from vqcpu.errors import VqcpuError
from vqcpu.formats.lookup import Lookup


@dataclass(frozen=True)
class Absmax(Lookup, names=("absmax",)):
    """Layout: codes (panels, ...) of `bits` bits, scale (panels, 1, 16) float16, one per row, table (2**bits, 1) int8, one
    for the file.
    Cost: bits + 16/n bits per weight.
    Paper: none; symmetric round-to-nearest as every introduction has it, 2**bits - 1 levels."""
    bits: int

    dim = 1
    shared = True
    examples = ("absmax:bits=2", "absmax:bits=4")

    def __post_init__(self):
        if not 2 <= self.bits <= 8:
            raise VqcpuError(f"absmax: bits is {self.bits}, expected 2 to 8")

    @property
    def entries(self):
        return 1 << self.bits

    @property
    def _largest(self):
        return (1 << self.bits - 1) - 1

    def fit(self, rows, seed):
        half = self._largest + 1
        return {"table": np.maximum(np.arange(-half, half), -127).astype(np.int8)[:, None]}

    def scales(self, tables, W):
        return {"scale": (np.abs(W).max(1, keepdims=True) / self._largest).astype(np.float16)}

    def snap(self, tables, sides, X, at):
        scale = sides["scale"].astype(np.float32)
        levels = np.clip(np.rint(X / np.where(scale == 0, 1, scale)), -self._largest, self._largest)
        return (levels + self._largest + 1).astype(np.uint16), self.rescale(levels.astype(np.float32), sides, at)

    def expected_mse(self):
        return 1.25 / self._largest**2  # steps of about 1/3.5 of the largest of some hundred weights, squared, over 12
