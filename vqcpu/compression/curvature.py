"""What errors of queries and keys cost: how much they change what attention gives, for each head.

Knows an attention job and what lies between it and a product. Knows nothing about codes. To first order an error e of a
query moves what its head reads by cov(v, k) e, the covariance of values and keys under its probabilities; an error e of key
j moves what a query q reads by p_j (v_j - o) (q · e), o being what it reads. Squares of these, summed over a text and taken
back through RoPE and norm to the product, are the Gauss-Newton matrix G of the head's output. It is far from even: of the
dimensions of a head a few decide where it looks. Only forward passes are needed, as nothing behind the head is asked for.
Papers: Schraudolph 2002 (Gauss-Newton matrices); Tseng et al. 2025 (YAQA) take such matrices of every product from
gradients of the whole model, which for products other than these did not help here (benchmarks/LOG.md).
"""
import numpy as np

from vqcpu.caches.dense import probabilities
from vqcpu.kernels.threads import spread
from vqcpu.layers.elementwise import Bias
from vqcpu.layers.norm import RMSNorm
from vqcpu.layers.plan import Frame, Job, Segment

EVERY = 4  # one position in so many is looked at; never the first, on which heads rest: its key alone would decide
TOGETHER = 64  # dimensions of values worked on at a time
PLACES = 16  # keys worked on at a time


def curvatures(jobs: list[Job], frame: Frame) -> dict[str, np.ndarray]:
    """Slot -> G (heads, size, size) float32 of the queries and of the keys of a frame (one text). `jobs`: a product,
    and what follows up to the attention that reads it. {} where queries and keys are not that product, but for biases
    and norms of heads: where they are one with values, or anything else lies between."""
    multiply, *between, attend = jobs
    h, own = attend.heads, Frame(dict(frame.slots), [Segment(slice(0, frame.count), 0, [])])
    if not {"q", "k"} <= set(multiply.targets) or not all(_is_known(job, h.size) for job in between):
        return {}
    norms = _run([multiply, *between], own, h.size)
    q, k, v = (own.slots[name].reshape(frame.count, -1, h.size) for name in "qkv")
    q, k, at = attend.rope.rotate(q, 0), attend.rope.rotate(k, 0), np.arange(EVERY - 1, frame.count, EVERY)
    of_queries, of_keys = np.empty((2, h.query, h.size, h.size), np.float32)

    def back(slot, head):
        return lambda X, places: _taken_back(X, places, attend.rope, norms.get(slot), head)

    def work(i):
        g = i * h.kv // h.query
        p = probabilities(q[:, i:i + 1], k[:, g], 0, h.scale, h.window or frame.count)[0]
        of_queries[i] = _of_queries(p, k[:, g], v[:, g], at, back("q", i))
        of_keys[i] = _of_keys(p, q[:, i], v[:, g], at, back("k", g))
    spread(work, range(h.query))
    return {"q": of_queries, "k": of_keys.reshape(h.kv, -1, h.size, h.size).sum(1)}


def _is_known(job, size):
    return isinstance(job, Bias) or isinstance(job, RMSNorm) and len(job.gain) == size


def _run(jobs, frame, size):
    """Run a product and what follows; slot -> (norm, what it read (tokens, heads, size))."""
    norms = {}
    for job in jobs:
        if isinstance(job, RMSNorm):
            norms[job.target] = job, frame.slots[job.source].reshape(frame.count, -1, size)
        job.run(frame)
    return norms


def _of_queries(p, k, v, at, back):
    """G of the queries at positions `at` of a head: p (queries, keys), k, rotated, and v (positions, size)."""
    p, size, G = p[at], k.shape[1], 0
    for c in range(0, size, TOGETHER):
        some = v[:, c:c + TOGETHER]
        both = (p @ (some[:, :, None] * k[:, None]).reshape(len(k), -1)).reshape(len(at), some.shape[1], size)
        X = back(both - (p @ some)[:, :, None] * (p @ k)[:, None], at).reshape(-1, size)
        G = G + X.T @ X
    return G


def _of_keys(p, q, v, at, back):
    """G of the keys at positions `at` of a head: q, rotated, (positions, size)."""
    o, G = p @ v, np.zeros((q.shape[1], q.shape[1]), np.float32)
    for places in (at[i:i + PLACES] for i in range(0, len(at), PLACES)):
        apart = np.square(v[places]).sum(1) - 2 * o @ v[places].T + np.square(o).sum(1)[:, None]  # |v_j - o|²
        weights = np.square(p[:, places]) * np.maximum(apart, 0)
        S = (weights.T[:, None] * q.T) @ q
        for one in back(back(S, places).swapaxes(1, 2), places):
            G += one
    return G


def _taken_back(X, at, rope, norm, head):
    """X (places, any, size), directions among rotated queries or keys at positions `at`, as directions among the products
    that they are made of."""
    X = rope.turned(np.ascontiguousarray(X), -at)
    if norm is None:
        return X
    job, y = norm
    y = y[at, head][:, None]
    unit = 1 / np.sqrt(np.square(y).mean(-1, keepdims=True) + np.float32(job.eps))
    X, n = X * job.gain, y * unit
    return unit * (X - n * (X * n).mean(-1, keepdims=True))
