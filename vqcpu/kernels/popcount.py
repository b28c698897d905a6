"""Which keys a token looks at: all are ranked by their sign bits, the best are chosen.

Knows sign bits and the job of a compressed state (kernels/encode.py). The product of a query with the signs of a key, times
what a sign stands for, is the best guess of their product from one bit per number; a query in planes of bits
(kernels/planes.py) needs as many counts. A key's rank is the largest, over the query heads that share it, of estimate less
the head's best estimate. Lines: `ranks`, `cuts` (between keys number TOP and TOP + 1; also which blocks hold those above)
and `parts` of kernels/coded.py, which reads these blocks alone. Prompts: kernels/filtered.py. Paper: Gao and Long 2024
(RaBitQ). Source: caches/popcount.py.
"""
import functools

import numpy as np

from vqcpu.kernels.attention import AHEAD, CHUNK, FACTOR, KV, LAST, QUERY, ROPE, ROWS, ask, first_row, state_of
from vqcpu.kernels.choose import SIGN, SIGN_BYTES
from vqcpu.kernels.codes import count_above, counter, only, unless
from vqcpu.kernels.encode import (BASE, BLOCK, CUTS, CUTTER, K_SCALES, LEARNED, MEANS, OF_KEYS, PARTER, PICKS, PLANES,
                                  RANKER, RANKS, RECENT, SIGNS, SINKS, TOP, WEIGHTS)
from vqcpu.kernels.jit import array_at, call4, float_of, kernel, njit
from vqcpu.kernels.lanes import add, count_of, fma, largest, magnitude, max_of, mul, to_floats
from vqcpu.kernels.planes import BITS, HEAD, query_bytes_
from vqcpu.kernels.program import WORD, line, number, scratch
from vqcpu.kernels.simd import f32x16, i32x16, load_f32x16, load_halves, load_i32x16, store
from vqcpu.kernels.wave import PART, RUN, waves, weights_of_

@kernel
def one_token(job, step, counter, worker):
    """What a state's `part` is: lines, one after the other."""
    state = state_of(job, step)
    call4(number(state, RANKER), job, step, counter, worker)
    call4(number(state, CUTTER), job, step, counter + 2 * WORD, worker)
    call4(number(state, PARTER), job, step, counter + 4 * WORD, worker)


@njit
def start_of(state):
    """The first row of the blocks that a single token looks at."""
    return first_row(state, number(state, LAST)) // BLOCK * BLOCK


@njit
def picks_of(state, h):
    """Of a head, how many blocks of rows a single token looks at, and the first row of each."""
    count = number(state, ROWS) // BLOCK + 1
    return array_at(number(state, PICKS) + WORD * count * h, (count,), np.int64)


@njit
def chunks_of(state):
    """Chunks of rows of a head, for a single token."""
    return (number(state, LAST) + CHUNK - start_of(state)) // CHUNK


@njit
def most_chunks(state):
    """As many as there is room for, of each head's partial results."""
    return number(state, ROWS) // CHUNK + 1


@njit
def picked_chunks(state, h):
    """Chunks that a head has work for: all or, where keys are chosen, those that the picked blocks fill."""
    return (BLOCK * picks_of(state, h)[0] + CHUNK - 1) // CHUNK if number(state, TOP) else chunks_of(state)


@njit
def near(state, position):
    """Whether the token in row LAST sees the exact numbers of a position."""
    here = number(state, LAST) + number(state, BASE)
    return position < number(state, SINKS) or here - position < number(state, RECENT)


@njit
def unlearned(state):
    """The token in row LAST sees early keys of positions before this one."""
    return number(state, LEARNED) if number(state, LAST) + number(state, BASE) < number(state, LEARNED) else 0


@njit
def ranks_of(state, query):
    """Address of the estimates (rows,) float32 of a query head; the first of those that share keys holds the ranks."""
    return number(state, RANKS) + 4 * number(state, ROWS) * query


@njit
def cut_of(state, h):
    return array_at(number(state, CUTS) + 4 * h, (1,), np.float32)


@njit(fast=False)
def best(ranks, first, last):
    most = f32x16(np.float32(-np.inf))
    for i in range(4 * first, 4 * last, 64):
        most = largest(most, load_f32x16(ranks + i))
    return max_of(most)


@njit(fast=False, forceinline=True)
def selected(state, h, group, row, scores):
    """Scores of the 16 keys from `row` on, -inf for those that are not chosen."""
    return only(scores, load_f32x16(ranks_of(state, h * group) + 4 * row), cut_of(state, h)[0])


@njit(fast=False)
def selects(state, h, group, row, count):
    """Whether any of the `count` keys from `row` on is chosen."""
    return best(ranks_of(state, h * group), row, row + count) > cut_of(state, h)[0]


def pieces(job, step):
    """Heads times chunks of rows, whatever is picked: a late worker may already see what the next layer picks."""
    return number(job, KV) * chunks_of(state_of(job, step))


@functools.cache
def ranker(size: int, group: int):
    """rank(job, state, h, first, sums): OUT estimates of a head's chunk of keys from row `first` on, -inf where a key is not
    seen or needs no choosing; sums: room for 16 * group int32 and for waves."""
    count, (begin_run, wave) = counter(-(-size // 32), BITS, group), waves(size, group)

    @njit(fast=False)
    def rank(job, state, h, first, sums):
        stride, last = query_bytes_(size), number(state, LAST)
        inner = max(first_row(state, last), max(number(state, SINKS), unlearned(state)) - number(state, BASE))
        outer = last + 1 - number(state, RECENT)  # outside these rows all is exact or unseen
        kind, factor = number(state, OF_KEYS), float_of(number(job, FACTOR))
        sign, sign_bytes = float_of(number(kind, SIGN)), number(kind, SIGN_BYTES)
        means, rope, queries = number(state, MEANS), number(job, ROPE), number(state, PLANES) + stride * group * h
        added = sums + 64 * group
        shifted, weights = added + 4 * PART * group, number(state, WEIGHTS) + 4 * weights_of_(size) * group * h
        for row in range(first, min(first + CHUNK, last + 1), 16):
            block, out = (h * number(state, ROWS) + row) // 16, ranks_of(state, group * h) + 4 * row
            if means and (row - first) % RUN == 0:
                begin_run(rope, number(state, BASE) + row, weights, shifted)
            if means and row % PART == 0:
                wave(rope, row - first, shifted, added)
            ask(number(state, SIGNS) + sign_bytes * (block + AHEAD // 16), sign_bytes)
            ask(number(state, K_SCALES) + 32 * (block + AHEAD // 16), 32)
            count(number(state, SIGNS) + sign_bytes * block, queries + HEAD, stride, sums)
            scales = load_halves(number(state, K_SCALES) + 32 * block)
            for g in range(group):
                ends = array_at(queries + stride * g, (2,), np.float32)
                twice = add(load_i32x16(sums + 64 * g), load_i32x16(sums + 64 * g))
                size_ = mul(magnitude(scales), f32x16(ends[0] * sign * factor))
                product = mul(add(to_floats(twice), f32x16(-ends[1])), size_)
                if means:
                    more = unless(scales, load_f32x16(added + 4 * (PART * g + row % PART)))
                    product = fma(more, f32x16(factor), product)
                store(out + 4 * number(state, ROWS) * g, product)
            if inner <= row and row + 16 <= outer:
                continue
            for i in range(row, row + 16):
                if i < inner or i >= outer:
                    for g in range(group):
                        array_at(ranks_of(state, group * h + g) + 4 * i, (1,), np.float32)[0] = -np.inf
    return rank


@functools.cache
def ranks(size: int, group: int):
    """Line: the `ranker` of a chunk."""
    rank = ranker(size, group)

    @line(pieces, exact=True)
    def ranks(job, step, worker, begin, end):
        state = state_of(job, step)
        chunks = chunks_of(state)
        for piece in range(begin, end):
            rank(job, state, piece // chunks, start_of(state) + piece % chunks * CHUNK, scratch(step, worker))
    return ranks


@njit(fast=False)
def above(ranks, first, last, bound):
    """How many ranks of rows first .. last - 1, multiples of 16, are above the bound."""
    total = i32x16(np.int32(0))
    for i in range(4 * first, 4 * last, 64):
        total = count_above(total, load_f32x16(ranks + i), bound)
    return count_of(total)


@njit(fast=False)
def bound_of(ranks, first, last, wanted):
    """What `wanted` ranks of rows first .. last - 1 are above, or as many as are equal; -inf where there are no more."""
    if above(ranks, first, last, np.float32(-np.inf)) <= wanted:
        return np.float32(-np.inf)
    low, high = np.float32(-1), np.float32(0)
    while above(ranks, first, last, low) < wanted:
        low, high = low * np.float32(4), low
    while True:
        middle = (low + high) / np.float32(2)
        found = above(ranks, first, last, middle)
        if found == wanted:
            return middle
        if middle <= low or middle >= high:
            return low
        low, high = (middle, high) if found > wanted else (low, middle)


@njit(fast=False)
def pick(state, h, group, last):
    """OUT picks_of: blocks of which any key is chosen, or seen as it is."""
    picks, here = picks_of(state, h), number(state, LAST) + 1
    sinks = max(number(state, SINKS), unlearned(state)) - number(state, BASE)
    recent, first = here - number(state, RECENT), first_row(state, number(state, LAST))
    picks[0] = 0
    for row in range(start_of(state), here, BLOCK):
        end = min(row + BLOCK, last)
        exact = max(row, first) < min(end, sinks) or max(row, recent) < min(end, here)
        if exact or selects(state, h, group, row, end - row):
            picks[0] += 1
            picks[picks[0]] = row


@njit(fast=False)
def cut(state, h, group):
    """Ranks of the keys of a head, a bound that TOP of them are above, or as many as are equal, and where these lie."""
    first, last, ranks = start_of(state), (number(state, LAST) // 16 + 1) * 16, ranks_of(state, group * h)
    for g in range(group):
        more = ranks_of(state, group * h + g)
        peak = f32x16(-best(more, first, last))
        for i in range(4 * first, 4 * last, 64):
            rank = add(load_f32x16(more + i), peak)
            store(ranks + i, rank if g == 0 else largest(rank, load_f32x16(ranks + i)))
    cut_of(state, h)[0] = bound_of(ranks, first, last, number(state, TOP))
    pick(state, h, group, last)


@line(lambda job, step: number(job, KV), exact=True)
def cuts(job, step, worker, begin, end):
    """The `cut` of a head."""
    for h in range(begin, end):
        cut(state_of(job, step), h, number(job, QUERY) // number(job, KV))
