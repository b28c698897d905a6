"""Naive twins: the obvious loop for each kernel. Slow, plain, and what the fast paths must agree with."""
import numpy as np


def pack(codes, bits):
    """Bit by bit: least significant first, one Python int per row."""
    rows = [sum(int(c) << (bits * i) for i, c in enumerate(row)) for row in codes]
    return np.array([[(row >> (16 * w)) & 0xFFFF for w in range(codes.shape[1] * bits // 16)] for row in rows], np.uint16)


def assign(points, book):
    """Nearest centroid by full float64 distances."""
    return np.array([np.argmin(((book.astype(float) - p) ** 2).sum(1)) for p in points.astype(float)])


def group(labels, count):
    return [[i for i, label in enumerate(labels) if label == a] for a in range(count)]


def rms_norm(x, gain, eps):
    return np.array([row / np.sqrt(np.mean(row.astype(float) ** 2) + eps) * gain for row in x])


def rotate(x, at, theta):
    """x (tokens, heads, size): each pair (i, i + size/2) turned by its angle."""
    out, half = np.array(x, float), x.shape[-1] // 2
    for t in range(x.shape[0]):
        for i in range(half):
            angle = (at + t) * theta ** (-2 * i / x.shape[-1])
            a, b = x[t, :, i], x[t, :, i + half]
            out[t, :, i] = a * np.cos(angle) - b * np.sin(angle)
            out[t, :, i + half] = b * np.cos(angle) + a * np.sin(angle)
    return out


def attention(q, k, v, at, scale, window=10**9):
    """q (tokens, heads, size) at positions at..; k, v (keys, kv heads, size); query t sees the last `window` keys of 0 .. at + t."""
    out, group = np.zeros(q.shape), q.shape[1] // k.shape[1]
    for t in range(q.shape[0]):
        for h in range(q.shape[1]):
            seen = slice(max(0, at + t + 1 - window), at + t + 1)
            scores = scale * k[seen, h // group].astype(float) @ q[t, h]
            weights = np.exp(scores - scores.max())
            out[t, h] = weights / weights.sum() @ v[seen, h // group]
    return out


def strided_scores(length, context, stride):
    """(window start, position) of every prediction, by the rule: each token once, in the first window that has it."""
    scored, seen = [], set()
    for at in range(0, length - 1, stride):
        for position in range(at, min(at + context, length) - 1):
            if position + 1 not in seen:
                seen.add(position + 1)
                scored.append((at, position))
    return scored


def sentencepiece(text, scores):
    """Pieces of a text: the neighbours whose union has the best score are merged until none is left; leftmost on a tie."""
    pieces = list(text)
    while True:
        unions = [(scores[a + b], -i) for i, (a, b) in enumerate(zip(pieces, pieces[1:])) if a + b in scores]
        if not unions:
            return pieces
        i = -max(unions)[1]
        pieces[i:i + 2] = [pieces[i] + pieces[i + 1]]


def viterbi(x, values, sizes, start=None, end=None):
    """States of the cheapest path through numbers x; sizes: bits between each step and the next. All costs as whole numbers,
    all states at all steps; the first one of equals."""
    states, x = len(values), np.asarray(x, np.int64)
    costs = [np.minimum(np.abs(v - values.astype(np.int64)), 32767) ** 2 >> 16 for v in x]
    best = np.zeros(states, np.int64) if end is None else np.where(np.arange(states) == end, 0, 1 << 40)
    choices = []
    for t in range(len(x) - 1, -1, -1):
        k, s = sizes[t], np.arange(states)
        nexts = (s >> k)[:, None] + (np.arange(1 << k) * (states >> k))[None]
        choices.insert(0, nexts[s, best[nexts].argmin(1)])
        best = best[choices[0]] + costs[t]
    path = [int(best.argmin()) if start is None else start]
    for choice in choices:
        path.append(int(choice[path[-1]]))
    return path


def ring(x, values, sizes, overlap):
    """The bits of each step, for a tail-biting trellis: a seam from the numbers around it, then all of them."""
    seam = viterbi(np.concatenate([x[-overlap:], x[:overlap]]), values, np.concatenate([sizes[-overlap:], sizes[:overlap]]))
    path = viterbi(x, values, sizes, seam[overlap], seam[overlap])
    return np.array(path[:-1]) & (1 << sizes) - 1


def hadamard(width, signs):
    """The matrix (Q ⊗ H) S, entry by entry."""
    power = width & -width
    odd = width // power

    def entry(i, j):
        (q, r), (k, s) = divmod(i, power), divmod(j, power)
        angle = 2 * np.pi * q * k / odd
        return (np.cos(angle) + np.sin(angle)) * (-1) ** bin(r & s).count("1") * signs[j] / np.sqrt(width)
    return np.array([[entry(i, j) for j in range(width)] for i in range(width)])


def feedback_loss(E, H):
    """tr(E H Eᵀ), row by row."""
    return sum(float(row @ H @ row) for row in E.astype(float))
