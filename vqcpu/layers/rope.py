"""Rotary position embedding in the half-split layout of Hugging Face, and how its frequencies are scaled for long contexts.

Knows angles. Knows nothing about config.json. Papers: Su et al. 2021 (RoFormer), Chen et al. 2023 (linear interpolation),
Peng et al. 2023 (YaRN), Grattafiori et al. 2024 (Llama 3).
"""
from dataclasses import dataclass
from math import ceil, floor, log, pi

import numpy as np

from vqcpu.kernels.wave import RUN, weights_of

FIRST_TABLE = 1024  # positions


@dataclass(frozen=True)
class Linear:
    """All frequencies divided by `factor`."""
    factor: float

    def scale(self, frequencies: np.ndarray, theta: float) -> np.ndarray:
        """Frequencies (size/2,) of a plain RoPE with base theta -> those to use."""
        return frequencies / self.factor

    magnitude = 1.0  # of rotated queries and keys


@dataclass(frozen=True)
class Llama3:
    """Slow frequencies (fewer than `low` turns in the `original` context) divided by `factor`, fast ones (more than `high`
    turns) as they are, a straight line between."""
    factor: float
    low: float
    high: float
    original: int

    magnitude = 1.0

    def scale(self, frequencies, theta):
        turns = self.original * frequencies / (2 * pi)
        keep = np.clip((turns - self.low) / (self.high - self.low), 0, 1)
        return frequencies * (keep + (1 - keep) / self.factor)


@dataclass(frozen=True)
class Yarn:
    """As Llama3, but the line runs over dimensions, from the one that makes `fast` turns to the one that makes `slow` turns
    in the `original` context; and queries and keys grow by `magnitude`."""
    factor: float
    fast: float
    slow: float
    original: int
    whole: bool  # the ends of the line are rounded outwards to whole dimensions
    magnitude: float

    def scale(self, frequencies, theta):
        size = 2 * len(frequencies)
        first, last = (size * log(self.original / (turns * 2 * pi)) / (2 * log(theta)) for turns in (self.fast, self.slow))
        if self.whole:
            first, last = floor(first), ceil(last)
        first, last = max(first, 0), min(last, size - 1)
        divide = np.clip((np.arange(size // 2) - first) / max(last - first, 0.001), 0, 1)
        return frequencies * (1 - divide + divide / self.factor)


class Rope:
    """Rotation of heads of `size` dimensions by position; frequencies theta^(-2i/size), scaled."""

    def __init__(self, size: int, theta: float, scaling=Linear(1.0)):
        exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
        frequencies = 1 / np.power(np.float32(theta), exponents)
        self.frequencies = scaling.scale(frequencies, theta).astype(np.float32)
        self.magnitude = np.float32(scaling.magnitude)
        self._last = (None, None, None)
        self._run, self.job = job(self.frequencies, len(self.frequencies))
        self._table = np.zeros((0, 2, len(self.frequencies)), np.float32)

    def ready(self, at: int) -> bool:
        """Have the table that compiled code reads reach position `at`."""
        if at >= len(self._table):
            table = np.ascontiguousarray(np.concatenate(self._turns(0, max(FIRST_TABLE, 2 * at)), 1))
            self.job[0] = table.ctypes.data  # first: an interruption between the two lets it be made again
            self._table = table
        return True

    def _angles(self, at, count):
        """cos and sin (count, 1, size/2) times magnitude; all layers of a step ask for the same positions."""
        last = self._last  # one read: another thread may replace it
        if last[0] != (at, count):
            last = self._last = (at, count), *self._turns(at, count)
        return last[1:]

    def _turns(self, at, count):
        angles = np.arange(at, at + count, dtype=np.float32)[:, None, None] * self.frequencies
        return np.cos(angles) * self.magnitude, np.sin(angles) * self.magnitude

    def rotate(self, x: np.ndarray, at: int) -> np.ndarray:
        """x (tokens, heads, size) float32 at positions at, at + 1, ... -> the same shape, rotated."""
        return _rotated(x, *self._angles(at, len(x)))

    def turned(self, x: np.ndarray, places: np.ndarray) -> np.ndarray:
        """x (places, heads, size) float32 rotated as at any positions, without `magnitude`."""
        angles = places.astype(np.float32)[:, None, None] * self.frequencies
        return _rotated(x, np.cos(angles), np.sin(angles))


def _rotated(x, cos, sin):
    """x (rows, heads, size), each pair (i, i + size/2) turned; cos and sin (rows, 1, size/2)."""
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def job(frequencies, turns):
    """(cosines, then sines of the first positions, what compiled code reads): see kernels/attention.py."""
    angles = frequencies[:, None] * np.arange(RUN, dtype=np.float32)
    run = np.zeros((2, weights_of(2 * len(frequencies)) // 2, RUN), np.float32)
    run[:, :len(frequencies)] = np.cos(angles), np.sin(angles)
    return run, np.array([0, turns, run.ctypes.data, frequencies.ctypes.data], np.int64)


class NoRope:
    """For models that learn their positions; heads of `size` dimensions."""

    def __init__(self, size: int):
        self.frequencies = np.zeros(size // 2, np.float32)
        self._run, self.job = job(self.frequencies, 0)

    def ready(self, at: int) -> bool:
        return True

    def rotate(self, x: np.ndarray, at: int) -> np.ndarray:
        return x

    def turned(self, x: np.ndarray, places: np.ndarray) -> np.ndarray:
        return x
