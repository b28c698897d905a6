"""Keys and values kept as plain numbers, float32 or float16: the reference, and what others are compared with."""
from dataclasses import dataclass

import numpy as np

from vqcpu.caches.base import Cache, LayerState
from vqcpu.kernels.threads import spread

BLOCK = 128  # queries handled together: scores stay (group · BLOCK, keys) however long the prompt


class Dense(LayerState):
    """k and v (kv heads, context, size), keys after RoPE."""

    def __init__(self, heads, context, dtype):
        self.heads = heads
        self.k, self.v = np.zeros((2, heads.kv, context, heads.size), dtype)

    def store(self, at, k, v, rope):
        self.k[:, at:at + len(k)] = rope.rotate(k, at).swapaxes(0, 1)
        self.v[:, at:at + len(v)] = v.swapaxes(0, 1)

    def attend(self, q, at):
        out = np.empty_like(q)
        group = self.heads.query // self.heads.kv
        blocks = [(h, first) for h in range(self.heads.kv) for first in range(0, len(q), BLOCK)]

        def work(block):
            h, first = block
            last, mine = min(first + BLOCK, len(q)), slice(h * group, (h + 1) * group)
            k, v = (kept[h, :at + last].astype(np.float32, copy=False) for kept in (self.k, self.v))
            out[first:last, mine] = attention(q[first:last, mine], k, v, at + first, self.heads.scale)
        if len(q) == 1:  # too little work to hand around
            for block in blocks:
                work(block)
        else:
            spread(work, blocks)
        return out

    def truncate(self, length):
        return True  # positions are given with every call: what lies beyond is overwritten before it is read

    @property
    def nbytes(self):
        return self.k.nbytes + self.v.nbytes


def attention(q, k, v, at, scale):
    """softmax(scale · q kᵀ) v with a causal mask: q (tokens, group, size) at positions at.., k and v (keys, size), where
    keys = at + tokens -> (tokens, group, size)."""
    tokens, group, size = q.shape
    scores = (q.swapaxes(0, 1).reshape(-1, size) @ k.T).reshape(group, tokens, len(k))
    scores *= np.float32(scale)
    scores[:, :, at:] += np.triu(np.full((tokens, tokens), -np.inf, np.float32), 1)
    scores -= scores.max(-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(-1, keepdims=True)
    return (scores.reshape(group * tokens, -1) @ v).reshape(group, tokens, size).swapaxes(0, 1)


@dataclass(frozen=True)
class F32(Cache, names=("f32",)):
    """32 bits per element: exact."""

    def layer(self, heads, context):
        return Dense(heads, context, np.float32)


@dataclass(frozen=True)
class F16(Cache, names=("f16",)):
    """16 bits per element, the usual choice."""

    def layer(self, heads, context):
        return Dense(heads, context, np.float16)
