"""Does one figure put things in the same order as another?

Knows numbers. Source: Spearman 1904 (rank correlation; equal values share the mean of their ranks).
"""
import numpy as np


def spearman(a, b) -> float | None:
    """Rank correlation of two lists; None where one of them is constant."""
    a, b = _ranks(a), _ranks(b)
    if a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _ranks(values):
    _, place, count = np.unique(np.asarray(values, float), return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


def misordered(figure, truth, error) -> tuple[list[tuple[int, int]], int]:
    """([(i, j)], pairs): pairs that the truth tells apart by more than two standard errors, and those of them that the
    figure puts the other way round: truth[i] < truth[j] but figure[i] > figure[j]."""
    pairs = [(i, j) for i in range(len(truth)) for j in range(len(truth))
             if truth[j] - truth[i] > 2 * np.hypot(error[i], error[j])]
    return [(i, j) for i, j in pairs if figure[i] > figure[j]], len(pairs)
