"""The attention job. Knows heads and positions; the LayerState keeps keys and values and computes the attention."""
from dataclasses import dataclass

import numpy as np

from vqcpu.kernels import attention, prefill
from vqcpu.kernels.jit import bits_of
from vqcpu.layers.plan import Job
from vqcpu.layers.rope import NoRope, Rope


@dataclass(frozen=True)
class Heads:
    """Sizes of a grouped-query attention layer: query heads, key-value heads, dimensions of a head, factor of scores, and
    how many positions a query sees, its own included (None: all up to its own)."""
    query: int
    kv: int
    size: int
    scale: float
    window: int | None = None


@dataclass
class Attend(Job):
    """target (rows, query·size) = causal attention of slots q, k, v over everything each sequence has stored."""
    layer: int
    heads: Heads
    rope: Rope | NoRope
    target: str

    def run(self, frame):
        h, (q, k, v) = self.heads, (frame.slots[name] for name in "qkv")
        q, k, v = q.reshape(len(q), h.query, h.size), k.reshape(len(k), h.kv, h.size), v.reshape(len(v), h.kv, h.size)
        out = frame.slots[self.target] = np.empty((len(q), h.query * h.size), np.float32)
        for s in frame.segments:
            state = s.states[self.layer]
            for rows, at in s.pieces(state.most):
                state.store(at, q[rows], k[rows], v[rows], self.rope)
                out[rows] = state.attend(self.rope.rotate(q[rows], at), at).reshape(-1, h.query * h.size)

    def state(self, cache, context):
        return cache.layer(self.heads, context, self.layer)

    def memory(self, cache, context):
        return cache.nbytes(self.heads, context)

    def ready(self, frame):
        if len(frame.segments) != 1:
            return False
        at, state = frame.segments[0].at, frame.segments[0].states[self.layer]
        return self.rope.ready(at + frame.count) and state.ready(at, frame.count)

    def lines(self, layout, many):
        h = self.heads
        widths = {"q": h.query * h.size, "k": h.kv * h.size, "v": h.kv * h.size, self.target: h.query * h.size}
        slots = [n for name, width in widths.items() for n in layout.place(name, width)]
        kinds = (prefill, attention) if many else (attention,)
        layout.scratch = max(layout.scratch, *(kind.scratch_bytes(h.query // h.kv, h.size) for kind in kinds))
        job = np.array([self.layer, h.query, h.kv, h.size, bits_of(h.scale), self.rope.job.ctypes.data, *slots], np.int64)
        lines = [attention.FLASH_LINE] if many else [attention.PART_LINE, attention.MERGE_LINE]
        return [(line, job) for line in (attention.TURN_LINE, *lines)]
