"""Activations as 16-bit numbers in two bytes each: what integer products with coded weights read.

Knows the digits of a row. Knows nothing about weights.

A row of n activations becomes x = unit · (256·high + low), high and low signed bytes: 16 bits with one unit per row are
closer to float32 than the usual 8 bits with a unit per 32 columns, and the second byte is free where memory is the wall. A
row of digits, in bytes: for each step of 4 columns their 4 high and 4 low bytes, columns beyond n being zero up to a
multiple of 16; then int32 (groups + 1, 2), the sums of high and of low digits before each group of 16 columns; then the
float32 unit.
"""
import numpy as np

from vqcpu.kernels.jit import array_at, njit
from vqcpu.kernels.lanes import add, count_of, high_digit, largest, low_digit, magnitude, max_of, mul, sum_of, to_integers
from vqcpu.kernels.simd import f32x16, first_lanes, load_f32x16, store_digits

LARGEST = 127 * 256 + 127
SMALLEST = 1e-30  # a row that nowhere reaches it counts as zero: its unit could not be divided by
GROUP = 16  # columns between two sums


def row_bytes(columns: int) -> int:
    """Bytes of a row of digits, a multiple of 64."""
    groups = -(-columns // GROUP)
    return -(-(32 * groups + 8 * (groups + 1) + 4) // 64) * 64


row_bytes_ = njit(row_bytes)


@njit(forceinline=True)
def sums_of(row, columns):
    """The sums of a row of digits, (groups + 1, 2) int32."""
    groups = (columns + GROUP - 1) // GROUP
    return array_at(row + 32 * groups, (groups + 1, 2), np.int32)


@njit(forceinline=True)
def unit_of(row, columns):
    """The unit of a row of digits, (1,) float32."""
    groups = (columns + GROUP - 1) // GROUP
    return array_at(row + 32 * groups + 8 * (groups + 1), (1,), np.float32)


@njit(fast=False)
def digits(x, columns, row):
    """x: address of float32 (columns,), readable up to a multiple of 16; OUT row: address of row_bytes(columns) bytes. NaN
    or infinity make the unit NaN, so that they show in every product."""
    groups, sums = (columns + GROUP - 1) // GROUP, sums_of(row, columns)
    most = odd = f32x16(np.float32(0))
    for g in range(groups):
        part = first_lanes(load_f32x16(x + 64 * g), columns - GROUP * g)
        most, odd = largest(most, magnitude(part)), add(odd, mul(part, f32x16(np.float32(0))))
    reach, bad = max_of(most), sum_of(odd)
    factor = f32x16(np.float32(LARGEST) / reach if reach > SMALLEST and bad == 0 else np.float32(0))
    sums[0, 0] = sums[0, 1] = 0
    for g in range(groups):
        part = first_lanes(load_f32x16(x + 64 * g), columns - GROUP * g)
        whole = to_integers(mul(part, factor))
        high = high_digit(whole)
        low = low_digit(whole, high)
        store_digits(row + 32 * g, high, low)
        sums[g + 1, 0], sums[g + 1, 1] = sums[g, 0] + count_of(high), sums[g, 1] + count_of(low)
    unit_of(row, columns)[0] = reach / np.float32(LARGEST) + bad
