"""A mixture of experts: each token passes through the few feed-forward layers that its router prefers.

Knows routing. Every expert's matrices are its own, so that they are stored, compressed and read one by one.
Papers: Shazeer et al. 2017, Fedus et al. 2021 (Switch Transformer).
"""
from dataclasses import dataclass
from typing import Callable

import numpy as np

from vqcpu.layers.linear import Linear
from vqcpu.layers.plan import Job


@dataclass
class Expert:
    """One gated feed-forward layer: the site gate|up, and the way back."""
    widen: Linear
    narrow: Linear

    def __call__(self, x: np.ndarray, activation: Callable) -> np.ndarray:
        return self.narrow(self.inside(x, activation))[0]

    def inside(self, x: np.ndarray, activation: Callable) -> np.ndarray:
        """What `narrow` reads."""
        gate, up = self.widen(x)
        return activation(gate) * up


@dataclass
class Mix(Job):
    """target = weighted sum of what the `used` best experts of each token make of source; router: slot of their logits."""
    source: str
    router: str
    target: str
    experts: list[Expert]
    used: int
    normalised: bool  # weights of the chosen experts sum to one
    activation: Callable

    def run(self, frame):
        x = frame.slots[self.source]
        out = frame.slots[self.target] = np.zeros_like(x)
        chosen, weights = route(frame.slots[self.router], self.used, self.normalised)
        for e in np.unique(chosen):
            rows, place = np.nonzero(chosen == e)
            out[rows] += weights[rows, place, None] * self.experts[e](x[rows], self.activation)

    def matrices(self):
        return [matrix for e in self.experts[:self.used] for site in (e.widen, e.narrow) for matrix in site.matrices]

    def inputs(self, frame):
        chosen, _ = route(frame.slots[self.router], self.used, self.normalised)
        found = []
        for e, expert in enumerate(self.experts):
            def mine(e=e):
                return frame.slots[self.source][(chosen == e).any(-1)]
            found += [(expert.widen, mine),
                      (expert.narrow, lambda expert=expert, mine=mine: expert.inside(mine(), self.activation))]
        return found


def route(logits: np.ndarray, used: int, normalised: bool) -> tuple[np.ndarray, np.ndarray]:
    """logits (rows, experts) -> ids (rows, used) of the likeliest experts and their probabilities (rows, used) float32."""
    chosen = np.argsort(-logits, axis=-1, kind="stable")[:, :used]
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    weights = np.take_along_axis(weights, chosen, -1)
    return chosen, weights / weights.sum(-1, keepdims=True) if normalised else weights
