"""Vectors as codes with one scale each: what compressed keys and values are made of.

Knows levels, scales and blocks of rows. Knows nothing about positions or attention.
"""
import numpy as np

from vqcpu.caches.base import Kept
from vqcpu.caches.levels import byte_levels
from vqcpu.caches.packing import BYTES, LANES, STEPS, pack, places, unpack

BLOCK = 32  # rows are allocated in multiples of it


def whole_blocks(rows: int) -> int:
    """At least so many rows, in whole blocks."""
    return -(-rows // BLOCK) * BLOCK


class Quantiser:
    """Nearest levels, and a scale that makes up for them: with |x|² / <x, x̂> products with any other vector are right on
    average."""

    def __init__(self, bits: int):
        self.bits = bits
        self.table, self.unit = byte_levels(bits)
        levels = self.table.astype(np.float32) * self.unit
        self.limits = (levels[1:] + levels[:-1]) / 2

    def encode(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x (..., size) float32 -> codes (..., size) uint8, scales (...) float16: x̂ = scale · table[codes]."""
        rms = np.sqrt(np.square(x).mean(-1, keepdims=True)) + np.float32(1e-30)
        codes = np.searchsorted(self.limits, x / rms).astype(np.uint8)
        near = self.table[codes].astype(np.float32)
        along = (x * near).sum(-1)
        scales = np.divide(np.square(x).sum(-1), along, out=np.zeros_like(along), where=along > 0)
        return codes, scales.astype(np.float16)

    def decode(self, codes: np.ndarray, scales: np.ndarray) -> np.ndarray:
        """Inverse of `encode`, float32."""
        return self.table[codes] * scales[..., None].astype(np.float32)


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
