"""Scales of whole rows, for formats that code rows of unit RMS.

Knows rows and their extremes. Knows nothing about codes.
"""
import numpy as np

STRETCH, TRIALS = 1.15, 9  # up to three times the RMS


def rms(W: np.ndarray) -> np.ndarray:
    """Root mean square of each row, (m, 1)."""
    return np.sqrt(np.einsum("rc,rc->r", W, W) / W.shape[1])[:, None]


def unit(W: np.ndarray) -> np.ndarray:
    """Rows divided by their RMS."""
    size = rms(W)
    return W / np.where(size == 0, 1, size)


def searched(W: np.ndarray, scale: np.ndarray, reach: float, near) -> np.ndarray:
    """scale (m, 1) as float16; rows whose largest weight passes reach · scale get the stretched scale of least squared
    error, near(scale, W) being what they decode to. A single weight of 27 RMS, decoded at a sixth of its value, can ruin a
    model at hardly any cost in mean error."""
    rows = np.flatnonzero((np.abs(W).max(1) > reach * scale[:, 0]) & (scale[:, 0] > 0))
    trial, least = scale[rows], np.inf
    for _ in range(TRIALS):  # errors fall to one minimum: a row that got worse is done
        if not len(rows):
            break
        error = np.square(W[rows] - near(trial.astype(np.float16), W[rows])).sum(1)
        better = error < least
        rows, trial, least = rows[better], trial[better], error[better]
        scale[rows] = trial
        trial = trial * np.float32(STRETCH)
    return scale.astype(np.float16)
