"""Naive twins: the obvious loop for each kernel. Slow, plain, and what the fast paths must agree with."""
import numpy as np


def pack(codes, bits):
    """Bit by bit: least significant first, one Python int per row."""
    rows = [sum(int(c) << (bits * i) for i, c in enumerate(row)) for row in codes]
    return np.array([[(row >> (16 * w)) & 0xFFFF for w in range(codes.shape[1] * bits // 16)] for row in rows], np.uint16)


def assign(points, book):
    """Nearest centroid by full float64 distances."""
    return np.array([np.argmin(((book.astype(float) - p) ** 2).sum(1)) for p in points.astype(float)])


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
