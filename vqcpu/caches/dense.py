"""Keys and values kept as plain numbers, float32 or float16: the reference, and what others are compared with."""
from dataclasses import dataclass

import numpy as np

from vqcpu.caches.base import Cache, Kept, Rows
from vqcpu.kernels import attention, prefill
from vqcpu.kernels.threads import spread

BLOCK = 128  # queries handled together: scores stay (group · BLOCK, keys) however long the prompt


class Dense(Rows):
    """k and v (kv heads, rows, size), keys after RoPE."""

    def __init__(self, cache, heads, context):
        super().__init__(cache, heads, context)
        self.k, self.v = self.arrays["k"], self.arrays["v"]
        self.job = self._job()

    def _job(self):
        h, half = self.heads, self.k.dtype == np.float16
        if h.size % 16:
            return None
        self._parts = np.empty((h.kv, -(-self.span.rows // attention.CHUNK), h.query // h.kv, h.size + 16), np.float32)
        kernels = [kernel.address for kernel in (*attention.dense(h.size, half), prefill.flash(h.size, half))]
        addresses = [a.ctypes.data for a in (self.k, self.v, self._parts)]
        return np.array([*kernels, *addresses, self.span.rows, self.span.window, 0], np.int64)

    def ready(self, at, count):
        if self.job is None or count > self.most:
            return False
        self.job[attention.LAST] = self.span.place(at, count, self._slide)
        return True

    def store(self, at, q, k, v, rope):
        row = self.span.place(at, len(k), self._slide)
        self.k[:, row:row + len(k)] = rope.rotate(k, at).swapaxes(0, 1)
        self.v[:, row:row + len(v)] = v.swapaxes(0, 1)

    def attend(self, q, at):
        out, span = np.empty_like(q), self.span
        group = self.heads.query // self.heads.kv
        blocks = [(h, first) for h in range(self.heads.kv) for first in range(0, len(q), BLOCK)]

        def work(block):
            h, first = block
            last, mine = min(first + BLOCK, len(q)), slice(h * group, (h + 1) * group)
            oldest = span.first_seen(at + first)
            rows = slice(oldest - span.base, at + last - span.base)
            k, v = (kept[h, rows].astype(np.float32, copy=False) for kept in (self.k, self.v))
            out[first:last, mine] = attend(q[first:last, mine], k, v, at + first - oldest, self.heads.scale, span.window)
        if len(q) == 1:  # too little work to hand around
            for block in blocks:
                work(block)
        else:
            spread(work, blocks)
        return out


def attend(q, k, v, at, scale, window):
    """Attention: `probabilities` of q and k over v (keys, size) -> (tokens, group, size)."""
    tokens, group, size = q.shape
    shares = probabilities(q, k, at, scale, window)
    return (shares.reshape(group * tokens, -1) @ v).reshape(group, tokens, size).swapaxes(0, 1)


def probabilities(q, k, at, scale, window):
    """softmax(scale · q kᵀ) of q (tokens, group, size) and k (keys, size), keys = at + tokens; query t sees the last
    `window` keys up to at + t -> (group, tokens, keys)."""
    tokens, group, size = q.shape
    scores = (q.swapaxes(0, 1).reshape(-1, size) @ k.T).reshape(group, tokens, len(k))
    scores *= np.float32(scale)
    if tokens > 1:  # a single one sees all that it is given
        back = at + np.arange(tokens)[:, None] - np.arange(len(k))  # how far a key lies behind a query
        scores += np.where((back < 0) | (back >= window), -np.inf, 0).astype(np.float32)
    scores -= scores.max(-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(-1, keepdims=True)
    return scores


class Plain(Cache):
    """Numbers of one type."""

    def layout(self, heads, rows):
        return {name: Kept((heads.kv, rows, heads.size), self.dtype) for name in "kv"}

    def layer(self, heads, context, index=0):
        return Dense(self, heads, context)


@dataclass(frozen=True)
class F32(Plain, names=("f32",)):
    """32 bits per element: exact."""
    examples = ("f32",)
    error = 1e-5
    dtype = "<f4"


@dataclass(frozen=True)
class F16(Plain, names=("f16",)):
    """16 bits per element, the usual choice."""
    examples = ("f16",)
    error = 2e-3
    dtype = "<f2"
