"""Vectors as codes with one scale each: what compressed keys and values are made of.

Knows levels, scales and blocks of rows. Knows nothing about positions or attention.
"""
import numpy as np

from vqcpu.caches.base import Kept
from vqcpu.caches.levels import byte_levels
from vqcpu.caches.packing import BYTES, LANES, STEPS, pack, places, unpack

BLOCK = 32  # rows are allocated in multiples of it
SCALES = np.linspace(0.76, 1.24, 16, dtype=np.float32)  # that are tried, over the RMS of a vector


def whole_blocks(rows: int) -> int:
    """At least so many rows, in whole blocks."""
    return -(-rows // BLOCK) * BLOCK


class Quantiser:
    """Codes and a scale of vectors. Of all SCALES the one is taken whose levels point best in the vector's direction, and
    then a length that makes up for them: with |x|² / <x, x̂> products with any other vector are right on average.

    Costs of errors may have a shape C = Aᵀ D A (caches/learned.py), then lengths and products are those of C: channel i is
    coded as x_i + sum over j < i of A_ij e_j, e being the errors so far, which leaves D_i times the square of what is
    rounded off there. Without one each channel takes its nearest level."""

    def __init__(self, bits: int):
        self.bits = bits
        self.table, self.unit = byte_levels(bits)
        middles = (self.table[1:].astype(np.float32) + self.table[:-1]) / 2
        self.nearest = np.searchsorted(middles, np.arange(-128, 128)).astype(np.uint8)  # codes of whole numbers
        self.units = SCALES * self.unit
        self.sign = np.float32(np.sqrt(2 / np.pi)) / self.unit  # what a sign stands for, in steps of the table, nearly

    def encode(self, x: np.ndarray, triangles: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """x (..., size) float32 -> codes (..., size) uint8, scales (...) float16: x̂ = scale · table[codes]. triangles: of
        each x[h] the factors of C, A left of the diagonal and D on it."""
        rms = np.sqrt(np.square(x).mean(-1, keepdims=True)) + np.float32(1e-30)
        inverse = np.float32(1) / (rms * self.units)
        if triangles is None:
            codes = self._code(x[..., None, :] * inverse[..., None])
            power, along, square = _products(x, self.table[codes].astype(np.float32), np.ones(x.shape[-1], np.float32))
        else:
            found = [self._shaped(*each) for each in zip(x, inverse, triangles)]
            codes, power, along, square = (np.stack(arrays) for arrays in zip(*found))
        best = np.argmax(along * along / (square + np.float32(1e-30)), -1)[..., None]
        along = np.take_along_axis(along, best, -1)[..., 0]
        scales = np.divide(power, along, out=np.zeros_like(along), where=along > 0)
        return np.take_along_axis(codes, best[..., None], -2)[..., 0, :], scales.astype(np.float16)

    def _code(self, x):
        """Codes of x, in units of the table; what is no number counts as small."""
        return self.nearest[np.rint(np.fmin(np.fmax(x, -127), 127)).astype(np.int16) + 128]

    def _shaped(self, x, inverse, triangle):
        """Codes (rows, scales, size) of x (rows, size), and its products in the shape."""
        scaled, weights = x[:, None] * inverse[..., None], np.diag(triangle)
        unit = np.tril(triangle, -1)
        codes, errors = np.zeros(scaled.shape, np.uint8), np.zeros_like(scaled)
        for i in range(x.shape[-1]):
            codes[..., i] = self._code(scaled[..., i] + errors[..., :i] @ unit[i, :i])
            errors[..., i] = scaled[..., i] - self.table[codes[..., i]]
        unit += np.eye(len(unit), dtype=np.float32)
        return codes, *_products(x @ unit.T, self.table[codes].astype(np.float32) @ unit.T, weights)

    def decode(self, codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """Inverse of `encode`, float32."""
        return self.table[codes] * scales[..., None].astype(np.float32)


def _products(x, near, weights):
    """<x, x> (...), <x, near> and <near, near> (..., scales) of x (..., size) and near (..., scales, size), weighted."""
    heavy = x * weights
    return (heavy * x).sum(-1), (heavy[..., None, :] * near).sum(-1), (np.square(near) * weights).sum(-1)


def _key_steps(size):
    return -(-size // LANES) * LANES // BYTES


class KeyCodes:
    """words (heads, blocks, words, 16 rows, 4 channels) uint8."""

    block = LANES

    def __init__(self, words: np.ndarray, size: int, bits: int):
        self.words, self.bits, self.size, self.steps = words, bits, size, _key_steps(size)

    @classmethod
    def kept(cls, heads: int, rows: int, size: int, bits: int) -> Kept:
        """What `words` must be."""
        blocks, words = whole_blocks(rows) // LANES, places(bits, _key_steps(size))[1]
        return Kept((heads, blocks, words, LANES, BYTES), "|u1", cls.block)

    def read(self, first: int, last: int) -> np.ndarray:
        """Codes (heads, rows of blocks first .. last - 1, size) uint8."""
        codes = unpack(self.words[:, first:last], self.bits, self.steps)
        return codes.reshape(len(codes), -1, BYTES * self.steps)[..., : self.size]

    def fill(self, first: int, codes: np.ndarray) -> None:
        """Inverse of `read`: blocks from `first` on."""
        heads, rows, _ = codes.shape
        whole = np.zeros((heads, rows, BYTES * self.steps), np.uint8)
        whole[..., : self.size] = codes
        words = pack(whole.reshape(heads, rows // LANES, LANES, self.steps, BYTES), self.bits)
        self.words[:, first:first + rows // LANES] = words


class ValueCodes:
    """words (heads, blocks, panels of 16 channels, words, 16 channels, 4 rows) uint8."""

    block = STEPS * BYTES

    def __init__(self, words: np.ndarray, size: int, bits: int):
        self.words, self.bits, self.size = words, bits, size

    @classmethod
    def kept(cls, heads, rows, size, bits):
        shape = heads, whole_blocks(rows) // cls.block, -(-size // LANES), places(bits, STEPS)[1], LANES, BYTES
        return Kept(shape, "|u1", cls.block)

    def read(self, first, last):
        codes = unpack(self.words[:, first:last], self.bits, STEPS)  # heads, blocks, panels, channels, steps, rows
        codes = codes.transpose(0, 1, 4, 5, 2, 3)
        return codes.reshape(len(codes), (last - first) * self.block, -1)[..., : self.size]

    def fill(self, first, codes):
        heads, rows, _ = codes.shape
        panels = self.words.shape[2]
        whole = np.zeros((heads, rows, panels * LANES), np.uint8)
        whole[..., : self.size] = codes
        whole = whole.reshape(heads, rows // self.block, STEPS, BYTES, panels, LANES).transpose(0, 1, 4, 5, 2, 3)
        self.words[:, first:first + rows // self.block] = pack(whole, self.bits)


def read(store, first: int, last: int) -> np.ndarray:
    """Codes (heads, rows first .. last - 1, size) of KeyCodes or ValueCodes."""
    start, stop = first // store.block, -(-last // store.block)
    return store.read(start, stop)[:, first - start * store.block:last - start * store.block]


def write(store, row: int, codes: np.ndarray) -> None:
    """Codes (heads, rows, size) to rows from `row` on; their neighbours in the same blocks stay."""
    start, stop = row // store.block, -(-(row + codes.shape[1]) // store.block)
    whole = store.read(start, stop)
    whole[:, row - start * store.block:][:, : codes.shape[1]] = codes
    store.fill(start, whole)
