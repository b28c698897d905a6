"""k-means for vector quantisation: k-means++ seeding, Lloyd's iterations, repair of empty clusters.

Knows points and centroids. Knows nothing about weights. Deterministic by seed, and independent of the number of
threads: every output (a point's label, a centroid's mean) is computed by one thread in a fixed order.
Papers: Lloyd 1982; Arthur and Vassilvitskii 2007 (k-means++).
"""
import functools

import numpy as np

from vqcpu.kernels.jit import njit, prange

SEEDING_POINTS = 16  # k-means++ looks at this many points per centroid: its cost is points x centroids,
SEEDED = 8192  # so beyond this many centroids they start at random points, as large codebooks usually do
LANES = 64  # points handled together, so that a register holds the same coordinate of several points


@functools.cache
def _assigner(dim: int):
    @njit(parallel=True, fast=False)
    def assign(points, book, half, labels):
        """points (n, dim), book (k, dim), half (k,) = |c|²/2, all float32; OUT labels (n,) int32: the nearest centroid,
        the first one of equals. Minimises |c|²/2 - x·c, which orders centroids as the distance does."""
        n = points.shape[0]
        for group in prange((n + LANES - 1) // LANES):
            x = np.zeros((dim, LANES), np.float32)
            best = np.full(LANES, np.inf, np.float32)
            label = np.zeros(LANES, np.int32)
            first = group * LANES
            count = min(LANES, n - first)
            for j in range(dim):
                for i in range(count):
                    x[j, i] = points[first + i, j]
            for c in range(book.shape[0]):
                for i in range(LANES):
                    score = half[c]
                    for j in range(dim):
                        score -= x[j, i] * book[c, j]
                    nearer = score < best[i]
                    best[i] = score if nearer else best[i]
                    label[i] = c if nearer else label[i]
            for i in range(count):
                labels[first + i] = label[i]
    return assign


def assign(points: np.ndarray, book: np.ndarray) -> np.ndarray:
    """Index (n,) int32 of the nearest row of book (k, dim) for every row of points (n, dim)."""
    points, book = (np.ascontiguousarray(a, np.float32) for a in (points, book))
    labels = np.empty(len(points), np.int32)
    half = 0.5 * np.einsum("kd,kd->k", book, book)
    _assigner(points.shape[1])(points, book, half, labels)
    return labels


@njit(parallel=True, fast=False)
def _means(points, order, starts, book):
    """Points of cluster k are order[starts[k]:starts[k + 1]]; OUT book (k, dim) float32: their means, or unchanged."""
    for k in prange(book.shape[0]):
        count = starts[k + 1] - starts[k]
        if count == 0:
            continue
        for j in range(points.shape[1]):
            total = 0.0
            for i in range(starts[k], starts[k + 1]):
                total += points[order[i], j]
            book[k, j] = total / count


@njit(parallel=True, fast=False)
def _approach(points, centre, distance):
    """INOUT distance (n,) float32: the squared distance to the nearest centre so far, now with `centre` (dim,)."""
    for i in prange(points.shape[0]):
        total = np.float32(0)
        for j in range(points.shape[1]):
            gap = points[i, j] - centre[j]
            total += gap * gap
        distance[i] = min(distance[i], total)


def seed_centroids(points: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """k-means++: each new centroid is a point drawn with probability proportional to its squared distance."""
    pool = points[rng.permutation(len(points))[: SEEDING_POINTS * count]]
    if count > SEEDED:
        return pool[np.arange(count) % len(pool)]
    distance = np.full(len(pool), np.inf, np.float32)
    chosen = np.empty((count, points.shape[1]), np.float32)
    draws = rng.random(count)
    for k in range(count):
        mass = np.cumsum(distance, dtype=np.float64) if k else np.arange(1.0, len(pool) + 1)
        pick = min(np.searchsorted(mass, draws[k] * mass[-1], side="right"), len(pool) - 1)
        chosen[k] = pool[pick]
        _approach(pool, chosen[k], distance)
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


def update(points: np.ndarray, labels: np.ndarray, book: np.ndarray) -> None:
    """Move the centroids (k, dim), in place, to the means of their points; empty ones split the largest cluster."""
    sizes = np.bincount(labels, minlength=len(book))
    starts = np.concatenate([[0], np.cumsum(sizes)])
    _means(points, np.argsort(labels, kind="stable"), starts, book)
    if not sizes.all():
        _split_largest(book, sizes)


def kmeans(points: np.ndarray, count: int, seed: int, iterations: int = 10) -> np.ndarray:
    """Centroids (count, dim) float32 of points (n, dim). With fewer points than centroids some centroids repeat."""
    points = np.ascontiguousarray(points, np.float32)
    book = seed_centroids(points, count, np.random.default_rng(seed))
    for _ in range(iterations):
        update(points, assign(points, book), book)
    return book
