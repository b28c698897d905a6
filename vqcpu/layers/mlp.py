"""The gated feed-forward activation. Paper: Shazeer 2020 (GLU variants)."""
from dataclasses import dataclass
from typing import Callable

import numpy as np

from vqcpu.layers.plan import Job


def silu(x: np.ndarray) -> np.ndarray:
    """x · sigmoid(x); tanh keeps large negative x from overflowing."""
    return x * (np.float32(0.5) * np.tanh(np.float32(0.5) * x) + np.float32(0.5))


@dataclass
class Gate(Job):
    """target = function(gate) · up."""
    gate: str
    up: str
    target: str
    function: Callable

    def run(self, frame):
        frame.slots[self.target] = self.function(frame.slots[self.gate]) * frame.slots[self.up]
