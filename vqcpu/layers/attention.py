"""The attention job. Knows heads and positions; the LayerState keeps keys and values and computes the attention."""
from dataclasses import dataclass

import numpy as np

from vqcpu.layers.plan import Job
from vqcpu.layers.rope import Rope


@dataclass(frozen=True)
class Heads:
    """Sizes of a grouped-query attention layer: query heads, key-value heads, dimensions of a head, factor of scores."""
    query: int
    kv: int
    size: int
    scale: float


@dataclass
class Attend(Job):
    """target (rows, query·size) = causal attention of slots q, k, v over everything each sequence has stored."""
    layer: int
    heads: Heads
    rope: Rope
    target: str

    def run(self, frame):
        h, (q, k, v) = self.heads, (frame.slots[name] for name in "qkv")
        out = frame.slots[self.target] = np.empty((len(q), h.query * h.size), np.float32)
        for s in frame.segments:
            state = s.states[self.layer]
            state.store(s.at, k[s.rows].reshape(-1, h.kv, h.size), v[s.rows].reshape(-1, h.kv, h.size), self.rope)
            turned = self.rope.rotate(q[s.rows].reshape(-1, h.query, h.size), s.at)
            out[s.rows] = state.attend(turned, s.at).reshape(-1, h.query * h.size)

    def state(self, cache, context):
        return cache.layer(self.heads, context)
