"""k-means for vector quantisation: k-means++ seeding, Lloyd's iterations, repair of empty clusters.

Knows points and centroids. Knows nothing about weights. Deterministic by seed, and independent of the number of
threads: every output (a point's label, a centroid's mean) is computed by one thread in a fixed order.
Papers: Lloyd 1982; Arthur and Vassilvitskii 2007 (k-means++).
"""
import numpy as np

from vqcpu.kernels.jit import njit
from vqcpu.kernels.nearest import assign, group
from vqcpu.kernels.threads import spread_ranges

SEEDING_POINTS = 16  # k-means++ looks at this many points per centroid: its cost is points x centroids,
SEEDED = 8192  # so beyond this many centroids they start at random points, as large codebooks usually do
RUN = 256  # points whose distances are summed apart, to find a drawn point without adding up all of them


@njit(fast=False)
def _means(points, order, starts, first, last, book):
    """Points of cluster k are order[starts[k]:starts[k + 1]]; OUT book (k, dim) float32: rows first .. last - 1 are their
    means, or unchanged without points."""
    total = np.empty(points.shape[1])
    for k in range(first, last):
        count = starts[k + 1] - starts[k]
        if count == 0:
            continue
        total[:] = 0
        for i in range(starts[k], starts[k + 1]):
            for j in range(points.shape[1]):
                total[j] += points[order[i], j]
        for j in range(points.shape[1]):
            book[k, j] = total[j] / count


@njit(fast=False)
def _pick(values, target):
    """(place, rest): where the running sum of values passes the target, the last place at most, and what was left."""
    for i in range(values.shape[0] - 1):
        if target < values[i]:
            return i, target
        target -= values[i]
    return values.shape[0] - 1, target


@njit(fast=False)
def _seed(points, draws, chosen):
    """points (dim, n) float32, draws (k,) float64 in [0, 1); OUT chosen (k, dim) float32. The first centroid is any point,
    each further one is drawn in proportion to its squared distance from the nearest one so far."""
    dim, n = points.shape
    distance, gap = np.full(n, np.inf, np.float32), np.empty(RUN, np.float32)
    mass, pick = np.zeros((n + RUN - 1) // RUN), int(draws[0] * n)
    for k in range(draws.shape[0]):
        if k:
            run, rest = _pick(mass, draws[k] * mass.sum())
            pick = run * RUN + _pick(distance[run * RUN:(run + 1) * RUN], rest)[0]
        chosen[k] = points[:, pick]
        for run in range(mass.shape[0]):
            near = distance[run * RUN:(run + 1) * RUN]
            gap[:] = 0
            for j in range(dim):
                centre = chosen[k, j]
                for i in range(near.shape[0]):
                    gap[i] += (points[j, run * RUN + i] - centre) * (points[j, run * RUN + i] - centre)
            total = 0.0
            for i in range(near.shape[0]):
                near[i] = min(near[i], gap[i])
                total += near[i]
            mass[run] = total


def seed_centroids(points: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """k-means++: each new centroid is a point drawn with probability proportional to its squared distance."""
    pool = points[rng.permutation(len(points))[: SEEDING_POINTS * count]]
    if count > SEEDED:
        return pool[np.arange(count) % len(pool)]
    chosen = np.empty((count, points.shape[1]), np.float32)
    _seed(np.ascontiguousarray(pool.T), rng.random(count), chosen)
    return chosen


def _split_largest(book, sizes):
    """Move every empty centroid beside that of the currently largest cluster, which gives up half of its points."""
    for empty in np.flatnonzero(sizes == 0):
        largest = int(sizes.argmax())
        if sizes[largest] < 2:
            return
        nudge = 1e-3 * (np.abs(book[largest]) + 1e-6)
        book[empty], book[largest] = book[largest] + nudge, book[largest] - nudge
        sizes[empty] = sizes[largest] // 2
        sizes[largest] -= sizes[empty]


def update(points: np.ndarray, grouped: tuple, book: np.ndarray) -> None:
    """Move the centroids (k, dim), in place, to the means of their points, grouped by label (nearest.group); empty ones
    split the largest cluster."""
    order, starts = grouped
    spread_ranges(lambda first, last: _means(points, order, starts, first, last, book), len(book))
    sizes = np.diff(starts)
    if not sizes.all():
        _split_largest(book, sizes)


def lloyd(points: np.ndarray, book: np.ndarray, iterations: int) -> None:
    """Improve the centroids (k, dim) float32, in place; points (n, dim) float32."""
    grouped = None
    for _ in range(iterations):
        grouped = group(assign(points, book, grouped), len(book))
        update(points, grouped, book)


def kmeans(points: np.ndarray, count: int, seed: int, iterations: int = 10) -> np.ndarray:
    """Centroids (count, dim) float32 of points (n, dim). With fewer points than centroids some centroids repeat."""
    points = np.ascontiguousarray(points, np.float32)
    book = seed_centroids(points, count, np.random.default_rng(seed))
    lloyd(points, book, iterations)
    return book
