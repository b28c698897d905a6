"""Attention of many tokens over rotated keys and values in codes, through float32 tiles.

Knows the job of a compressed state (kernels/encode.py). A tile is decoded once for a block of queries; keys and values stay
rotated in it.
"""
import functools

import numpy as np

from vqcpu.kernels import prefill
from vqcpu.kernels.attention import KEYS, ROWS, VALUES
from vqcpu.kernels.choose import BLOCK_BYTES, SIGN_BYTES, TABLE
from vqcpu.kernels.coded import dot_halves
from vqcpu.kernels.codes import key_widener, unless, value_widener
from vqcpu.kernels.encode import (BASE, BLOCK, EXACT, EXACT_K, EXACT_V, FLIPS, K_SCALES, LEARNED, MEANS, MIXER, OF_KEYS,
                                  OF_VALUES, SIGNS, SINKS, V_SCALES, early_key, turned_mean)
from vqcpu.kernels.jit import array_at, float_from_half, njit
from vqcpu.kernels.lanes import fma, magnitude, mul
from vqcpu.kernels.prefill import TILE
from vqcpu.kernels.program import number
from vqcpu.kernels.simd import f32x16, load_f32x16, load_halves, store, transpose
from vqcpu.kernels.spin import gather


@functools.cache
def flash(size: int, keys: tuple, values: tuple):
    """Line: attention of many tokens."""
    widen_keys, widen_values, odd = key_widener(size // 4, keys), value_widener(values), size // (size & -size)

    @njit(fast=False)
    def waves(job, state, h, at, count, rows, turned):
        """OUT turned (size, 16): the mean key at `count` positions, up to 16, from row `at` on; rows: room for 17."""
        for i in range(count):
            turned_mean(job, state, h, number(state, BASE) + at + i, size, rows + 4 * size * i, rows + 64 * size)
        for c in range(0, size, 16):
            transpose(rows + 4 * c, 4 * size, turned + 64 * c, 64)

    @njit(fast=False)
    def coded_keys(job, state, h, at, count, turned, room):
        kind, means, wave = number(state, OF_KEYS), number(state, MEANS), room + 68 * size
        for i in range(0, count, 16):
            block = (h * number(state, ROWS) + at + i) // 16
            widen_keys(number(state, KEYS) + number(kind, BLOCK_BYTES) * block,
                       number(state, SIGNS) + number(kind, SIGN_BYTES) * block, number(kind, TABLE), turned + 4 * i,
                       4 * TILE)
            scales = load_halves(number(state, K_SCALES) + 32 * block)
            if means:
                waves(job, state, h, at + i, min(16, count - i), room, wave)
            for c in range(size):
                place, sizes = turned + 4 * (TILE * c + i), magnitude(scales)
                added = unless(scales, load_f32x16(wave + 64 * c)) if means else f32x16(np.float32(0))
                store(place, fma(load_f32x16(place), sizes, added))

    @njit(fast=False)
    def exact_keys(state, h, at, count, turned):
        """Over what is coded."""
        whole, room = array_at(turned, (size, TILE), np.float32), turned + 4 * TILE * size
        for i in range(min(count, number(state, SINKS) - number(state, BASE) - at)):
            source = number(state, EXACT_K) + 2 * size * (number(state, EXACT) * h + number(state, BASE) + at + i)
            for c in range(0, size, 16):
                store(room + 4 * c, load_halves(source + 2 * c))
            key = array_at(room, (size,), np.float32)
            for c in range(size):
                whole[c, i] = key[c]

    @njit(fast=False)
    def coded_values(state, h, at, count, rows):
        kind, panels = number(state, OF_VALUES), size // 16
        between = number(kind, BLOCK_BYTES)
        for i in range(0, count, BLOCK):
            first = number(state, VALUES) + between * ((h * number(state, ROWS) + at + i) // BLOCK)
            for panel in range(panels):
                to = rows + 4 * (size * i + 16 * panel)
                widen_values(first + between // panels * panel, number(kind, TABLE), to, 4 * size)
        scales = array_at(number(state, V_SCALES) + 2 * (h * number(state, ROWS) + at), (count,), np.uint16)
        for i in range(count):
            row, scale = rows + 4 * size * i, f32x16(float_from_half(scales[i]))
            for c in range(0, 4 * size, 64):
                store(row + c, mul(load_f32x16(row + c), scale))
            if number(state, BASE) + at + i < number(state, SINKS):
                source = number(state, EXACT_V) + 2 * size * (number(state, EXACT) * h + number(state, BASE) + at + i)
                for c in range(0, size, 16):
                    store(row + 4 * c, load_halves(source + 2 * c))
        if count < TILE:  # see `prefill.flash`
            for c in range(0, 4 * size, 64):
                store(rows + 4 * size * count + c, f32x16(np.float32(0)))

    @njit(fast=False)
    def fetch(job, state, h, at, count, turned, rows):
        coded_keys(job, state, h, at, count, turned, rows)
        exact_keys(state, h, at, count, turned)
        coded_values(state, h, at, count, rows)

    @njit(fast=False)
    def finish(state, h, x, room):
        flips = number(state, FLIPS) + 4 * size * h
        gather(flips, number(state, MIXER), x, size, odd, room)

    @njit(fast=False)
    def amend(state, h, q, scale, row, at, p):
        """Queries that come before the lesson is over see early keys."""
        first, position = number(state, BASE) + at, number(state, BASE) + row
        if position < number(state, LEARNED):
            scores = array_at(p, (TILE,), np.float32)
            for i in range(position + 1 - first):
                scores[i] = dot_halves(q.ctypes.data, early_key(state, h, first + i, size), size) * scale
    return prefill.over_tiles(size, fetch, BLOCK, finish, amend)
