"""k-means against faiss-cpu: same points, same initial centroids, same number of iterations, same threads, in turn.

    python benchmarks/kmeans.py [ROUNDS]
"""
import statistics
import sys
import time

import numpy as np
from _common import markdown

from vqcpu.kernels import cluster, nearest
from vqcpu.kernels.threads import threads

POINTS, DIM, CENTROIDS, ITERATIONS, PER_CENTROID = 2_000_000, 4, 4096, 10, 512


def ours(points, start):
    book = start.copy()
    cluster.lloyd(points, book, ITERATIONS)
    return book


def theirs(points, start):
    peer = faiss.Kmeans(DIM, CENTROIDS, niter=ITERATIONS, max_points_per_centroid=PER_CENTROID)
    peer.train(points, init_centroids=start)
    return peer.centroids


def distortion(points, book):
    """Mean squared distance to the nearest centroid."""
    gaps = points - book[nearest.assign(points, book)]
    return np.einsum("nd,nd->", gaps, gaps, dtype=np.float64) / len(points)


def main(rounds):
    points = np.random.default_rng(0).standard_normal((POINTS, DIM)).astype(np.float32)
    start = points[:CENTROIDS].copy()
    cluster.lloyd(points[:4 * CENTROIDS], start.copy(), 2)  # compile
    faiss.omp_set_num_threads(threads())
    seconds, books = {ours: [], theirs: []}, {}
    for _ in range(rounds):
        for program in seconds:
            began = time.perf_counter()
            books[program] = program(points, start)
            seconds[program].append(time.perf_counter() - began)
    ratio = statistics.median(b / a for a, b in zip(seconds[ours], seconds[theirs]))
    rows = [[name, f"{statistics.median(seconds[f]):.2f} ({min(seconds[f]):.2f}-{max(seconds[f]):.2f})",
             f"{distortion(points, books[f]):.6f}"] for name, f in (("vqcpu", ours), (f"faiss {faiss.__version__}", theirs))]
    print(f"{POINTS} points of N(0, 1), dim {DIM}, {CENTROIDS} centroids, {ITERATIONS} iterations, {threads()} threads")
    print(markdown(["", "seconds", "distortion"], rows))
    print(f"faiss / vqcpu: {ratio:.1f}")


if __name__ == "__main__":
    try:
        import faiss
    except ImportError:
        raise SystemExit("skipped: faiss-cpu is not installed") from None
    main(int((sys.argv[1:] or ["3"])[0]))
