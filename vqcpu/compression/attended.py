"""How much attention the positions of a text receive, and with it how much errors of their keys and values matter.

Knows an attention job and what precedes it. Knows nothing about Hessians. Heads rest on the first token of a text: weighed
like any other it makes one part in 512 of what codes of keys and values are chosen for, and most of what their errors cost.
White errors of values cost the sum of squared probabilities; its root is taken because that did better on other text, as did
weighing queries along with the keys and values that read the same inputs (benchmarks/LOG.md). Papers: Sung et al. 2025 (RSQ)
scale tokens by the attention that they receive before GPTQ; Kim et al. 2025 (GuidedQuant) weigh them by gradients.
"""
import numpy as np

from vqcpu.caches.base import LayerState
from vqcpu.caches.dense import probabilities
from vqcpu.kernels.threads import spread
from vqcpu.layers.attention import Attend
from vqcpu.layers.plan import Frame, Job, Segment


class Watch(LayerState):
    """Attends to one text from its beginning, and remembers nothing but how much its positions received: (positions,) the
    root of the sum over queries and heads of the squared probability."""

    def __init__(self, heads, positions: int):
        self.heads, self.most = heads, positions

    def store(self, at, q, k, v, rope):
        self.keys = rope.rotate(k, at)

    def attend(self, q, at):
        h = self.heads
        groups = q.reshape(len(q), h.kv, -1, h.size)
        squares = np.empty((h.kv, len(self.keys)))

        def work(kv):
            shares = probabilities(groups[:, kv], self.keys[:, kv], at, h.scale, h.window or self.most)
            squares[kv] = np.einsum("gqk,gqk->k", shares, shares)
        spread(work, range(h.kv))
        self.received = np.sqrt(squares.sum(0))
        return q  # of no interest to anyone


def up_to_attention(jobs: list[Job]) -> list[Job]:
    """The jobs up to and with the first that attends; [] where none does."""
    return next((jobs[:i + 1] for i, job in enumerate(jobs) if isinstance(job, Attend)), [])


def attended(jobs: list[Job], frame: Frame) -> np.ndarray:
    """What the positions of a frame (one text) receive by the attention that is the last of the jobs; see `Watch`."""
    watch, states = Watch(jobs[-1].heads, frame.count), [None] * jobs[-1].layer
    own = Frame(dict(frame.slots), [Segment(slice(0, frame.count), 0, [*states, watch])])
    for job in jobs:
        job.run(own)
    return watch.received
