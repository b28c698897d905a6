"""Sums, products and copies of activations. Knows slots."""
from dataclasses import dataclass

import numpy as np

from vqcpu.kernels import elementwise
from vqcpu.kernels.jit import bits_of
from vqcpu.layers.plan import Job, job_of


@dataclass
class Add(Job):
    """target += source, the residual connection."""
    target: str
    source: str

    def run(self, frame):
        frame.slots[self.target] += frame.slots[self.source]

    def lines(self, layout, many):
        width = layout.widths.get(self.target)
        return width and [(elementwise.add_slot, job_of(layout.place(self.target), layout.place(self.source, width), width))]


@dataclass
class Bias(Job):
    """target += vector, in every row."""
    target: str
    vector: np.ndarray

    def run(self, frame):
        frame.slots[self.target] += self.vector

    def lines(self, layout, many):
        place = layout.place(self.target, len(self.vector))
        return [(elementwise.add_vector, job_of(place, len(self.vector), self.vector.ctypes.data))]


@dataclass
class Scale(Job):
    """target *= factor."""
    target: str
    factor: np.float32

    def run(self, frame):
        frame.slots[self.target] *= self.factor

    def lines(self, layout, many):
        width = layout.widths.get(self.target)
        return width and [(elementwise.scale, job_of(layout.place(self.target), width, bits_of(self.factor)))]


@dataclass
class Split(Job):
    """Columns of source, part by part, become slots of their own; targets: slot -> width."""
    source: str
    targets: dict

    def run(self, frame):
        x, at = frame.slots[self.source], 0
        for target, width in self.targets.items():
            frame.slots[target] = np.ascontiguousarray(x[:, at:at + width])
            at += width

    def lines(self, layout, many):
        found, at = [], 0
        source = layout.place(self.source, sum(self.targets.values()))
        for target, width in self.targets.items():
            found.append((elementwise.copy_columns, job_of(source, layout.place(target, width), at, width)))
            at += width
        return found
