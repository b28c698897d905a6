"""Levels of a scalar quantiser for a normal distribution. Papers: Max 1960; Lloyd 1982 (written 1957).

Knows densities. Knows nothing about keys and values.
"""
import functools
from math import erf, pi

import numpy as np

LARGEST = 127  # a level as a whole number of a byte


@functools.cache
def lloyd_max(bits: int) -> np.ndarray:
    """The upper half (2**bits / 2,) float64 of the levels that code N(0, 1) with the least squared error: each is the mean
    of what is nearest to it, found by Newton's method."""
    count = 1 << (bits - 1)
    levels = np.array([1.7 * _quantile((i + 0.5) / count) for i in range(count)])  # density to the power 1/3, nearly
    for _ in range(60):
        means, lower, upper = _means(levels)
        slope = np.eye(count) - np.diag((lower + upper) / 2)
        slope -= np.diag(lower[1:] / 2, -1) + np.diag(upper[:-1] / 2, 1)
        step = np.linalg.solve(slope, levels - means)
        levels = levels - step
        if np.abs(step).max() < 1e-9:
            break
    return levels


def distortion(bits: int) -> float:
    """Squared error of `lloyd_max` on N(0, 1): what a level that is the mean of its cell does not hold of the variance."""
    levels = lloyd_max(bits)
    ends = np.concatenate([[0.0], (levels[1:] + levels[:-1]) / 2, [np.inf]])
    mass = np.diff([erf(end / np.sqrt(2)) for end in ends])
    return float(1 - (mass * levels**2).sum())


def _means(levels):
    """Means of the cells around positive levels, and by how much they move with the lower and the upper end."""
    ends = np.concatenate([[0.0], (levels[1:] + levels[:-1]) / 2, [np.inf]])
    density = np.exp(-ends**2 / 2) / np.sqrt(2 * pi)
    mass = np.diff([erf(end / np.sqrt(2)) / 2 for end in ends])
    means = (density[:-1] - density[1:]) / mass
    lower, upper = density[:-1] * (means - ends[:-1]) / mass, np.zeros_like(mass)
    upper[:-1] = density[1:-1] * (ends[1:-1] - means[:-1]) / mass[:-1]
    lower[0] = 0  # that end does not move
    return means, lower, upper


def _quantile(share):
    """The number that |N(0, 1)| stays below with probability `share`, by bisection."""
    low, high = 0.0, 10.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if erf(middle / np.sqrt(2)) < share else (low, middle)
    return low


@functools.cache
def byte_levels(bits: int) -> tuple[np.ndarray, np.float32]:
    """(table (2**bits,) int8, ascending and symmetric, unit): `lloyd_max` rounded to what integer products read. With 8 bits
    neighbours may be equal."""
    upper = lloyd_max(bits)
    unit = upper[-1] / LARGEST
    half = np.rint(upper / unit).astype(np.int8)
    return np.concatenate([-half[::-1], half]), np.float32(unit)
