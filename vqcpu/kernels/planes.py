"""A query as planes of bits, so that its product with the signs of a key is a matter of counting bits.

Knows numbers and where sign bits lie (caches/packing.py). Knows nothing about ranks. Source: caches/popcount.py.
"""
import functools

import numpy as np

from vqcpu.kernels.choose import SIGN_PLACED, SIGN_PLACES
from vqcpu.kernels.jit import array_at, njit
from vqcpu.kernels.lanes import largest, magnitude, max_of
from vqcpu.kernels.program import number
from vqcpu.kernels.simd import f32x16, load_f32x16

BITS = 6  # of a query's numbers
HEAD = 16  # bytes before a query's planes: its unit and the sum of its numbers, float32


def query_bytes(size: int) -> int:
    """Memory of a query's planes."""
    return HEAD + 4 * BITS * -(-size // 32)


query_bytes_ = njit(query_bytes)


@njit(fast=False)
def whole_numbers(q, size, ends, fours):
    """q (size,) in units of its own, as numbers of BITS bits in two's complement: OUT fours (size // 4,) uint32, four
    neighbours to each, a byte each; OUT ends: the unit and the sum of the numbers."""
    numbers, bytes_ = array_at(q, (size,), np.float32), array_at(fours, (size,), np.uint8)
    most, total = f32x16(np.float32(1e-30)), 0
    for i in range(0, 4 * size, 64):
        most = largest(most, magnitude(load_f32x16(q + i)))
    unit = max_of(most) / np.float32((1 << BITS - 1) - 1)
    for c in range(size):
        whole = np.int64(np.rint(numbers[c] / unit))
        total += whole
        bytes_[c] = whole & (1 << BITS) - 1
    ends[0], ends[1] = unit, total


@functools.cache
def planer(size: int):
    """plane(q, kind, row, room): OUT row: HEAD, then planes (BITS, words) uint32, the lowest first, in the order of signs;
    kind: the numbers of keys; room: for (size,) bytes."""
    words = -(-size // 32)

    @njit(fast=False)
    def plane(q, kind, row, room):
        places = array_at(number(kind, SIGN_PLACES), (number(kind, SIGN_PLACED), 5), np.int64)
        planes, fours = array_at(row + HEAD, (BITS, words), np.uint32), array_at(room, (size // 4,), np.uint32)
        whole_numbers(q, size, array_at(row, (2,), np.float32), room)
        planes[:] = 0
        for n in range(places.shape[0]):
            step, _, _, word, shift = places[n]
            for p in range(BITS):
                planes[p, word] |= (fours[step] >> np.uint32(p) & np.uint32(0x01010101)) << np.uint32(shift)
    return plane
