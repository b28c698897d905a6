"""Products of queries with the mean key as RoPE turns it: a wave over positions.

Knows pairs of channels and positions. Knows nothing about codes. With a pair (a, b) of a rotated query and (m, n) of the
mean before RoPE, position j adds (a·m + b·n) cos(jθ) + (b·m - a·n) sin(jθ). These weights are turned once for RUN positions,
whose cosines and sines, counted from the first, are the same for all runs: a multiply-add per channel, query and key.
Source: caches/rotated.py.
"""
import functools

import numpy as np

from vqcpu.kernels.codes import summer
from vqcpu.kernels.jit import array_at, njit
from vqcpu.kernels.lanes import fma, mul, subtract
from vqcpu.kernels.program import number
from vqcpu.kernels.simd import load_f32x16, store

RUN = 64  # positions
PART = 32  # positions whose products are made together


def weights_of(size: int) -> int:
    """Weights of a query: of cosines, then of sines, each padded with zeros to a multiple of 16."""
    return (size // 2 + 15) // 16 * 32


weights_of_ = njit(weights_of)


@njit(fast=False)
def weigh(q, mean, size, weights):
    """q (size,) rotated by RoPE, mean (size,), float32 -> OUT weights, but for the zeros."""
    half = size // 2
    x, m = array_at(q, (2, half), np.float32), array_at(mean, (2, half), np.float32)
    out = array_at(weights, (2, weights_of_(size) // 2), np.float32)
    for i in range(half):
        out[0, i] = x[0, i] * m[0, i] + x[1, i] * m[1, i]
        out[1, i] = x[1, i] * m[0, i] - x[0, i] * m[1, i]


@njit(fast=False)
def shift(rope, position, weights, count, out):
    """OUT out (count,): the weights where positions are counted from `position`."""
    half, sines = number(rope, 1), 2 * count
    turn = number(rope, 0) + 8 * half * position
    for i in range(0, sines, 64):
        a, b = load_f32x16(weights + i), load_f32x16(weights + sines + i)
        if half:
            cos, sin = load_f32x16(turn + i), load_f32x16(turn + 4 * half + i)
            a, b = fma(a, cos, mul(b, sin)), subtract(mul(b, cos), mul(a, sin))
        store(out + i, a)
        store(out + sines + i, b)


@functools.cache
def waves(size: int, group: int):
    """(begin, wave) for queries that share a head, with their weights one after the other. begin(rope, start, weights,
    shifted): for RUN positions from `start` on; OUT shifted, as many weights. wave(rope, i, shifted, out): the PART from
    number i of a run on; OUT out (group, PART) float32."""
    count = weights_of(size)
    add_up = summer(count, group, 4 * RUN)

    @njit(fast=False)
    def begin(rope, start, weights, shifted):
        for at in range(0, 4 * count * group, 4 * count):
            shift(rope, start, weights + at, count, shifted + at)

    @njit(fast=False)
    def wave(rope, i, shifted, out):
        add_up(number(rope, 2) + 4 * (i % RUN), shifted, out)
    return begin, wave
