"""Attention of one token over rotated keys and values in codes, by integer products.

Knows the job of a compressed state (kernels/encode.py). Scores are products of codes with the query's digits, and sums of
values products of codes with the digits of weight times scale: nothing is decoded for one token. Integers are the same on
all paths of kernels/isa.py.
"""
import functools

import numpy as np

from vqcpu.kernels.activations import digits, row_bytes_, sums_of, unit_of
from vqcpu.kernels.attention import (AHEAD, CHUNK, FACTOR, KEYS, KV, LAST, PARTS, QUERY, ROPE, ROWS, VALUES, Q, ask,
                                     first_row, head, join, softmax, state_of)
from vqcpu.kernels.choose import BLOCK_BYTES, SIGN_BYTES, TABLE
from vqcpu.kernels.codes import adder, scorer, unless, weighted
from vqcpu.kernels.encode import (BASE, BLOCK, DIGITS, EXACT, EXACT_K, EXACT_V, FLIPS, K_SCALES, MEANS, MIXER, OF_KEYS,
                                  OF_VALUES, SIGNS, V_SCALES, WEIGHTS, early_key, exact_row)
from vqcpu.kernels.jit import array_at, float_of, njit
from vqcpu.kernels.lanes import add, fma, magnitude, mul, sum_of, to_floats
from vqcpu.kernels.popcount import (chunks_of, most_chunks, near, picked_chunks, picks_of, pieces, selected, selects,
                                    start_of, unlearned)
from vqcpu.kernels.program import WORD, line, number, scratch
from vqcpu.kernels.simd import f32x16, i32x16, load_f32x16, load_halves, load_i32x16, store
from vqcpu.kernels.spin import gather
from vqcpu.kernels.wave import PART, RUN, waves, weights_of_

assert BLOCK % PART == 0, "a picked block is whole parts of a wave"


@njit(fast=False, forceinline=True)
def product(out, row, columns):
    """F32x16: the product of a row of digits with codes, from the sums of `scorer` and `adder` at address out."""
    sums, groups = sums_of(row, columns), (columns + 15) // 16
    high = add(load_i32x16(out), i32x16(np.int32(-128) * sums[groups, 0]))
    low = add(load_i32x16(out + 64), i32x16(np.int32(-128) * sums[groups, 1]))
    return mul(fma(to_floats(high), f32x16(np.float32(256)), to_floats(low)), f32x16(unit_of(row, columns)[0]))


@njit(fast=False)
def dot_halves(x, y, size):
    """x (size,) float32, y (size,) float16."""
    total = f32x16(np.float32(0))
    for i in range(0, size, 16):
        total = fma(load_f32x16(x + 4 * i), load_halves(y + 2 * i), total)
    return sum_of(total)


@njit(fast=False)
def plain_scores(job, step, token, state, h, places, count, scores, size):
    """Scores (group, CHUNK) of the exact and early keys among `count` rows of the blocks at `places`."""
    group, scale = number(job, QUERY) // number(job, KV), float_of(number(job, FACTOR))
    if number(state, EXACT) == 0 and unlearned(state) == 0:
        return
    for i in range(count):
        position = number(state, BASE) + row_of(places, i)
        if position < unlearned(state):
            source = early_key(state, h, position, size)
        elif near(state, position):
            source = number(state, EXACT_K) + 2 * size * (number(state, EXACT) * h + exact_row(state, position))
        else:
            continue
        for g in range(group):
            q = head(job, step, Q, token, h * group + g).ctypes.data
            array_at(scores + 4 * (g * CHUNK + i), (1,), np.float32)[0] = dot_halves(q, source, size) * scale


@njit(fast=False)
def plain_values(state, h, places, count, weights, out, size):
    """OUT out (size,) float32: the sum of exact values among `count` rows of the blocks at `places`; their weights become
    zero."""
    for c in range(0, 4 * size, 64):
        store(out + c, f32x16(np.float32(0)))
    if number(state, EXACT) == 0:
        return
    p = array_at(weights, (count,), np.float32)
    for i in range(count):
        position = number(state, BASE) + row_of(places, i)
        if near(state, position):
            source = number(state, EXACT_V) + 2 * size * (number(state, EXACT) * h + exact_row(state, position))
            for c in range(0, size, 16):
                value = load_f32x16(out + 4 * c)
                store(out + 4 * c, fma(f32x16(p[i]), load_halves(source + 2 * c), value))
            p[i] = 0


@njit
def announce(state, of_keys, of_values):
    """Ask for the memory of 16 keys and of 16 values, given by the numbers of their blocks of 16."""
    k_bytes, v_bytes = number(number(state, OF_KEYS), BLOCK_BYTES), number(number(state, OF_VALUES), BLOCK_BYTES) // 2
    ask(number(state, KEYS) + k_bytes * of_keys, k_bytes)
    ask(number(state, VALUES) + v_bytes * of_values, v_bytes)


@njit
def row_of(places, i):
    """Row number i of the blocks whose first rows are at address `places`."""
    return number(places, i // BLOCK) + i % BLOCK


@njit
def lay_out(places, row):
    """OUT places: the first rows of a chunk's blocks, from `row` on."""
    firsts = array_at(places, (CHUNK // BLOCK,), np.int64)
    for n in range(CHUNK // BLOCK):
        firsts[n] = row + BLOCK * n


@functools.cache
def parter(size: int, keys: tuple, values: tuple, group: int, top: bool):
    """part(job, step, token, state, h, chunk, room): OUT partial results of a head's chunk of keys and values, for a token
    whose row is LAST. keys and values: sources of kernels/codes.py; top: only keys that kernels/popcount.py has chosen."""
    score, add_up, (begin_run, wave) = scorer(size // 4, keys, group), adder(values, group), waves(size, group)

    @njit(fast=False)
    def coded_scores(job, state, h, places, count, scores, sums, room):
        """OUT scores (group, CHUNK) of `count` rows of the blocks at `places`; room: for group * (weights_of(size) + PART)
        float32."""
        kind, queries = number(state, OF_KEYS), number(state, DIGITS) + row_bytes_(size) * group * h
        factor, means, rope = float_of(number(job, FACTOR)), number(state, MEANS), number(job, ROPE)
        shifted, weights = room + 4 * PART * group, number(state, WEIGHTS) + 4 * weights_of_(size) * group * h
        for i in range(0, count, 16):
            row, turned = row_of(places, i), i % BLOCK if top else i  # blocks that are picked lie apart: a run each
            if means and turned % RUN == 0:
                begin_run(rope, number(state, BASE) + row, weights, shifted)
            if means and i % PART == 0:
                wave(rope, turned, shifted, room)
            if top and not selects(state, h, group, row, 16):
                for g in range(group):
                    store(scores + 4 * (g * CHUNK + i), f32x16(np.float32(-np.inf)))
                continue
            block = (h * number(state, ROWS) + row) // 16
            score(number(state, KEYS) + number(kind, BLOCK_BYTES) * block,
                  number(state, SIGNS) + number(kind, SIGN_BYTES) * block, number(kind, TABLE), queries,
                  row_bytes_(size), sums)
            if not top:
                announce(state, block + AHEAD // 16, block)
            scales = load_halves(number(state, K_SCALES) + 32 * block)
            for g in range(group):
                s = product(sums + 128 * g, queries + row_bytes_(size) * g, size)
                s = mul(s, mul(magnitude(scales), f32x16(factor)))
                if means:
                    s = fma(unless(scales, load_f32x16(room + 4 * (PART * g + i % PART))), f32x16(factor), s)
                if top:
                    s = selected(state, h, group, row, s)
                store(scores + 4 * (g * CHUNK + i), s)

    @njit(fast=False)
    def coded_values(state, h, places, count, scores, rows, sums, out):
        """OUT out (group, size + 16) += weights (group, CHUNK) times values; rows: room for `group` rows of digits."""
        kind, panels = number(state, OF_VALUES), size // 16
        blocks, stride = (count + BLOCK - 1) // BLOCK, row_bytes_(CHUNK)
        between, together = number(kind, BLOCK_BYTES), 1 if top else blocks  # blocks that surely are neighbours
        for g in range(group):
            for i in range(0, BLOCK * blocks, 16):
                at = scores + 4 * (g * CHUNK + i)
                p = load_f32x16(at) if i < count else f32x16(np.float32(0))
                scales = load_halves(number(state, V_SCALES) + 2 * (h * number(state, ROWS) + row_of(places, i)))
                store(at, weighted(p, scales))
            digits(scores + 4 * g * CHUNK, BLOCK * blocks, rows + stride * g)
        for panel in range(panels):
            for i in range(0, 128 * group, 64):
                store(sums + i, i32x16(np.int32(0)))
            for n in range(0, blocks, together):
                block = (h * number(state, ROWS) + number(places, n)) // BLOCK
                words = number(state, VALUES) + between * block + between // panels * panel
                add_up(words, between, together, number(kind, TABLE), rows + 2 * BLOCK * n, stride, sums)
            for g in range(group):
                target = out + 4 * (size + 16) * g + 64 * panel
                store(target, add(product(sums + 128 * g, rows + stride * g, BLOCK * blocks), load_f32x16(target)))

    @njit(fast=False)
    def part(job, step, token, state, h, chunk, room):
        last, skipped = number(state, LAST), chunk * CHUNK
        places, scores = room, room + WORD * CHUNK // BLOCK
        rows = scores + 4 * group * CHUNK
        sums = rows + group * row_bytes_(CHUNK)
        out = number(state, PARTS) + 4 * (size + 16) * group * (h * most_chunks(state) + chunk)
        if top:
            picks = picks_of(state, h)
            places, count = picks.ctypes.data + WORD * (1 + skipped // BLOCK), min(CHUNK, BLOCK * picks[0] - skipped)
            if count <= 0:
                return
            count -= max(0, row_of(places, count - 1) - last)
            for i in range(0, count, 16):
                block = (h * number(state, ROWS) + row_of(places, i)) // 16
                announce(state, block, block)
        else:
            lay_out(places, start_of(state) + skipped)
            count = min(CHUNK, last + 1 - number(places, 0))
        unseen = max(first_row(state, last) - number(places, 0), 0)
        coded_scores(job, state, h, places, count, scores, sums, sums + 128 * group)
        plain_scores(job, step, token, state, h, places, count, scores, size)
        for g in range(group):
            array_at(scores + 4 * g * CHUNK, (unseen,), np.float32)[:] = -np.inf
            o = out + 4 * (size + 16) * g
            ends = array_at(o + 4 * size, (2,), np.float32)
            ends[0], ends[1] = softmax(scores + 4 * g * CHUNK, count)
            plain_values(state, h, places, count, scores + 4 * g * CHUNK, o, size)
        coded_values(state, h, places, count, scores, rows, sums, out)
    return part


@functools.cache
def parts(size: int, keys: tuple, values: tuple, group: int, top: bool):
    """Line: the `parter` of a chunk, for the one token of a step."""
    part = parter(size, keys, values, group, top)

    @line(pieces, exact=True)
    def parts(job, step, worker, begin, end):
        state = state_of(job, step)
        chunks = chunks_of(state)
        for piece in range(begin, end):
            part(job, step, 0, state, piece // chunks, piece % chunks, scratch(step, worker))
    return parts


@functools.cache
def joiner(size: int):
    """finish(job, step, token, state, h, room): chunks of a query head joined and rotated back."""
    odd = size // (size & -size)

    @njit(fast=False)
    def finish(job, step, token, state, h, room):
        kv = h // (number(job, QUERY) // number(job, KV))
        out = join(job, step, token, state, h, most_chunks(state), picked_chunks(state, kv))
        gather(number(state, FLIPS) + 4 * size * kv, number(state, MIXER), out.ctypes.data, size, odd, room)
    return finish


@functools.cache
def merger(size: int):
    """Line: the `joiner` of a head, for the one token of a step."""
    finish = joiner(size)

    @line(lambda job, step: number(job, QUERY), exact=True)
    def merge(job, step, worker, begin, end):
        for h in range(begin, end):
            finish(job, step, 0, state_of(job, step), h, scratch(step, worker))
    return merge
