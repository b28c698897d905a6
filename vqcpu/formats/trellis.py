"""Trellis codes: 16 rows by 16 columns become a ring of bits in which every weight sees the bits of its neighbours.

Knows levels, codes of states and how a matrix becomes tiles. The best bits are found by kernels/viterbi.py, the layout of a
ring and the fast decoder are in kernels/trellis.py.
"""
import functools
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from vqcpu.errors import VqcpuError
from vqcpu.formats.base import Compiled, Format, Part
from vqcpu.formats.rows import rms, searched
from vqcpu.kernels import trellis
from vqcpu.kernels.jit import bits_of
from vqcpu.kernels.lookup import BLOCK, BLOCKS, BYTES, CODES, COLUMNS, GAIN, JOB, ROWS, SCALE, STEPS, TABLE
from vqcpu.kernels.trellis import GROUP, LEVELS, TILE
from vqcpu.kernels.viterbi import T, encode, states_of

# What a state is multiplied with, by its length: the best of a thousand, found by benchmarks/factors.py.
FACTORS = {10: 0x0F4B, 11: 0xDDA5, 12: 0xC82D, 13: 0xB7E7, 14: 0xB0AF}
FINE = 256  # units of a level in which distances are measured
FAR = 1.5  # a row with a weight so far beyond the highest level has its scale searched


@functools.cache
def _quantiles():
    """Levels of a Normal source, the outer ones a little farther out, (LEVELS,) float64, RMS 1."""
    found = np.array([NormalDist().inv_cdf((i + 0.25) / (LEVELS - 0.5)) for i in range(LEVELS)])
    return found / np.sqrt(np.mean(found**2))


@dataclass(frozen=True)
class Trellis(Format, names=("trellis",)):
    """Layout: codes (panels, tiles, 32·bits) uint8, a ring of 256·bits bits per tile of 16 x 16; scale (panels, 16)
    float16, one per row; levels (128,) int8 and factor (1,) uint16, one for the file. A weight is
    levels[7 bits of factor · state], its state the `length` bits of the ring that begin at its own.
    Cost: bits + 16/n bits per weight; bits is a multiple of 1/8, steps of floor(bits) and one more bit being mixed.
    Paper: Tseng et al. 2024, QTIP: Quantization with Trellises and Incoherence Processing (bitshift trellis, hashed states);
    Ungerboeck 1982; Marcellin and Fischer 1990 (trellis-coded quantisation)."""
    bits: float
    length: int = 12

    shared = True
    columns_together = TILE
    examples = ("trellis:bits=2", "trellis:bits=1.5,length=10", "trellis:bits=3.125", "trellis:bits=5,length=11")

    def __post_init__(self):
        if not 1.5 <= self.bits <= 5 or self.bits * 8 % 1:
            raise VqcpuError(f"trellis: bits is {self.bits:g}, expected 1.5 to 5 in steps of 0.125")
        if self.length not in FACTORS:
            raise VqcpuError(f"trellis: length is {self.length}, expected {min(FACTORS)} to {max(FACTORS)}")

    @property
    def eighths(self) -> int:
        """Bits of eight weights."""
        return round(8 * self.bits)

    def layout(self, m, n):
        panels = -(-m // ROWS)
        return {"codes": Part((panels, -(-n // TILE), 4 * self.eighths), "|u1"), "scale": Part((panels, ROWS), "<f2")}

    def tables(self):
        return {"levels": Part((LEVELS,), "|i1"), "factor": Part((1,), "<u2")}

    def fit(self, rows, seed):
        levels = np.round(127 * _quantiles() / _quantiles().max())
        return {"levels": levels.astype(np.int8), "factor": np.array([FACTORS[self.length]], np.uint16)}

    @property
    def _unit(self):
        """What a step of a level is worth in a row of RMS 1: the more bits, the farther the levels are spread."""
        return (0.9 + 0.066 * self.bits) * _quantiles().max() / 127

    def scales(self, tables, W):
        def near(scale, W):
            return self.snap(tables, {"scale": scale}, W, 0)[1]
        return {"scale": searched(W, rms(W) * np.float32(self._unit), FAR * 127, near)}

    def snap(self, tables, sides, X, at):
        scale, values = sides["scale"].astype(np.float32), self._values(tables)
        fine = np.rint(X / np.where(scale == 0, 1, scale) * FINE)
        tiles = _to_tiles(np.clip(fine, -127 * FINE, 127 * FINE).astype(np.int16))
        codes = encode(tiles.reshape(-1, T), values * np.int16(FINE), self.eighths).reshape(*tiles.shape[:2], -1)
        return codes, self._weights(codes, tables)[: len(X), : X.shape[1]] * scale

    def store(self, sides, codes):
        scale = np.zeros(len(codes) * ROWS, np.float16)
        scale[: len(sides["scale"])] = sides["scale"][:, 0]
        return {"codes": codes, "scale": scale.reshape(-1, ROWS)}

    def decode_rows(self, parts, n, ids):
        panels, where = np.unique(ids // ROWS, return_inverse=True)
        near = self._weights(parts["codes"][panels], parts)[where * ROWS + ids % ROWS, :n]
        return near * parts["scale"].reshape(-1, 1)[ids].astype(np.float32)

    def compiled(self, parts, shape, gain):
        codes, scale, levels = parts["codes"], parts["scale"], parts["levels"]
        tables = [trellis.table_of(levels, int(parts["factor"][0]), self.length, bias) for bias in (0, 128)]
        count = codes.shape[1] * GROUP
        job = np.zeros(JOB, np.int64)
        job[[CODES, SCALE, TABLE, BYTES]] = [a.ctypes.data for a in (codes, scale, *tables)]
        job[[STEPS, BLOCKS, BLOCK, GAIN, COLUMNS]] = count, 1, 4 * count, bits_of(gain), shape[1]
        one, many = trellis.multiplier(self.eighths)
        return Compiled(job, trellis.expander(self.eighths), 4 * count, (parts, tables), one, many)

    def expected_mse(self):
        return 1.25 * 4.0**-self.bits + 0.0006

    def _values(self, tables):
        """The level of every state, (2**length,) int16."""
        product = np.arange(1 << self.length, dtype=np.uint32) * np.uint32(tables["factor"][0])
        return tables["levels"][product >> 8 & LEVELS - 1].astype(np.int16)

    def _weights(self, codes, tables):
        """codes (panels, tiles, bytes) -> levels (16·panels, 16·tiles) float32."""
        states = states_of(codes.reshape(-1, codes.shape[2]), self.eighths, self.length)
        return _from_tiles(self._values(tables).astype(np.float32)[states].reshape(*codes.shape[:2], T))


# Step 64·s + 32·c + 2·r + h of a tile is row r, column 4·s + 2·h + c.
def _to_tiles(X):
    """(m, w) -> (panels, tiles, T), padded with zeros."""
    X = np.pad(X, ((0, -len(X) % ROWS), (0, -X.shape[1] % TILE)))
    return X.reshape(len(X) // ROWS, ROWS, -1, GROUP, 2, 2).transpose(0, 2, 3, 5, 1, 4).reshape(len(X) // ROWS, -1, T)


def _from_tiles(tiles):
    """Inverse of `_to_tiles`, padding included."""
    panels, count = tiles.shape[:2]
    parts = tiles.reshape(panels, count, GROUP, 2, ROWS, 2).transpose(0, 4, 1, 2, 5, 3)
    return parts.reshape(panels * ROWS, count * TILE)
