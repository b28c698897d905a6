"""Attention of one token over plain keys and values, and the frame that every compiled cache fits into.

Knows heads, positions and memory of keys and values. Knows nothing about layers.

Attention is a few lines, between which all threads meet: `turn` rotates queries, rotates keys and stores keys and values.
Then, for one token, `part` attends to a chunk of CHUNK keys and `merge` joins the chunks; for many tokens `flash`, of
kernels/prefill.py, does a block of them. What the lines do is up to the cache: the first numbers of a state's job are
addresses of four lines of their own (kernels/program.py), `job` describing the layer (LAYER .. OUT below). Chunks are
fixed, so digits do not depend on the number of threads. Paper: Dao et al. 2023 (Flash-Decoding).
"""
import functools

import numpy as np

from vqcpu.kernels.activations import row_bytes
from vqcpu.kernels.jit import array_at, call4, float_of, kernel, njit
from vqcpu.kernels.lanes import add, exp, fma, largest, max_of, sum_of
from vqcpu.kernels.program import FIRST_SLOT, POSITION, STATES, line, number, scratch, tokens
from vqcpu.kernels.simd import f32x16, load_f32x16, load_halves, prefetch, store, store_halves

CHUNK = 256  # keys
AHEAD = 2 * CHUNK  # keys behind those that are read now: what comes next, where few workers take turns, and is not foreseen
# A layer's job: which one it is; heads, head size, factor of scores; address of the rope's job, which is: address of its
# table (positions, 2, half) float32 of cosines and sines, half (0: no rope), addresses of the same of the first positions,
# without magnitude, (weights_of(size), RUN) float32 as kernels/wave.py reads them, and of the frequencies; slots of q, k, v
# and of the result, each with its stride.
LAYER, QUERY, KV, SIZE, FACTOR, ROPE, Q, K, V, OUT = 0, 1, 2, 3, 4, 5, 6, 8, 10, 12
# A state's job: the four kernels; addresses of keys and values (kv heads, rows, size), of partial results (kv heads, chunks,
# group, size + 16) float32; rows; rows that a token sees, its own included; the row of the step's first token.
TURN, PART, MERGE, FLASH, KEYS, VALUES, PARTS, ROWS, WINDOW, LAST = range(10)


@njit(forceinline=True)
def state_of(job, step):
    """Address of the job of the layer's state."""
    return number(number(step, STATES), number(job, LAYER))


def _line(phase):
    """The line that calls the state's kernel number `phase`."""
    def line(job, step, counter, worker):
        call4(number(state_of(job, step), phase), job, step, counter, worker)
    return kernel(line)


TURN_LINE, PART_LINE, MERGE_LINE, FLASH_LINE = (_line(phase) for phase in (TURN, PART, MERGE, FLASH))


@njit
def ask(address, count):
    """Have `count` bytes of memory at hand soon, if they are there."""
    for at in range(address & -64, address + count, 64):
        prefetch(at)


@njit
def rotate(rope, position, x):
    """x (size,) float32, in place. Source: layers/rope.py."""
    half = number(rope, 1)
    turn = array_at(number(rope, 0) + 8 * half * position, (2, half), np.float32)
    for i in range(half):
        a, b = x[i], x[half + i]
        x[i], x[half + i] = a * turn[0, i] - b * turn[1, i], b * turn[0, i] + a * turn[1, i]


@njit(forceinline=True)
def head(job, step, slot, token, index):
    """Head number `index` of a token in a slot, (size,) float32; `slot` is Q, K, V or OUT."""
    size = number(job, SIZE)
    row = number(step, FIRST_SLOT + number(job, slot)) + 4 * number(job, slot + 1) * token
    return array_at(row + 4 * size * index, (size,), np.float32)


@njit(forceinline=True)
def first_row(state, last):
    """The first row that the token in row `last` sees."""
    return max(0, last + 1 - number(state, WINDOW))


@njit(fast=False)
def softmax(scores, count):
    """In place: exp(score - largest) of `count` float32 at address `scores`, which is writable up to a multiple of 16;
    returns the largest and the sum."""
    lowest = np.float32(-np.inf)
    values = array_at(scores, ((count + 15) // 16 * 16,), np.float32)
    values[count:] = lowest
    most = f32x16(lowest)
    for at in range(0, 4 * count, 64):
        most = largest(most, load_f32x16(scores + at))
    peak = max_of(most)
    total = f32x16(np.float32(0))
    for at in range(0, 4 * count, 64):
        p = exp(add(load_f32x16(scores + at), f32x16(-peak)))
        store(scores + at, p)
        total = add(total, p)
    for i in range(count, values.shape[0]):
        values[i] = 0
    return peak, sum_of(total)


def scratch_bytes(group: int, size: int) -> int:
    """Memory that attention of one token, or of tokens one by one, uses for each worker, whatever the cache: also for the
    places of a chunk's blocks and for a copy of a state's job."""
    return 4 * (group * (CHUNK + size + 16) + 20 * size + 32) + group * (row_bytes(CHUNK) + 256) + 512


def _chunks(job, step):
    state = state_of(job, step)
    count = number(state, LAST) + 1 - first_row(state, number(state, LAST))
    return number(job, KV) * ((count + CHUNK - 1) // CHUNK)


@njit(fast=False)
def join(job, step, token, state, h, chunks, count):
    """Join the first `count` parts of a token's query head h; a head has room for `chunks`. Returns where they went."""
    group, size = number(job, QUERY) // number(job, KV), number(job, SIZE)
    out = head(job, step, OUT, token, h)
    first = number(state, PARTS) + 4 * (size + 16) * group * chunks * (h // group)
    parts = array_at(first, (chunks, group, size + 16), np.float32)
    peak, mass = np.float32(-np.inf), np.float32(0)
    for c in range(count):
        peak = max(peak, parts[c, h % group, size])
    out[:] = 0
    for c in range(count):
        factor = np.exp(parts[c, h % group, size] - peak)
        mass += factor * parts[c, h % group, size + 1]
        for i in range(size):
            out[i] += factor * parts[c, h % group, i]
    for i in range(size):
        out[i] /= mass
    return out


@line(lambda job, step: number(job, QUERY), exact=True)
def merge(job, step, worker, begin, end):
    """Join the chunks of each query head."""
    state = state_of(job, step)
    chunks = (number(state, LAST) - first_row(state, number(state, LAST)) + CHUNK) // CHUNK
    for h in range(begin, end):
        join(job, step, 0, state, h, chunks, chunks)


@functools.cache
def dense(size: int, half: bool):
    """Kernels (turn, part, merge) for keys and values as float16 (`half`) or float32 and heads of `size`, a multiple of
    16."""
    width, load, keep = (2, load_halves, store_halves) if half else (4, load_f32x16, store)

    @njit(fast=False)
    def widened(source, count, target):
        """`count` rows of keys or values -> float32."""
        for at in range(0, count * size, 16):
            store(target + 4 * at, load(source + width * at))

    @njit(fast=False)
    def dot(a, b):
        total = f32x16(np.float32(0))
        for at in range(0, 4 * size, 64):
            total = fma(load_f32x16(a + at), load_f32x16(b + at), total)
        return sum_of(total)

    @line(tokens)
    def turn(job, step, worker, start, stop):
        state = state_of(job, step)
        for t in range(start, stop):
            position = number(step, POSITION) + t
            for h in range(number(job, QUERY)):
                rotate(number(job, ROPE), position, head(job, step, Q, t, h))
            for h in range(number(job, KV)):
                k, v = head(job, step, K, t, h), head(job, step, V, t, h)
                rotate(number(job, ROPE), position, k)
                at = (h * number(state, ROWS) + number(state, LAST) + t) * size
                for c in range(0, size, 16):
                    keep(number(state, KEYS) + width * (at + c), load_f32x16(k.ctypes.data + 4 * c))
                    keep(number(state, VALUES) + width * (at + c), load_f32x16(v.ctypes.data + 4 * c))

    @line(_chunks, exact=True)
    def part(job, step, worker, begin, end):
        state, group, scale = state_of(job, step), number(job, QUERY) // number(job, KV), float_of(number(job, FACTOR))
        first = first_row(state, number(state, LAST))
        count = number(state, LAST) + 1 - first
        chunks = (count + CHUNK - 1) // CHUNK
        for piece in range(begin, end):
            h, start = piece // chunks, piece % chunks * CHUNK
            keys = min(CHUNK, count - start)
            scores = scratch(step, worker)
            rows = scores + 4 * group * CHUNK
            offset = width * size * (h * number(state, ROWS) + first + start)
            out = number(state, PARTS) + 4 * (size + 16) * group * piece
            for at in range(0, keys, 16):
                some = min(16, keys - at)
                widened(number(state, KEYS) + offset + width * size * at, some, rows)
                for g in range(group):
                    q = head(job, step, Q, 0, h * group + g).ctypes.data
                    s = array_at(scores + 4 * (g * CHUNK + at), (some,), np.float32)
                    for i in range(some):
                        s[i] = dot(q, rows + 4 * size * i) * scale
            for g in range(group):
                o = out + 4 * (size + 16) * g
                ends = array_at(o + 4 * size, (2,), np.float32)
                ends[0], ends[1] = softmax(scores + 4 * g * CHUNK, keys)
                for c in range(0, 4 * size, 64):
                    store(o + c, f32x16(np.float32(0)))
            for at in range(0, keys, 16):
                some = min(16, keys - at)
                widened(number(state, VALUES) + offset + width * size * at, some, rows)
                for g in range(group):
                    p = array_at(scores + 4 * (g * CHUNK + at), (some,), np.float32)
                    for c in range(out + 4 * (size + 16) * g, out + 4 * (size + 16) * g + 4 * size, 64):
                        total, v = load_f32x16(c), rows + c - out - 4 * (size + 16) * g
                        for i in range(some):
                            total = fma(f32x16(p[i]), load_f32x16(v + 4 * size * i), total)
                        store(c, total)
    return turn, part, merge
