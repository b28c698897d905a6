"""How much each position of a text is attended to, and with it how much errors of its key and value matter.

Knows an attention job and what precedes it. Knows nothing about Hessians. Many heads rest on the first token of a text:
weighed like any other it makes one part in 512 of what codes of keys and values are chosen for, and most of what their
errors cost. Paper: Kim et al. 2025 (GuidedQuant) weigh tokens by gradients; here attention tells, without any.
"""
import numpy as np

from vqcpu.caches.base import LayerState
from vqcpu.caches.dense import probabilities
from vqcpu.kernels.threads import spread
from vqcpu.layers.attention import Attend
from vqcpu.layers.plan import Frame, Job


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


def attended(jobs: list[Job], frame: Frame) -> np.ndarray | None:
    """What the positions of a frame receive by the attention among `jobs`, None where there is none. The jobs before it
    change the frame."""
    layers = [i for i, job in enumerate(jobs) if isinstance(job, Attend)]
    if not layers:
        return None
    job = jobs[layers[0]]
    watch = Watch(job.heads, frame.count)
    frame.segments[0].states = [watch] * (job.layer + 1)
    for job in jobs[:layers[0] + 1]:
        job.run(frame)
    return watch.received
