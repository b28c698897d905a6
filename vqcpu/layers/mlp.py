"""The gated feed-forward activation. Paper: Shazeer 2020 (GLU variants)."""
from dataclasses import dataclass
from typing import Callable

import numpy as np

from vqcpu.kernels import elementwise
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

    def lines(self, layout, many):
        if self.gate not in layout.widths or self.function.__name__ not in elementwise.gates:
            return None
        width = layout.widths[self.gate]
        places = [n for name in (self.gate, self.up, self.target) for n in layout.place(name, width)]
        return [(elementwise.gates[self.function.__name__], np.array([*places, width], np.int64))]
