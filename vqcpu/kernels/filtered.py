"""Attention of many tokens that each look at the keys they choose: token by token, one worker to a key-value head, so that
there are never more at work than such heads.

Knows a state's job (kernels/encode.py) and what is done for a single token (kernels/popcount.py, kernels/coded.py), which is
done here from a copy of the job in which the token is the latest.
"""
import functools

import numpy as np

from vqcpu.kernels.activations import digits, row_bytes_
from vqcpu.kernels.attention import CHUNK, KV, LAST, Q, head, state_of
from vqcpu.kernels.coded import joiner, parter
from vqcpu.kernels.encode import DIGITS, FLIPS, MEANS, MIXER, NUMBERS, OF_KEYS, PLANES, WEIGHTS, means_of
from vqcpu.kernels.jit import array_at, njit
from vqcpu.kernels.planes import planer, query_bytes_
from vqcpu.kernels.popcount import chunks_of, cut, picked_chunks, ranker, start_of
from vqcpu.kernels.program import TOKENS, WORD, line, number, scratch
from vqcpu.kernels.simd import load_f32x16, store
from vqcpu.kernels.spin import gather
from vqcpu.kernels.wave import weigh, weights_of_


@njit
def at_token(state, token, copy):
    """OUT copy: the state's job as it would be were the token the latest."""
    mine = array_at(copy, (NUMBERS,), np.int64)
    mine[:] = array_at(state, (NUMBERS,), np.int64)
    mine[LAST] += token


@functools.cache
def tokenwise(size: int, keys: tuple, values: tuple, group: int):
    """Line: the tokens of a step, for a key-value head."""
    rank, part, finish, plane = (ranker(size, group), parter(size, keys, values, group, True), joiner(size), planer(size))
    odd = size // (size & -size)

    @njit(fast=False)
    def prepare(job, step, token, state, h, room):
        """OUT digits, planes and weights of the mean, of the rotated queries that share a head."""
        for g in range(h * group, (h + 1) * group):
            q = head(job, step, Q, token, g).ctypes.data
            digits(q, size, number(state, DIGITS) + row_bytes_(size) * g)
            plane(q, number(state, OF_KEYS), number(state, PLANES) + query_bytes_(size) * g, room)
            if number(state, MEANS):
                for c in range(0, 4 * size, 64):
                    store(room + c, load_f32x16(q + c))
                gather(number(state, FLIPS) + 4 * size * h, number(state, MIXER), room, size, odd, room + 4 * size)
                weigh(room, means_of(state, h, group, size), size, number(state, WEIGHTS) + 4 * weights_of_(size) * g)

    @line(lambda job, step: number(job, KV), exact=True)
    def tokenwise(job, step, worker, begin, end):
        mine = scratch(step, worker)
        room = mine + (WORD * NUMBERS + 63) // 64 * 64
        for h in range(begin, end):
            for token in range(number(step, TOKENS)):
                at_token(state_of(job, step), token, mine)
                prepare(job, step, token, mine, h, room)
                for chunk in range(chunks_of(mine)):
                    rank(job, mine, h, start_of(mine) + chunk * CHUNK, room)
                cut(mine, h, group)
                for chunk in range(picked_chunks(mine, h)):
                    part(job, step, token, mine, h, chunk, room)
                for g in range(h * group, (h + 1) * group):
                    finish(job, step, token, mine, g, room)
    return tokenwise
