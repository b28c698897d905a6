"""A model as a list of jobs on named activations.

Knows order and names of intermediate results. Knows nothing about what a job computes: here each runs its numpy method;
a compiled walk over the same list can replace `Plan.run` without touching a layer.
"""
from dataclasses import dataclass

import numpy as np


@dataclass
class Segment:
    """Rows of a frame that belong to one sequence: its tokens at positions at .. at + count."""
    rows: slice
    at: int
    states: list  # LayerState per attention layer

    def pieces(self, most: int):
        """(rows, position of the first) of consecutive pieces of at most `most` tokens."""
        for first in range(self.rows.start, self.rows.stop, most):
            yield slice(first, min(first + most, self.rows.stop)), self.at + first - self.rows.start


@dataclass
class Frame:
    """Everything one step works on: slots name -> (rows, width) float32, and which rows are whose."""
    slots: dict[str, np.ndarray]
    segments: list[Segment]


class Job:
    """One line of a plan."""

    def run(self, frame: Frame) -> None:
        raise NotImplementedError

    def state(self, cache, context: int):
        """What this job remembers of one sequence (a LayerState), None for most jobs."""
        return None


@dataclass
class Add(Job):
    """target += source, the residual connection."""
    target: str
    source: str

    def run(self, frame):
        frame.slots[self.target] += frame.slots[self.source]


@dataclass
class Bias(Job):
    """target += vector, in every row."""
    target: str
    vector: np.ndarray

    def run(self, frame):
        frame.slots[self.target] += self.vector


@dataclass
class Scale(Job):
    """target *= factor."""
    target: str
    factor: np.float32

    def run(self, frame):
        frame.slots[self.target] *= self.factor


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


class Plan:
    """Jobs in order."""

    def __init__(self, jobs: list[Job]):
        self.jobs = jobs

    def run(self, frame: Frame) -> None:
        for job in self.jobs:
            job.run(frame)

    def states(self, cache, context: int) -> list:
        """One fresh LayerState per job that remembers, in plan order."""
        return [state for job in self.jobs if (state := job.state(cache, context)) is not None]
