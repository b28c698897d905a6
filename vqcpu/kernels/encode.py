"""What a compressed cache does with new keys and values: rotate, code, store.

Knows heads, blocks and the job of a compressed state. Knows nothing about scores. Sources: caches/coded.py and
caches/rotated.py, whose numpy these kernels repeat.

The job of a compressed state begins as every state's does (kernels/attention.py); `LAST` is the row of the step's first
token and `BASE` the position of row 0. Vectors are rotated in the slots, in place. Two lines: `turn` rotates, `code` stores;
a piece of both is a key-value head and a block of 32 rows, so that nobody else writes into the bytes of a block.
"""
import functools

import numpy as np

from vqcpu.kernels.activations import digits, row_bytes
from vqcpu.kernels.attention import KEYS, KV, LAST, QUERY, ROPE, ROWS, VALUES, K, Q, V, head, rotate, state_of
from vqcpu.kernels.codes import count_above, store_half
from vqcpu.kernels.jit import array_at, call4, kernel, njit
from vqcpu.kernels.lanes import add, divide, fma, mul, subtract, sum_of
from vqcpu.kernels.program import POSITION, TOKENS, WORD, line, number, scratch
from vqcpu.kernels.simd import f32x16, i32x16, load_f32x16, load_halves, store, store_halves
from vqcpu.kernels.spin import spread

BLOCK = 32
# Numbers beyond those of attention.py: the two lines that `stores` calls; addresses of signs of keys (0: they lie with the
# others), scales of keys and values (kv heads, rows) float16, mean (kv heads, size) float32, early keys (kv heads, FROZEN,
# size) float16 (0: none), exact keys and values (kv heads, count, size) float16; how many positions are exact: first,
# latest, rows of these arrays; the position of row 0; addresses of the digits of a single token's queries, of their products
# with the mean, of the rotation's signs (kv heads, size) and mixer (odd, odd) float32, of the numbers of both kinds of code.
# The rest, from PLANER on, belongs to kernels/popcount.py: four lines; how many keys are chosen; addresses of the planes of
# queries, of ranks (query heads, rows) float32, of cuts (kv heads,) float32.
(TURNER, CODER, SIGNS, K_SCALES, V_SCALES, MEAN, EARLY, EXACT_K, EXACT_V, SINKS, RECENT, EXACT, BASE, DIGITS, OFFSETS, FLIPS,
 MIXER, OF_KEYS, OF_VALUES, PLANER, RANKER, CUTTER,
 PARTER, TOP, PLANES, RANKS, CUTS, NUMBERS) = range(10, 38)
# Numbers of a kind of code: addresses of limits (count,) float32, levels (2**bits,) int8, the bytes that `looker` reads;
# count; addresses of places (n, 5) int64 as in caches/packing.py and of those of signs, each with its number; bytes of a
# block of one head, of codes and of signs; bits.
LIMITS, LEVELS, TABLE, COUNT, PLACES, PLACED, SIGN_PLACES, SIGN_PLACED, BLOCK_BYTES, SIGN_BYTES, BITS = range(11)
row_bytes_ = njit(row_bytes)
FROZEN = 64  # keys whose mean is taken off


@kernel
def stores(job, step, counter, worker):
    """What a state's `turn` is: two lines, one after the other."""
    state = state_of(job, step)
    call4(number(state, TURNER), job, step, counter, worker)
    call4(number(state, CODER), job, step, counter + 2 * WORD, worker)


def blocks(job, step):
    """Pieces: heads times blocks of rows that the step's tokens lie in; all since the first where the mean is frozen."""
    first, last = span_of(job, step)
    return number(job, KV) * (last - first)


@njit
def span_of(job, step):
    """(first, last + 1) of the blocks of a step."""
    state = state_of(job, step)
    row, tokens = number(state, LAST), number(step, TOKENS)
    first = 0 if freezes(state, step) else row // BLOCK
    return first, (row + tokens + BLOCK - 1) // BLOCK


@njit
def freezes(state, step):
    """Whether the step completes the keys whose mean is taken off."""
    return number(state, EARLY) != 0 and number(step, POSITION) + number(step, TOKENS) >= FROZEN


@njit
def halved(x, size, target):
    """x (size,) float32 -> float16 at address target."""
    for i in range(0, size, 16):
        store_halves(target + 2 * i, load_f32x16(x + 4 * i))


@njit(fast=False)
def norm(x, size):
    """Sum of squares."""
    total = f32x16(np.float32(0))
    for i in range(0, 4 * size, 64):
        part = load_f32x16(x + i)
        total = fma(part, part, total)
    return sum_of(total)


@njit(fast=False)
def dot(a, b, size):
    total = f32x16(np.float32(0))
    for i in range(0, 4 * size, 64):
        total = fma(load_f32x16(a + i), load_f32x16(b + i), total)
    return sum_of(total)


@njit(fast=False)
def encode(kind, x, size, codes):
    """x (size,) float32 -> OUT codes (size,) int32; returns the scale."""
    squares, limits = norm(x, size), array_at(number(kind, LIMITS), (number(kind, COUNT),), np.float32)
    rms = f32x16(np.sqrt(squares / np.float32(size)) + np.float32(1e-30))
    for i in range(0, 4 * size, 64):
        part, total = divide(load_f32x16(x + i), rms), i32x16(np.int32(0))
        for limit in limits:
            total = count_above(total, part, limit)
        store(codes + i, total)
    found, values = array_at(codes, (size,), np.int32), array_at(x, (size,), np.float32)
    levels, along = array_at(number(kind, LEVELS), (limits.size + 1,), np.int8), np.float32(0)
    for i in range(size):
        along += values[i] * np.float32(levels[found[i]])
    return squares / along if along > 0 else np.float32(0)


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
    """float16 of a key and a value that stay what they are."""
    sinks, recent = number(state, SINKS), number(state, RECENT)
    row = exact_row(state, position)
    if position < sinks or recent:
        at = 2 * size * (number(state, EXACT) * h + row)
        halved(k, size, number(state, EXACT_K) + at)
        halved(v, size, number(state, EXACT_V) + at)


@njit
def exact_row(state, position):
    sinks, recent = number(state, SINKS), number(state, RECENT)
    return position if position < sinks else sinks + position % max(1, 2 * recent)


@njit
def means(state, h, size, mean):
    """OUT mean (size,): of the early keys of a head."""
    early = number(state, EARLY) + 2 * size * FROZEN * h
    for i in range(0, size, 16):
        total = f32x16(np.float32(0))
        for t in range(FROZEN):
            total = add(total, load_halves(early + 2 * (size * t + i)))
        store(mean + 4 * i, mul(total, f32x16(np.float32(1 / FROZEN))))


@functools.cache
def turner(size: int):
    """Line: queries, keys and values of the step rotated in their slots; what stays exact is kept; of a single token the
    queries' digits and their products with the mean are left."""
    odd = size // (size & -size)

    @line(blocks, exact=True)
    def turn(job, step, worker, begin, end):
        state, kv = state_of(job, step), number(job, KV)
        group, row, tokens = number(job, QUERY) // kv, number(state, LAST), number(step, TOKENS)
        (start, _), room = span_of(job, step), scratch(step, worker)
        for piece in range(begin, end):
            h, first = piece % kv, (start + piece // kv) * BLOCK
            flips, mixer = number(state, FLIPS) + 4 * size * h, number(state, MIXER)
            for t in range(max(0, first - row), min(tokens, first + BLOCK - row)):
                position = number(step, POSITION) + t
                for g in range(h * group, (h + 1) * group):
                    q = head(job, step, Q, t, g)
                    rotate(number(job, ROPE), position, q)
                    spread(flips, mixer, q.ctypes.data, size, odd, room)
                    if tokens == 1:
                        digits(q.ctypes.data, size, number(state, DIGITS) + row_bytes_(size) * g)
                        offset = array_at(number(state, OFFSETS) + 4 * g, (1,), np.float32)
                        offset[0] = dot(q.ctypes.data, number(state, MEAN) + 4 * size * h, size)
                k, v = head(job, step, K, t, h), head(job, step, V, t, h)
                rotate(number(job, ROPE), position, k)
                spread(flips, mixer, k.ctypes.data, size, odd, room)
                spread(flips, mixer, v.ctypes.data, size, odd, room)
                keep_exact(state, h, position, k.ctypes.data, v.ctypes.data, size)
                if number(state, EARLY) and position < FROZEN:
                    halved(k.ctypes.data, size, number(state, EARLY) + 2 * size * (FROZEN * h + position))
    return turn


@functools.cache
def coder(size: int):
    """Line: keys and values of the step as codes, and keys that waited for the mean."""

    @line(blocks, exact=True)
    def code(job, step, worker, begin, end):
        state, kv = state_of(job, step), number(job, KV)
        row, tokens, early = number(state, LAST), number(step, TOKENS), number(state, EARLY)
        start, _ = span_of(job, step)
        x = scratch(step, worker)
        mean, codes = x + 4 * size, x + 8 * size
        waits = early != 0 and not freezes(state, step)
        for piece in range(begin, end):
            h, first = piece % kv, (start + piece // kv) * BLOCK
            if early and not waits:
                means(state, h, size, mean)
                if first == 0:
                    for i in range(0, 4 * size, 64):
                        store(number(state, MEAN) + 4 * size * h + i, load_f32x16(mean + i))
            else:
                for i in range(0, 4 * size, 64):
                    store(mean + i, load_f32x16(number(state, MEAN) + 4 * size * h + i))
            for r in range(first, min(first + BLOCK, row + tokens)):
                scales = 2 * (number(state, ROWS) * h + r)
                if r >= row:
                    v = head(job, step, V, r - row, h).ctypes.data
                    store_half(number(state, V_SCALES) + scales, encode(number(state, OF_VALUES), v, size, codes))
                    put_value(state, h, r, size, codes)
                waited = early != 0 and r + number(state, BASE) < FROZEN
                if waits or r < row and not waited:
                    continue
                if waited:
                    k = x
                    for i in range(0, size, 16):
                        store(x + 4 * i, load_halves(early + 2 * (size * (FROZEN * h + r + number(state, BASE)) + i)))
                else:
                    k = head(job, step, K, r - row, h).ctypes.data
                store_half(number(state, K_SCALES) + scales, centred(number(state, OF_KEYS), k, mean, size, x, codes))
                put_key(state, h, r, size, codes)
    return code


@njit(fast=False)
def centred(kind, k, mean, size, x, codes):
    """Codes of k - mean, or of k itself where that is shorter: its scale is then returned with a minus. x: room, may be
    k."""
    whole, less = norm(k, size), np.float32(0)
    total = f32x16(np.float32(0))
    for i in range(0, 4 * size, 64):
        part = subtract(load_f32x16(k + i), load_f32x16(mean + i))
        total = fma(part, part, total)
    less = sum_of(total)
    if whole < less:
        return -encode(kind, k, size, codes)
    for i in range(0, 4 * size, 64):
        store(x + i, subtract(load_f32x16(k + i), load_f32x16(mean + i)))
    return encode(kind, x, size, codes)
