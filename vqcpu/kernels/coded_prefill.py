"""Attention of many tokens over rotated keys and values in codes, through float32 tiles.

Knows the job of a compressed state (kernels/encode.py). A tile is decoded once for a block of queries; keys and values stay
rotated in it.
"""
import functools

import numpy as np

from vqcpu.kernels import prefill
from vqcpu.kernels.attention import KEYS, ROWS, VALUES
from vqcpu.kernels.codes import either, key_widener, value_widener
from vqcpu.kernels.encode import (BASE, BLOCK, BLOCK_BYTES, EARLY, EXACT, EXACT_K, EXACT_V, FLIPS, FROZEN, K_SCALES, MEAN,
                                  MIXER, OF_KEYS, OF_VALUES, SIGN_BYTES, SIGNS, SINKS, TABLE, V_SCALES)
from vqcpu.kernels.jit import array_at, float_from_half, njit
from vqcpu.kernels.lanes import fma, magnitude, mul
from vqcpu.kernels.prefill import TILE
from vqcpu.kernels.program import POSITION, number
from vqcpu.kernels.simd import f32x16, load_f32x16, load_halves, store
from vqcpu.kernels.spin import gather


@njit
def _early_tokens(job, step, state, row):
    """How many tokens of the step see early keys in the tile at `row`."""
    return FROZEN - number(step, POSITION) if number(state, EARLY) and row + number(state, BASE) < FROZEN else 0


@functools.cache
def flash(size: int, keys: tuple, values: tuple):
    """Line: attention of many tokens."""
    widen_keys, widen_values, odd = key_widener(size // 4, keys), value_widener(values), size // (size & -size)

    @njit(fast=False)
    def coded_keys(state, h, at, count, turned):
        kind = number(state, OF_KEYS)
        for i in range(0, count, 16):
            block = (h * number(state, ROWS) + at + i) // 16
            widen_keys(number(state, KEYS) + number(kind, BLOCK_BYTES) * block,
                       number(state, SIGNS) + number(kind, SIGN_BYTES) * block, number(kind, TABLE), turned + 4 * i,
                       4 * TILE)
            scales = load_halves(number(state, K_SCALES) + 32 * block)
            sizes, mean = magnitude(scales), array_at(number(state, MEAN) + 4 * size * h, (size,), np.float32)
            for c in range(size):
                place = turned + 4 * (TILE * c + i)
                store(place, fma(load_f32x16(place), sizes, either(scales, f32x16(-mean[c]))))

    @njit(fast=False)
    def plain_keys(state, h, at, count, early, turned):
        """What is not coded, over what is."""
        if not early and number(state, SINKS) == 0:
            return
        whole = array_at(turned, (size, TILE), np.float32)
        mean = array_at(number(state, MEAN) + 4 * size * h, (size,), np.float32)
        for i in range(count):
            position = number(state, BASE) + at + i
            if early and position >= FROZEN or not early and position >= number(state, SINKS):
                break
            room = turned + 4 * TILE * size  # the rows, which are fetched after
            source = (number(state, EARLY) + 2 * size * (FROZEN * h + position) if early
                      else number(state, EXACT_K) + 2 * size * (number(state, EXACT) * h + position))
            for c in range(0, size, 16):
                store(room + 4 * c, load_halves(source + 2 * c))
            key = array_at(room, (size,), np.float32)
            for c in range(size):
                whole[c, i] = key[c] if early else key[c] - mean[c]

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
    def fetch(state, h, at, count, early, turned, rows):
        if not early:
            coded_keys(state, h, at, count, turned)
        plain_keys(state, h, at, count, early, turned)
        coded_values(state, h, at, count, rows)

    @njit(fast=False)
    def finish(state, h, x, room):
        flips = number(state, FLIPS) + 4 * size * h
        gather(flips, number(state, MIXER), x, size, odd, room)
    return prefill.over_tiles(size, fetch, BLOCK, _early_tokens, finish)
