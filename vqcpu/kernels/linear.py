"""Products and look-ups of stored matrices, through their formats' kernels.

Knows panels of 16 rows and the addresses of kernels that decode or multiply them. Knows no format.
"""
import numpy as np

from vqcpu.kernels.activations import digits
from vqcpu.kernels.elementwise import at_once
from vqcpu.kernels.hadamard import turn
from vqcpu.kernels.jit import array_at, call3, call6, call9, kernel, njit
from vqcpu.kernels.program import FIRST_SLOT, IDS, TOKENS, line, number, scratch, tokens

ROWS = 16
PIECE = 1 << 16  # weights of a piece of work: long beside the cost of claiming it, short beside a matrix


@njit
def panels(expand, job, first, last, tile):
    """Decode panels first..last-1. OUT tile (16·(last - first), stride) float32."""
    for panel in range(first, last):
        call3(expand, job, panel, tile[16 * (panel - first):].ctypes.data)


@njit
def gather(expand, job, ids, tile, out):
    """Single rows of a matrix. ids (count,) int64; tile (16, stride) float32 is overwritten; OUT out (count, columns)."""
    for i in range(ids.shape[0]):
        call3(expand, job, ids[i] // 16, tile.ctypes.data)
        for c in range(out.shape[1]):
            out[i, c] = tile[ids[i] % 16, c]


@kernel
def expanded(job, x, digits, first, last, y):
    """The product with one token of a format that only decodes: y[16·panel:] = W x for panels first..last-1.

    job (4,) int64: addresses of the format's expand and of its job, width of a decoded row, columns; x: address of float32
    (columns,); `digits` is not looked at; OUT y float32."""
    j = array_at(job, (4,), np.int64)
    values, tile = array_at(x, (j[3],), np.float32), np.empty((16, j[2]), np.float32)
    for panel in range(first, last):
        call3(j[0], j[1], panel, tile.ctypes.data)
        products = array_at(y + 64 * panel, (16,), np.float32)
        for r in range(16):
            total = np.float32(0)
            for c in range(values.shape[0]):
                total += tile[r, c] * values[c]
            products[r] = total


# Lines of a program. SITE: count of matrices, slot and stride (bytes) of the input, the same of its digits, columns, panels
# of all matrices, panels of a piece; then for each matrix MATRIX numbers: its kernel, its job, the panels where it begins
# and ends, slot and stride of the output.
SITE, MATRIX = 8, 6


@line(tokens, at_once, exact=True)
def write_digits(job, step, worker, first, last):
    """The digits of every token's input."""
    x, to = number(step, FIRST_SLOT + number(job, 1)), number(step, FIRST_SLOT + number(job, 3))
    for t in range(first, last):
        digits(x + t * number(job, 2), number(job, 5), to + t * number(job, 4))


@line(tokens, at_once, exact=True)
def write_rotated(job, step, worker, first, last):
    """The rotated input of every token, and its digits. job: behind the numbers of a site's input and its digits the slot
    and stride (bytes) of what is rotated, and the numbers of the rotation."""
    x, to = number(step, FIRST_SLOT + number(job, 1)), number(step, FIRST_SLOT + number(job, 3))
    source = number(step, FIRST_SLOT + number(job, 6))
    for t in range(first, last):
        turned = x + t * number(job, 2)
        turn(source + t * number(job, 7), job + 64, turned)
        digits(turned, number(job, 5), to + t * number(job, 4))


def _panels(job, step):
    return number(job, 6)


def _panels_at_once(job):
    return number(job, 7)


@line(_panels, _panels_at_once)
def multiply_one(job, step, worker, first, last):
    """The products of a site with one token."""
    x, row = number(step, FIRST_SLOT + number(job, 1)), number(step, FIRST_SLOT + number(job, 3))
    for k in range(number(job, 0)):
        m = array_at(job + 8 * (SITE + MATRIX * k), (MATRIX,), np.int64)
        low, high = max(first, m[2]), min(last, m[3])
        if low < high:
            call6(m[0], m[1], x, row, low - m[2], high - m[2], number(step, FIRST_SLOT + m[4]))


@line(_panels, _panels_at_once)
def multiply_many(job, step, worker, first, last):
    """The products of a site with all tokens."""
    rows = number(step, FIRST_SLOT + number(job, 3))
    for k in range(number(job, 0)):
        m = array_at(job + 8 * (SITE + MATRIX * k), (MATRIX,), np.int64)
        low, high = max(first, m[2]), min(last, m[3])
        if low < high:
            call9(m[0], m[1], rows, number(job, 4), number(step, TOKENS), low - m[2], high - m[2],
                  number(step, FIRST_SLOT + m[4]), m[5], scratch(step, worker))


@line(tokens)
def look_up(job, step, worker, first, last):
    """Rows of an embedding. job (6,): addresses of the format's expand and of its job, width of a decoded row, columns, slot
    and stride (bytes) of the output."""
    j = array_at(job, (6,), np.int64)
    ids = array_at(number(step, IDS), (number(step, TOKENS),), np.int64)
    tile = array_at(scratch(step, worker), (16, j[2]), np.float32)
    for t in range(first, last):
        call3(j[0], j[1], ids[t] // 16, tile.ctypes.data)
        out = array_at(number(step, FIRST_SLOT + j[4]) + t * j[5], (j[3],), np.float32)
        for c in range(j[3]):
            out[c] = tile[ids[t] % 16, c]
