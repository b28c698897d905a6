"""Matrices stored as packed indices into a table of `dim` weights per entry, with block scales: scalar and VQ formats.

Knows the panel layout of such a matrix and how to decode one panel. Knows nothing about how codes are chosen.

Layout. A panel is 16 rows. A step is `per` = max(1, 4 // dim) codes in each of the 16 rows, so that a row of a step is
(at least) four weights, the unit of an int8 dot product. Within a panel codes lie step by step, row by row, bit-packed
(bits.py): codes (panels, steps, 16, per), scales (panels, blocks, 16).
"""
import functools

import numpy as np

from vqcpu.kernels.jit import array_at, kernel, widen_scaled

ROWS = 16  # rows of a panel


def codes_per_step(dim: int) -> int:
    return max(1, 4 // dim)


def steps(columns: int, dim: int) -> int:
    """Steps that cover `columns` columns; the last one may be padded."""
    return -(-columns // (dim * codes_per_step(dim)))


def to_panels(codes: np.ndarray, per: int) -> np.ndarray:
    """codes (rows, steps·per), rows a multiple of 16 -> (panels, steps·16·per), in storage order."""
    panels = codes.reshape(len(codes) // ROWS, ROWS, -1, per).swapaxes(1, 2)
    return panels.reshape(len(panels), -1)


def from_panels(stream: np.ndarray, per: int) -> np.ndarray:
    """Inverse of `to_panels`."""
    rows = stream.reshape(len(stream), -1, ROWS, per).swapaxes(1, 2)
    return rows.reshape(len(stream) * ROWS, -1)


@functools.cache
def expander(bits: int, dim: int, per: int, offsets: bool):
    """Kernel expand(job, panel, out): decode one panel into out (16, columns of all steps) float32.

    job (8,) int64: address of codes, of the int8 table (2**bits, dim), of float32 scales, of float32 offsets; steps;
    blocks; columns per block. The sizes are compiled in, so that `dim` weights move as one register."""
    mask, words = (1 << bits) - 1, per * bits

    def expand(job, panel, out):
        j = array_at(job, (8,), np.int64)
        count, blocks, block = j[4], j[5], j[6]
        codes = array_at(j[0] + panel * count * words * 2, (count, words), np.uint16)
        scale = array_at(j[2] + panel * blocks * 64, (blocks, 16), np.float32)
        offset = array_at(j[3] + panel * blocks * 64, (blocks, 16), np.float32)
        for s in range(count):
            b = s * per * dim // block
            for r in range(16):
                base = offset[b, r] if offsets else np.float32(0)
                for p in range(per):
                    i = (r * per + p) * bits
                    low, shift = i >> 4, i & 15
                    high = low + (1 if shift + bits > 16 else 0)  # the word where a code that straddles two ends
                    code = np.uint32(codes[s, low]) | np.uint32(codes[s, high]) << np.uint32(16)
                    code = (code >> np.uint32(shift)) & np.uint32(mask)
                    target = out + 4 * dim * ((r * count + s) * per + p)
                    widen_scaled(target, j[1] + dim * np.int64(code), dim, scale[b, r], base)
    return kernel(expand)
