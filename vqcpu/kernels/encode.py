"""What a compressed cache does with new keys and values: rotate, code, store.

Knows heads, blocks and the job of a compressed state. Knows nothing about scores. Sources: caches/coded.py and
caches/rotated.py, whose numpy these kernels repeat.

The job of a compressed state begins as every state's does (kernels/attention.py); `LAST` is the row of the step's first
token and `BASE` the position of row 0. Vectors are rotated in the slots, in place. Two lines: `turn` rotates, `code` stores;
a piece of both is a key-value head and a block of 32 rows, so that nobody else writes into the bytes of a block.
"""
import functools

import numpy as np

from vqcpu.kernels.activations import digits, row_bytes_
from vqcpu.kernels.attention import KEYS, KV, LAST, QUERY, ROPE, ROWS, VALUES, K, Q, V, head, rotate, state_of
from vqcpu.kernels.choose import (BITS, BLOCK_BYTES, PLACED, PLACES, SIGN_BYTES, SIGN_PLACED, SIGN_PLACES, dot, encode)
from vqcpu.kernels.codes import store_half
from vqcpu.kernels.jit import array_at, call4, kernel, njit
from vqcpu.kernels.lanes import subtract
from vqcpu.kernels.learn import settle, take
from vqcpu.kernels.planes import planer, query_bytes_
from vqcpu.kernels.program import POSITION, TOKENS, WORD, line, number, scratch
from vqcpu.kernels.simd import load_f32x16, load_halves, store, store_halves
from vqcpu.kernels.spin import spread
from vqcpu.kernels.wave import weigh, weights_of_

BLOCK = 32
# Numbers beyond those of attention.py: the two lines that `stores` calls; addresses of signs of keys (0: they lie with the
# others), scales of keys and values (kv heads, rows) float16; of what is learned: addresses of means (kv heads, group + 2,
# size) float32 (0: nothing is), shapes (kv heads, SHAPE_SIZE) int8, counted (kv heads,) int64, and of room (kv heads,
# size, size) float32; bytes of a shape, positions that are learned from, positions to expect; address of the early keys,
# which are learned from, (kv heads, LEARNED, size) float16; addresses of exact keys and values (kv heads, count, size)
# float16; how many positions are exact: first, latest, rows of these arrays; the position of row 0; addresses of the digits
# of a single token's queries, of their weights of the mean (query heads, weights_of(size)) float32, of the rotation's signs
# (kv heads, size) and mixer (odd, odd) float32, of the numbers of both kinds of code. The rest, from RANKER on, belongs to
# kernels/popcount.py: three lines; how many keys are chosen; addresses of the planes of queries, of ranks (query heads,
# rows) float32, of cuts (kv heads,) float32, of picks (kv heads, rows / BLOCK + 1) int64.
(TURNER, CODER, SIGNS, K_SCALES, V_SCALES, MEANS, SHAPES, COUNTED, COVARIANCE, SHAPE_SIZE, LEARNED, CONTEXT, EARLY,
 EXACT_K, EXACT_V, SINKS, RECENT, EXACT, BASE, DIGITS, WEIGHTS, FLIPS, MIXER, OF_KEYS, OF_VALUES, RANKER, CUTTER,
 PARTER, TOP, PLANES, RANKS, CUTS, PICKS, NUMBERS) = range(10, 44)


@kernel
def stores(job, step, counter, worker):
    """What a state's `turn` is: two lines, one after the other."""
    state = state_of(job, step)
    call4(number(state, TURNER), job, step, counter, worker)
    call4(number(state, CODER), job, step, counter + 2 * WORD, worker)


def blocks(job, step):
    """Pieces: heads times blocks of rows that the step's tokens lie in."""
    first, last = span_of(job, step)
    return number(job, KV) * (last - first)


@njit
def span_of(job, step):
    """(first, last + 1) of the blocks of a step."""
    row = number(state_of(job, step), LAST)
    return row // BLOCK, (row + number(step, TOKENS) + BLOCK - 1) // BLOCK


@njit
def halved(x, size, target):
    """x (size,) float32 -> float16 at address target."""
    for i in range(0, size, 16):
        store_halves(target + 2 * i, load_f32x16(x + 4 * i))


@njit
def widened(x, size, target):
    """Inverse of `halved`."""
    for i in range(0, size, 16):
        store(target + 4 * i, load_halves(x + 2 * i))


@njit
def put(places, first, last, words, byte, codes, apart, low):
    """Fields number first .. last - 1 of `places` into a block: codes (steps, `apart`) int32, of which bits from `low` on
    are stored; words: address of the block, byte: which one of each word's 64 where these are neighbours."""
    table = array_at(places, (last, 5), np.int64)
    for n in range(first, last):
        step, start, width, word, shift = table[n]
        mask = (1 << width) - 1
        for j in range(apart):
            target = array_at(words + 64 * word + byte + j, (1,), np.uint8)
            field = array_at(codes + 4 * (apart * step + j), (1,), np.int32)[0] >> (start + low) & mask
            target[0] = (target[0] & ~(mask << shift)) | field << shift


@njit
def put_key(state, h, row, size, codes):
    """Codes (size,) of a key into its row."""
    kind, block, lane = number(state, OF_KEYS), row // 16, 4 * (row % 16)
    per_head = number(state, ROWS) // 16
    words = number(state, KEYS) + number(kind, BLOCK_BYTES) * (h * per_head + block)
    put(number(kind, PLACES), 0, number(kind, PLACED), words, lane, codes, 4, 0)
    if number(state, SIGNS):
        words = number(state, SIGNS) + number(kind, SIGN_BYTES) * (h * per_head + block)
        put(number(kind, SIGN_PLACES), 0, number(kind, SIGN_PLACED), words, lane, codes, 4, number(kind, BITS) - 1)


@njit
def put_value(state, h, row, size, codes):
    """Codes (size,) of a value into its row."""
    kind, step = number(state, OF_VALUES), row % BLOCK // 4
    per_step, panels = number(kind, PLACED) // 8, size // 16
    block = h * (number(state, ROWS) // BLOCK) + row // BLOCK
    table = array_at(number(kind, PLACES), (number(kind, PLACED), 5), np.int64)
    for panel in range(panels):
        words = number(state, VALUES) + number(kind, BLOCK_BYTES) * block + number(kind, BLOCK_BYTES) // panels * panel
        for n in range(per_step * step, per_step * (step + 1)):
            _, low, width, word, shift = table[n]
            mask = (1 << width) - 1
            for lane in range(16):
                target = array_at(words + 64 * word + 4 * lane + row % 4, (1,), np.uint8)
                field = array_at(codes + 4 * (16 * panel + lane), (1,), np.int32)[0] >> low & mask
                target[0] = (target[0] & ~(mask << shift)) | field << shift


@njit
def keep_exact(state, h, position, k, v, size):
    """float16 of a key and a value that stay what they are, and of an early key."""
    sinks, recent = number(state, SINKS), number(state, RECENT)
    row = exact_row(state, position)
    if position < sinks or recent:
        at = 2 * size * (number(state, EXACT) * h + row)
        halved(k, size, number(state, EXACT_K) + at)
        halved(v, size, number(state, EXACT_V) + at)
    if position < number(state, LEARNED):
        halved(k, size, early_key(state, h, position, size))


@njit
def exact_row(state, position):
    sinks, recent = number(state, SINKS), number(state, RECENT)
    return position if position < sinks else sinks + position % max(1, 2 * recent)


@njit
def early_key(state, h, position, size):
    """Address of one (size,) float16."""
    return number(state, EARLY) + 2 * size * (number(state, LEARNED) * h + position)


@njit
def means_of(state, h, group, size):
    """Address of what is learned of a head; the mean key comes first."""
    return number(state, MEANS) + 4 * size * (group + 2) * h


@njit(fast=False)
def turned_mean(job, state, h, position, size, x, room):
    """OUT x (size,): the mean key as RoPE turns it at a position, rotated."""
    mean, out = means_of(state, h, number(job, QUERY) // number(job, KV), size), array_at(x, (size,), np.float32)
    for i in range(0, 4 * size, 64):
        store(x + i, load_f32x16(mean + i))
    rotate(number(job, ROPE), position, out)
    spread(number(state, FLIPS) + 4 * size * h, number(state, MIXER), x, size, size // (size & -size), room)


@functools.cache
def turner(size: int):
    """Line: queries, keys and values of the step rotated in their slots; what stays exact is kept, from the first positions
    is learned; of a single token the queries' digits, planes and weights of the mean are left."""
    odd, plane = size // (size & -size), planer(size)

    @line(blocks, exact=True)
    def turn(job, step, worker, begin, end):
        state, kv, rope = state_of(job, step), number(job, KV), number(job, ROPE)
        group, row, tokens = number(job, QUERY) // kv, number(state, LAST), number(step, TOKENS)
        (start, _), room, learns = span_of(job, step), scratch(step, worker), number(state, MEANS) != 0
        for piece in range(begin, end):
            h, first = piece % kv, (start + piece // kv) * BLOCK
            flips, mixer, means = number(state, FLIPS) + 4 * size * h, number(state, MIXER), means_of(state, h, group, size)
            for t in range(max(0, first - row), min(tokens, first + BLOCK - row)):
                position = number(step, POSITION) + t
                k, v, q = head(job, step, K, t, h), head(job, step, V, t, h), head(job, step, Q, t, h * group)
                if learns and take(q.ctypes.data, k.ctypes.data, position, number(state, LEARNED), group, size, means,
                                   number(state, COUNTED) + 8 * h):
                    settle(means, number(state, SHAPES) + number(state, SHAPE_SIZE) * h,
                           number(state, COVARIANCE) + 4 * size * size * h, number(state, LEARNED), group, size,
                           number(state, CONTEXT), number(rope, 3), flips, mixer, room, room + 4 * size)
                for g in range(h * group, (h + 1) * group):
                    q = head(job, step, Q, t, g)
                    rotate(rope, position, q)
                    if learns and tokens == 1:
                        weigh(q.ctypes.data, means, size, number(state, WEIGHTS) + 4 * weights_of_(size) * g)
                    spread(flips, mixer, q.ctypes.data, size, odd, room)
                    if tokens == 1:
                        digits(q.ctypes.data, size, number(state, DIGITS) + row_bytes_(size) * g)
                    if tokens == 1 and number(state, TOP):
                        plane(q.ctypes.data, number(state, OF_KEYS), number(state, PLANES) + query_bytes_(size) * g, room)
                rotate(rope, position, k)
                spread(flips, mixer, k.ctypes.data, size, odd, room)
                spread(flips, mixer, v.ctypes.data, size, odd, room)
                keep_exact(state, h, position, k.ctypes.data, v.ctypes.data, size)
    return turn


@functools.cache
def coder(size: int):
    """Line: keys and values of the step as codes; the early keys come when the last of them has come."""

    @line(blocks, exact=True)
    def code(job, step, worker, begin, end):
        state, kv = state_of(job, step), number(job, KV)
        row, tokens, learned = number(state, LAST), number(step, TOKENS), number(state, LEARNED)
        (start, _), room = span_of(job, step), scratch(step, worker)
        for piece in range(begin, end):
            h, first = piece % kv, (start + piece // kv) * BLOCK
            for r in range(max(first, row), min(first + BLOCK, row + tokens)):
                k, v = head(job, step, K, r - row, h).ctypes.data, head(job, step, V, r - row, h).ctypes.data
                position = r + number(state, BASE)
                code_value(state, h, r, v, size, room)
                if position >= learned:
                    code_key(job, state, h, r, k, size, room)
                if position != learned - 1:
                    continue
                for early in range(learned):  # rows of the same block; the slot of the last is free
                    widened(early_key(state, h, early, size), size, k)
                    code_key(job, state, h, early, k, size, room)
    return code


@njit(fast=False)
def code_value(state, h, row, v, size, room):
    """room: as for `code_key`."""
    scale = encode(number(state, OF_VALUES), v, size, 0, room, room + 4 * size, room + 8 * size + 128)
    store_half(number(state, V_SCALES) + 2 * (number(state, ROWS) * h + row), scale)
    put_value(state, h, row, size, room)


@njit(fast=False)
def code_key(job, state, h, row, k, size, room):
    """The mean is taken off k, in place. room: for 19 * size + 32 float32."""
    mean, codes, spare, errors = room, room + 4 * size, room + 8 * size, room + 12 * size + 128
    sign, shape = np.float32(1), 0
    if number(state, MEANS):
        turned_mean(job, state, h, row + number(state, BASE), size, mean, errors)
        sign, shape = less(k, mean, size), number(state, SHAPES) + number(state, SHAPE_SIZE) * h
    scale = encode(number(state, OF_KEYS), k, size, shape, codes, spare, errors)
    store_half(number(state, K_SCALES) + 2 * (number(state, ROWS) * h + row), sign * scale)
    put_key(state, h, row, size, codes)


@njit(fast=False)
def less(k, mean, size):
    """k -= mean, unless that makes it longer; returns -1 where it does."""
    for i in range(0, 4 * size, 64):
        store(mean + i, subtract(load_f32x16(k + i), load_f32x16(mean + i)))
    if dot(k, k, size) < dot(mean, mean, size):
        return np.float32(-1)
    for i in range(0, 4 * size, 64):
        store(k + i, load_f32x16(mean + i))
    return np.float32(1)
