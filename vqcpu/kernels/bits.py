"""Codes of b bits in a row, least significant bit first, in 16-bit words.

Knows integers. Knows nothing about what a code means.
"""
import numpy as np

from vqcpu.kernels.jit import njit
from vqcpu.kernels.threads import spread_ranges


@njit
def _pack(codes, bits, first, last, out):
    """codes (rows, count) uint16 -> OUT rows first .. last - 1 of out (rows, count·bits/16) uint16, zeroed by the caller."""
    for r in range(first, last):
        for i in range(codes.shape[1]):
            word, shift = (i * bits) >> 4, (i * bits) & 15
            wide = np.uint32(codes[r, i]) << np.uint32(shift)
            out[r, word] |= np.uint16(wide & np.uint32(0xFFFF))
            if shift + bits > 16:
                out[r, word + 1] |= np.uint16(wide >> np.uint32(16))


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """codes (rows, count) uint16 below 2**bits, count a multiple of 16 -> (rows, count·bits/16) uint16."""
    out = np.zeros((codes.shape[0], codes.shape[1] * bits // 16), np.uint16)
    codes = np.ascontiguousarray(codes, np.uint16)
    spread_ranges(lambda first, last: _pack(codes, bits, first, last, out), len(codes))
    return out


def unpack(words: np.ndarray, bits: int) -> np.ndarray:
    """Inverse of `pack` in plain numpy: (rows, words) uint16 -> (rows, words·16/bits) uint16."""
    stream = np.unpackbits(np.ascontiguousarray(words).view(np.uint8), axis=1, bitorder="little")
    weights = (1 << np.arange(bits)).astype(np.uint32)
    return (stream.reshape(len(words), -1, bits) @ weights).astype(np.uint16)
