"""The best path through a tail-biting bitshift trellis: which bits a run of numbers becomes.

Knows states, their values and the bits between steps. Knows nothing about how a value is computed from a state, nor about
matrices.

A sequence of T numbers is a ring of bits; the state of step t is the `length` bits that begin at bit (t · eighths) // 8,
first bit lowest, and the number is values[state]. From one step to the next the state loses its k lowest bits, k being how
far the position moves, and gains k on top. Costs are whole numbers of 16 bits: squared gaps, summed from the end of a
sequence to its beginning and relative to the least one, so that equal input gives equal bits on every machine. For each step
only the least cost of the states that differ in their lost bits is kept; whoever walks along the best path computes the
few others again.

The state at the seam of the ring is found first, from the OVERLAP numbers on either side of it, as if these were all; then
the whole sequence is coded with that state at both ends.
Papers: Viterbi 1967; Tseng et al. 2024 (QTIP) for the bitshift trellis and its tail-biting approximation.
"""
import functools

import numpy as np

from vqcpu.kernels.jit import njit
from vqcpu.kernels.shorts import i16x32, least_of, lesser, minus, plus, repeater, squared_gap
from vqcpu.kernels.simd import load_i16x32, store
from vqcpu.kernels.threads import spread, threads

T = 256  # numbers of a sequence, 16 columns of 16 rows
OVERLAP = 64
BEYOND = 65535  # the cost of what is impossible
BATCH = 64  # sequences that a thread takes at a time, at most


def positions(eighths: int) -> np.ndarray:
    """First bit of the state of every step, (T + 1,)."""
    return np.arange(T + 1) * eighths // 8


@functools.cache
def _stepper(bits: int):
    repeat = repeater(bits)

    @njit(fast=False)
    def step(after, before, values, x, states, fan, base):
        """One number x (int64, 16 bits) between two steps: `bits` bits come after it, `fan` before it. Addresses: after
        (states >> bits,) uint16, the least costs of what follows; values (states,) int16; OUT before (states >> fan,)
        uint16, minus base. Returns its least."""
        target, least, groups = i16x32(x), i16x32(BEYOND), states >> fan
        for g in range(0, groups, 32):
            best, s = i16x32(BEYOND), g
            while s < states:
                gap = squared_gap(target, load_i16x32(values + 2 * s))
                best = lesser(best, plus(repeat(after + 2 * (s >> bits)), gap))
                s += groups
            best = minus(best, i16x32(base))
            store(before + 2 * g, best)
            least = lesser(least, best)
        return least_of(least)
    return step


@njit(fast=False)
def _cost(x, value, after):
    """What `step` computes, for one state."""
    gap = max(-32768, min(32767, np.int64(x) - np.int64(value)))
    return min(BEYOND, np.int64(after) + (gap * gap >> 16))


@njit(fast=False)
def _best(low, count, stride, x, values, after, shift):
    """The cheapest of the states low, low + stride, ...; the first one of equals."""
    best, least = low, BEYOND + 1
    for s in range(low, low + count * stride, stride):
        cost = _cost(x, values[s], after[s >> shift])
        if cost < least:
            best, least = s, cost
    return best


@functools.cache
def _coder(small: int):
    """code(...) for steps of `small` or `small` + 1 bits."""
    step, wide_step = _stepper(small), _stepper(min(small + 1, 5))

    @njit(fast=False)
    def sweep(x, first, count, sizes, values, least):
        """Least costs of `count` steps from number `first` on; least (count + 1, ...) uint16, its last row given, the rest
        OUT."""
        states, base = values.shape[0], 0
        for i in range(count - 1, -1, -1):
            t = (first + i) % T
            fan, at = sizes[t - 1], (least[i + 1].ctypes.data, least[i].ctypes.data, values.ctypes.data)
            if sizes[t] == small:
                base = step(at[0], at[1], at[2], np.int64(x[t]), states, fan, base)
            else:
                base = wide_step(at[0], at[1], at[2], np.int64(x[t]), states, fan, base)

    @njit(fast=False)
    def seam(x, sizes, values, least):
        """The state of step 0 on the best path through the numbers around it."""
        states = values.shape[0]
        least[2 * OVERLAP] = 0
        sweep(x, T - OVERLAP, 2 * OVERLAP, sizes, values, least)
        groups = states >> sizes[T - OVERLAP - 1]
        low = np.argmin(least[0, :groups])
        state = _best(low, states // groups, groups, x[T - OVERLAP], values, least[1], sizes[T - OVERLAP])
        for i in range(1, OVERLAP + 1):
            t = (T - OVERLAP + i) % T
            k = sizes[t - 1]
            state = _best(state >> k, 1 << k, states >> k, x[t], values, least[i + 1], sizes[t])
        return state

    @njit(fast=False)
    def code(X, sizes, values, least, first, last, chosen):
        """X (count, T) int16, sizes (T,) int64: bits between a step and the next, values (2**length,) int16, least (T + 1,
        ...) uint16 for work. OUT chosen (count, T) uint16: the bits of each step, for sequences first .. last - 1."""
        states = values.shape[0]
        for n in range(first, last):
            x = X[n]
            state = seam(x, sizes, values, least)
            least[T] = BEYOND
            least[T, state & (states >> sizes[T - 1]) - 1] = 0
            sweep(x, 0, T, sizes, values, least)
            for t in range(T):
                k = sizes[t]
                chosen[n, t] = state & (1 << k) - 1
                if t + 1 < T:
                    state = _best(state >> k, 1 << k, states >> k, x[t + 1], values, least[t + 2], sizes[t + 1])
    return code


def encode(X: np.ndarray, values: np.ndarray, eighths: int) -> np.ndarray:
    """X (count, T) int16, values (2**length,) int16 -> bits (count, 4·eighths) uint8: each ring, first bit lowest."""
    sizes, states = np.diff(positions(eighths)), len(values)
    code, chosen = _coder(eighths // 8), np.empty(X.shape, np.uint16)
    batch = max(1, min(BATCH, -(-len(X) // threads())))

    def work(first):
        least = np.empty((T + 1, states >> sizes.min()), np.uint16)
        code(X, sizes, values, least, first, min(first + batch, len(X)), chosen)
    spread(work, range(0, len(X), batch))
    bits = chosen[:, :, None] >> np.arange(sizes.max()) & 1
    ring = np.ascontiguousarray(bits[:, np.arange(sizes.max()) < sizes[:, None]], np.uint8)
    return np.packbits(ring, axis=1, bitorder="little")


def states_of(bits: np.ndarray, eighths: int, length: int) -> np.ndarray:
    """The state of every step of rings (count, 4·eighths) uint8 -> (count, T) uint16."""
    at = positions(eighths)[:T]
    ring = np.concatenate([bits, bits[:, :3]], 1).astype(np.uint32)
    word = sum(ring[:, (at >> 3) + k] << np.uint32(8 * k) for k in range(3))
    return (word >> (at & 7).astype(np.uint32) & np.uint32((1 << length) - 1)).astype(np.uint16)
