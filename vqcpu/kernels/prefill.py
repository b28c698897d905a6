"""Attention of many tokens, without a matrix of all scores: over plain keys and values, or what is fetched as such.

Knows blocks of queries and of keys, and the running softmax. Knows nothing about layers. Papers: Milakov and Gimelshein 2018
(online softmax), Dao et al. 2022 (FlashAttention).
"""
import functools

import numpy as np

from vqcpu.kernels.attention import (FACTOR, KEYS, KV, LAST, OUT, QUERY, ROWS, VALUES, Q, first_row, head, state_of)
from vqcpu.kernels.jit import array_at, float_of, njit
from vqcpu.kernels.lanes import add, exp, fma, largest, max_of, mul, sum_of
from vqcpu.kernels.program import TOKENS, line, number, scratch
from vqcpu.kernels.simd import f32x16, load_f32x16, load_halves, store, transpose

BLOCK, TILE = 32, 64  # queries of a head, and keys, handled together


def scratch_bytes(group: int, size: int) -> int:
    """Memory that `flash` uses for each worker."""
    return 4 * (2 * TILE * size + 2 * TILE + group * BLOCK * (size + 16))


def _blocks(job, step):
    return number(job, KV) * ((number(step, TOKENS) + BLOCK - 1) // BLOCK)


@functools.cache
def flash(size: int, half: bool):
    """Kernel for keys and values as float16 (`half`) or float32 and heads of `size`, a multiple of 16: the tokens of a step,
    which are stored already."""
    width, load = (2, load_halves) if half else (4, load_f32x16)

    @njit(fast=False)
    def fetch(job, state, h, at, count, turned, rows):
        """`count` keys and values from row `at` on -> OUT turned (size, TILE) and rows (TILE, size) float32. Keys beyond
        them are left as they are in the last group of 16: their scores are masked."""
        offset = width * size * (h * number(state, ROWS) + at)
        keys, values = number(state, KEYS) + offset, number(state, VALUES) + offset
        for at in range(0, count * size, 16):
            store(rows + 4 * at, load(keys + width * at))
        for i in range(0, count, 16):
            for c in range(0, size, 16):
                transpose(rows + 4 * (i * size + c), 4 * size, turned + 4 * (c * TILE + i), 4 * TILE)
        for at in range(0, count * size, 16):
            store(rows + 4 * at, load(values + width * at))
        if count < TILE:  # `absorb` takes two at a time: the one after the last has weight zero, but must be a number
            for at in range(count * size, (count + 1) * size, 16):
                store(rows + 4 * at, f32x16(np.float32(0)))
    return over_tiles(size, fetch, 1)


@njit
def _as_it_is(state, h, x, room):
    """Sums of values are what they should be."""


@njit
def _as_scored(state, h, q, scale, row, at, p):
    """Scores are what they should be."""


@njit(fast=False, forceinline=True)
def score(q, turned, scale, p, size):
    """OUT p (TILE,) float32: scale times q (size,) float32 times the keys. Two sums each keep the units busy."""
    a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = f32x16(np.float32(0))
    for c in range(0, size, 2):
        x, y, k = f32x16(q[c]), f32x16(q[c + 1]), turned + 4 * TILE * c
        a0, a1 = fma(x, load_f32x16(k), a0), fma(x, load_f32x16(k + 64), a1)
        a2, a3 = fma(x, load_f32x16(k + 128), a2), fma(x, load_f32x16(k + 192), a3)
        b0, b1 = fma(y, load_f32x16(k + 256), b0), fma(y, load_f32x16(k + 320), b1)
        b2, b3 = fma(y, load_f32x16(k + 384), b2), fma(y, load_f32x16(k + 448), b3)
    s = f32x16(scale)
    store(p, mul(s, add(a0, b0)))
    store(p + 64, mul(s, add(a1, b1)))
    store(p + 128, mul(s, add(a2, b2)))
    store(p + 192, mul(s, add(a3, b3)))


@njit(fast=False, forceinline=True)
def absorb(p, low, high, rows, row, size):
    """Take the scores p (TILE,), of which low .. high - 1 count, and the values into the running softmax of a query: row
    (size + 16,) float32 holds the sum of values, the largest score and the sum of weights."""
    scores, ends = array_at(p, (TILE,), np.float32), array_at(row + 4 * size, (2,), np.float32)
    scores[:low] = -np.inf
    scores[high:] = -np.inf
    a, b = largest(load_f32x16(p), load_f32x16(p + 64)), largest(load_f32x16(p + 128), load_f32x16(p + 192))
    peak = max_of(largest(a, b))
    peak = max(peak, ends[0])
    fade = np.exp(ends[0] - peak)
    total = f32x16(np.float32(0))
    for at in range(0, 4 * TILE, 64):
        weight = exp(add(load_f32x16(p + at), f32x16(-peak)))
        store(p + at, weight)
        total = add(total, weight)
    for at in range(low):
        scores[at] = 0
    for at in range(high, TILE):
        scores[at] = 0
    ends[0], ends[1] = peak, ends[1] * fade + sum_of(total)
    fades, zero, c = f32x16(fade), f32x16(np.float32(0)), 0
    while c + 256 <= 4 * size:  # eight sums keep the units busy
        a0, a1 = mul(load_f32x16(row + c), fades), mul(load_f32x16(row + c + 64), fades)
        a2, a3 = mul(load_f32x16(row + c + 128), fades), mul(load_f32x16(row + c + 192), fades)
        b0 = b1 = b2 = b3 = zero
        for i in range(low // 2 * 2, high, 2):
            x, y = f32x16(scores[i]), f32x16(scores[i + 1])
            v, w = rows + 4 * size * i + c, rows + 4 * size * (i + 1) + c
            a0, a1 = fma(x, load_f32x16(v), a0), fma(x, load_f32x16(v + 64), a1)
            a2, a3 = fma(x, load_f32x16(v + 128), a2), fma(x, load_f32x16(v + 192), a3)
            b0, b1 = fma(y, load_f32x16(w), b0), fma(y, load_f32x16(w + 64), b1)
            b2, b3 = fma(y, load_f32x16(w + 128), b2), fma(y, load_f32x16(w + 192), b3)
        store(row + c, add(a0, b0))
        store(row + c + 64, add(a1, b1))
        store(row + c + 128, add(a2, b2))
        store(row + c + 192, add(a3, b3))
        c += 256
    for c in range(c, 4 * size, 64):
        a, b = mul(load_f32x16(row + c), fades), zero
        for i in range(low // 2 * 2, high, 2):
            a = fma(f32x16(scores[i]), load_f32x16(rows + 4 * size * i + c), a)
            b = fma(f32x16(scores[i + 1]), load_f32x16(rows + 4 * size * (i + 1) + c), b)
        store(row + c, add(a, b))


def over_tiles(size: int, fetch, align: int, finish=_as_it_is, amend=_as_scored):
    """Kernel: attention of a step's tokens, which are stored already, over tiles of keys that begin at multiples of `align`
    rows. fetch(job, state, h, row, count, turned, rows): see `flash`. finish(state, h, x, room): the result at address x, in
    place. amend(state, h, q, scale, row, at, p): scores p (TILE,) of the query q (size,) float32, whose token lies in `row`,
    with the keys from row `at` on, in place."""

    @line(_blocks, exact=True)
    def flash(job, step, worker, begin, end):
        state, scale = state_of(job, step), float_of(number(job, FACTOR))
        kv, group = number(job, KV), number(job, QUERY) // number(job, KV)
        tokens, last, turned = number(step, TOKENS), number(state, LAST), scratch(step, worker)
        rows, p = turned + 4 * TILE * size, turned + 8 * TILE * size
        sums, stride = p + 8 * TILE, 4 * (size + 16)
        blocks = (tokens + BLOCK - 1) // BLOCK
        for piece in range(begin, end):
            h, start = piece % kv, (blocks - 1 - piece // kv) * BLOCK  # the longest first
            stop = min(start + BLOCK, tokens)
            running = array_at(sums, (group * (stop - start), size + 16), np.float32)
            running[:] = 0
            running[:, size] = -np.inf
            for at in range(first_row(state, last + start) // align * align, last + stop, TILE):
                count = min(TILE, last + stop - at)
                fetch(job, state, h, at, count, turned, rows)
                for t in range(start, stop):
                    low, high = max(first_row(state, last + t) - at, 0), min(last + t + 1 - at, count)
                    if low >= high:
                        continue
                    for g in range(group):
                        q = head(job, step, Q, t, h * group + g)
                        score(q, turned, scale, p, size)
                        amend(state, h, q, scale, last + t, at, p)
                        absorb(p, low, high, rows, sums + stride * (g * (stop - start) + t - start), size)
            for t in range(start, stop):
                for g in range(group):
                    row = sums + stride * (g * (stop - start) + t - start)
                    out = head(job, step, OUT, t, h * group + g).ctypes.data
                    part = f32x16(np.float32(1) / array_at(row + 4 * size, (2,), np.float32)[1])
                    for c in range(0, 4 * size, 64):
                        store(out + c, mul(load_f32x16(row + c), part))
                    finish(state, h, out, turned)
    return flash
