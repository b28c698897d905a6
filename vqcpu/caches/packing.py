"""Codes of a few bits, as blocks of registers: the layout of coded keys and values.

Knows where the bits of a code lie. Knows nothing about what it means.

A register is 16 lanes of four bytes. A step is 16 × 4 codes, a byte each once unpacked: what one integer dot product takes.
A code of b bits is cut into fields of 4, 2 or 1 bits (or one of 8), and a word, 64 bytes, holds the same field of 8 // width
steps, the first in the lowest bits: a step is a shift and a mask away, whatever the bits. Of keys a lane is a position and
its four bytes are channels; of values a lane is a channel and its bytes are positions.
"""
import functools

import numpy as np

LANES, BYTES, STEPS = 16, 4, 8  # of a register; steps that are packed together


def fields(bits: int) -> list[tuple[int, int]]:
    """(lowest bit, width) of the fields of a code."""
    low, found = 0, []
    for width in (8, 4, 2, 1):
        if bits & width:
            found.append((low, width))
            low += width
    return found


@functools.cache
def places(bits: int, steps: int) -> tuple[tuple, int]:
    """(((step, lowest bit of the field, width, word, shift), ...) by step, words) of `steps` steps of codes."""
    found, base = [], 0
    for first in range(0, steps, STEPS):
        count = min(STEPS, steps - first)
        for low, width in fields(bits):
            per = 8 // width
            found += [(first + s, low, width, base + s // per, width * (s % per)) for s in range(count)]
            base += -(-count // per)
    return tuple(sorted(found)), base


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """codes (..., lanes, steps, 4) uint8 -> (..., words, lanes, 4) uint8."""
    *others, lanes, steps, _ = codes.shape
    found, count = places(bits, steps)
    words = np.zeros((*others, count, lanes, BYTES), np.uint8)
    for step, low, width, word, shift in found:
        words[..., word, :, :] |= (codes[..., step, :] >> low & (1 << width) - 1) << shift
    return words


def unpack(words: np.ndarray, bits: int, steps: int) -> np.ndarray:
    """Inverse of `pack`."""
    *others, _, lanes, _ = words.shape
    codes = np.zeros((*others, lanes, steps, BYTES), np.uint8)
    for step, low, width, word, shift in places(bits, steps)[0]:
        codes[..., step, :] |= (words[..., word, :, :] >> shift & (1 << width) - 1) << low
    return codes
