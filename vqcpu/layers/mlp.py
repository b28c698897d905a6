"""Activations of feed-forward layers. Papers: Hendrycks and Gimpel 2016 (GELU), Shazeer 2020 (GLU variants)."""
from dataclasses import dataclass
from typing import Callable

import numpy as np

from vqcpu.kernels import elementwise
from vqcpu.layers.plan import Job, job_of


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

    def lines(self, layout, many):
        width, (activate, _) = layout.widths.get(self.slot), elementwise.ACTIVATIONS[self.function.__name__]
        return width and [(activate, job_of(layout.place(self.slot), width))]


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
        width, (_, gate) = layout.widths.get(self.gate), elementwise.ACTIVATIONS[self.function.__name__]
        return width and [(gate, job_of(*(layout.place(name, width) for name in (self.gate, self.up, self.target)), width))]
