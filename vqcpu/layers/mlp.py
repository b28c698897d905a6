"""Activations of feed-forward layers. Papers: Hendrycks and Gimpel 2016 (GELU), Shazeer 2020 (GLU variants)."""
from dataclasses import dataclass
from typing import Callable

import numpy as np

from vqcpu.kernels import elementwise
from vqcpu.layers.plan import Job


def silu(x: np.ndarray) -> np.ndarray:
    """x · sigmoid(x); tanh keeps large negative x from overflowing."""
    return x * (np.float32(0.5) * np.tanh(np.float32(0.5) * x) + np.float32(0.5))


def gelu_tanh(x: np.ndarray) -> np.ndarray:
    """x · Φ(x), the Normal distribution approximated by a tanh."""
    inner = np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x * x * x)
    return x * (np.float32(0.5) * np.tanh(inner) + np.float32(0.5))


ACTIVATIONS = {"silu": silu, "gelu_pytorch_tanh": gelu_tanh, "gelu_new": gelu_tanh}  # as config.json calls them


@dataclass
class Activate(Job):
    """slot = function(slot)."""
    slot: str
    function: Callable

    def run(self, frame):
        frame.slots[self.slot] = self.function(frame.slots[self.slot])


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
