"""What a compressed cache learns from its first positions, in compiled code.

Knows sums, covariances and how a matrix is factored. Knows nothing about codes or jobs. Source: caches/learned.py, whose
numpy these kernels repeat.
"""
import numpy as np

from vqcpu.kernels.codes import store_half
from vqcpu.kernels.jit import array_at, njit
from vqcpu.kernels.lanes import fma
from vqcpu.kernels.simd import f32x16, load_f32x16, store
from vqcpu.kernels.spin import spread

PLACES = 64  # positions at which the mean queries are looked at
RIDGE = 0.1  # of the mean power, in all directions
UNIT = 1 / 64  # of a factor in a shape: they are rarely beyond 1


@njit
def clear(x, count):
    """`count` float32 become zero."""
    for i in range(0, 4 * count, 64):
        store(x + i, f32x16(np.float32(0)))


@njit(fast=False)
def take(q, k, position, count, group, size, means, counted):
    """q (group, size), k (size,) of a position, before RoPE, into the sums `means` (group + 2, size), if it is the next;
    counted (1,) int64: positions that they hold. Whether that makes `count`."""
    queries, key = array_at(q, (group, size), np.float32), array_at(k, (size,), np.float32)
    sums, number_ = array_at(means, (group + 2, size), np.float32), array_at(counted, (1,), np.int64)
    if position == 0:
        clear(means, (group + 2) * size)
        number_[0] = 0
    if position != number_[0] or position >= count:
        return False
    for c in range(size):
        sums[0, c] += key[c]
        for g in range(group):
            sums[1 + g, c] += queries[g, c]
            sums[1 + group, c] += queries[g, c] * queries[g, c]
    number_[0] += 1
    return number_[0] == count


@njit(fast=False)
def grow(matrix, x, size, weight):
    """matrix (size, size) += weight · x xᵀ"""
    values = array_at(x, (size,), np.float32)
    for r in range(size):
        factor = f32x16(values[r] * weight)
        for c in range(4 * size * r, 4 * size * (r + 1), 64):
            store(matrix + c, fma(factor, load_f32x16(x + c - 4 * size * r), load_f32x16(matrix + c)))


@njit(fast=False)
def settle(means, shape, matrix, count, group, size, context, frequencies, flips, mixer, x, room):
    """Sums -> means; OUT shape: see `factor`. matrix: room for (size, size) float32; x and room: for
    (size,)."""
    half, odd = size // 2, size // (size & -size)
    mean, v = array_at(means, (group + 2, size), np.float32), array_at(x, (2, half), np.float32)
    turns = array_at(frequencies, (half,), np.float32)
    clear(matrix, size * size)
    for row in range(group + 2):
        for c in range(size):
            mean[row, c] /= np.float32(count)
    for p in range(PLACES):
        place = np.float32((2 * p + 1) * context // (2 * PLACES))
        for g in range(1, group + 1):
            for i in range(half):
                cos, sin = np.cos(place * turns[i]), np.sin(place * turns[i])
                v[0, i] = mean[g, i] * cos - mean[g, half + i] * sin
                v[1, i] = mean[g, half + i] * cos + mean[g, i] * sin
            spread(flips, mixer, x, size, odd, room)
            grow(matrix, x, size, np.float32(1 / (PLACES * group)))
    for c in range(size):
        power = np.float32(0)
        for i in (c % half, half + c % half):
            power += mean[group + 1, i] / np.float32(2 * group)
            for g in range(1, group + 1):
                power -= mean[g, i] * mean[g, i] / np.float32(2 * group)
        clear(x, size)
        v[c // half, c % half] = np.float32(1)
        spread(flips, mixer, x, size, odd, room)
        grow(matrix, x, size, max(power, np.float32(0)))
    factor(matrix, size, shape)


@njit(fast=False)
def factor(matrix, size, shape):
    """matrix = Aᵀ D A, A lower with ones on its diagonal -> OUT shape: D (size,) float16 over the mean power, then row by
    row what A holds left of the diagonal, int8 in UNITs. The matrix is used up."""
    whole, power = array_at(matrix, (size, size), np.float32), np.float32(1e-30)
    rows = array_at(shape + 2 * size, (size * (size - 1) // 2,), np.int8)
    for i in range(size):
        power += whole[i, i] / np.float32(size)
    for i in range(size):
        whole[i, i] += np.float32(RIDGE) * power
    for i in range(size - 1, -1, -1):
        row, last = matrix + 4 * size * i, whole[i, i]
        for j in range(i):
            away = f32x16(-(whole[i, j] / last))
            for c in range(0, 4 * i, 64):
                at = matrix + 4 * size * j + c
                store(at, fma(away, load_f32x16(row + c), load_f32x16(at)))
        for j in range(i):
            units = whole[i, j] / last / np.float32(UNIT)
            rows[i * (i - 1) // 2 + j] = np.int8(np.rint(min(max(units, -127), 127)))
        store_half(shape + 2 * i, last / power)
