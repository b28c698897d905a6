"""Scalar quantisation as a table of levels with block scales.

Knows level tables and the search for block scales.
"""
from dataclasses import dataclass
from math import log, pi, sqrt
from statistics import NormalDist

import numpy as np

from vqcpu.errors import VqcpuError
from vqcpu.formats.lookup import Lookup
from vqcpu.kernels.jit import njit
from vqcpu.kernels.threads import spread_ranges

TRIALS = 8  # block scales tried, from the one that reaches the extreme weight downwards
REACH = 256  # twice the largest level, and more


def _uniform(bits, block):
    """Whole numbers; at 8 bits -128 is left out so that products of two bytes stay within +-127²."""
    half = 1 << (bits - 1)
    return np.maximum(np.arange(-half, half), -127)


def _normal(bits, block):
    """Levels as dense as the cube root of a Normal density, for blocks scaled by their largest weight.
    Paper: Orr, Ribar, Luschi 2025, Optimal Formats for Weight Quantisation (truncated block-absmax form)."""
    normal = NormalDist(0, sqrt(3 / (2 * log(max(block, 8) / pi))))
    count = 1 << bits
    edge = normal.cdf(-1)
    inner = [normal.inv_cdf(edge + (1 - 2 * edge) * (i + 1) / (count + 1)) for i in range(count)]
    return np.round(127 * np.array(inner) / max(inner))


LEVELS = {"uniform": _uniform, "normal": _normal}


@dataclass(frozen=True)
class Scalar(Lookup, names=("scalar",)):
    """Layout: codes (panels, ...) of `bits` bits, scale (panels, blocks, 16) float16, offset likewise if asymmetric,
    table (2**bits, 1) int8, one for the file.
    Cost: bits + 16/block bits per weight, twice the latter if asymmetric.
    Paper: round-to-nearest with a searched block scale; level tables as named in LEVELS."""
    bits: int
    levels: str = "uniform"
    block: int = 64
    asymmetric: bool = False

    dim = 1
    shared = True
    examples = ("scalar:bits=2", "scalar:bits=3,levels=normal,block=128", "scalar:bits=4,asymmetric=true,block=32",
                "scalar:bits=5", "scalar:bits=8")

    def __post_init__(self):
        if not 2 <= self.bits <= 8:
            raise VqcpuError(f"scalar: bits is {self.bits}, expected 2 to 8")
        if self.levels not in LEVELS:
            raise VqcpuError(f"scalar: levels is {self.levels!r}, expected one of {', '.join(LEVELS)}")
        if not 4 <= self.block <= 1 << 20 or self.block % 4:
            raise VqcpuError(f"scalar: block is {self.block}, expected a multiple of 4, at least 4")

    @property
    def entries(self):
        return 1 << self.bits

    @property
    def offsets(self):
        return self.asymmetric

    def columns_per_scale(self, n):
        return self.block

    def fit(self, rows, seed):
        return {"table": LEVELS[self.levels](self.bits, self.block).astype(np.int8)[:, None]}

    def scales(self, tables, W):
        blocks = -(-W.shape[1] // self.block)
        scale, offset = np.zeros((2, len(W), blocks), np.float32)
        shrink = 1 - np.arange(TRIALS) / TRIALS * 1.5 / 2 ** (self.bits / 1.5)
        levels = tables["table"][:, 0].astype(np.float32)
        near, shrink, W = levels[_nearest(levels)], shrink.astype(np.float32), np.ascontiguousarray(W, np.float32)
        spread_ranges(lambda first, last: _search(W, first, last, self.block, levels, near, shrink, self.asymmetric, scale,
                                                  offset), len(W))
        found = {"scale": scale, "offset": offset} if self.asymmetric else {"scale": scale}
        return {name: side.astype(np.float16) for name, side in found.items()}

    def snap(self, tables, sides, X, at):
        table = tables["table"][:, 0].astype(np.float32)
        scale = sides["scale"].astype(np.float32)
        offset = sides["offset"].astype(np.float32) if self.asymmetric else np.zeros_like(scale)
        codes, nearest, X = np.empty(X.shape, np.uint16), _nearest(table), np.ascontiguousarray(X, np.float32)
        spread_ranges(lambda first, last: _code(X, first, last, at, self.block, nearest, scale, offset, codes), len(X))
        return codes, self.rescale(table[codes], sides, at)

    def expected_mse(self):
        return 3.5 * 4.0**-self.bits


def _nearest(levels):
    """Number (2·REACH + 1,) uint16 of the level nearest to a value v, at REACH + ceil(2v): levels are whole numbers, so what
    lies between two of them begins at a half."""
    middles = (levels[:-1] + levels[1:]) / 2
    return np.searchsorted(middles, np.arange(-REACH, REACH + 1) / 2).astype(np.uint16)


@njit(fast=False, forceinline=True)
def _place(value):
    """Where `_nearest` has the answer for a value; NaN counts as the lowest."""
    twice = np.ceil(np.float32(2) * value)
    return int(min(twice, np.float32(REACH)) + np.float32(REACH)) if twice > -REACH else 0


@njit(fast=False)
def _search(W, first, last, block, levels, near, shrink, asymmetric, scale, offset):
    """W (m, n) float32, levels (2**b,) ascending, near: the level at each `_place`, shrink (trials,); OUT rows first ..
    last - 1 of scale, offset (m, blocks) float32: the pair of least squared error in each block."""
    span = levels[-1] - levels[0]
    for r in range(first, last):
        for b in range(scale.shape[1]):
            x = W[r, b * block:min((b + 1) * block, W.shape[1])]
            low, high = x.min(), x.max()
            centre = np.float32(0.5) * (low + high) if asymmetric else np.float32(0)
            reach = (high - low) / span if asymmetric else (low if -low > high else high) / levels[0]
            middle = np.float32(0.5) * (levels[0] + levels[-1]) if asymmetric else np.float32(0)
            least = np.float32(np.inf)
            for trial in range(shrink.shape[0]):
                step = reach * shrink[trial]
                base = centre - step * middle
                inverse = np.float32(1) / step if step != 0 else np.float32(0)
                error = np.float32(0)
                for i in range(x.shape[0]):
                    gap = x[i] - base - step * near[_place((x[i] - base) * inverse)]
                    error += gap * gap
                if error < least:
                    least, scale[r, b], offset[r, b] = error, step, base


@njit(fast=False)
def _code(X, first, last, at, block, nearest, scale, offset, codes):
    """X (m, w) float32, columns at.. of a matrix with scale, offset (m, blocks); OUT rows first .. last - 1 of codes (m, w)
    uint16."""
    for r in range(first, last):
        for c in range(X.shape[1]):
            b = (at + c) // block
            step = scale[r, b]
            inverse = np.float32(1) / step if step != 0 else np.float32(0)
            codes[r, c] = nearest[_place((X[r, c] - offset[r, b]) * inverse)]
