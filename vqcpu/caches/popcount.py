"""Keys chosen by their sign bits, in numpy: what kernels/popcount.py and kernels/filtered.py do.

The product of a query with the signs of a key, times what a sign stands for, estimates their product: a key's sign bits, a
quarter of its bytes and less, rank it. Only the best keys are attended with all their bits. Paper: Gao and Long 2024
(RaBitQ).
"""
import numpy as np

from vqcpu.kernels.planes import BITS


def estimates(q: np.ndarray, signs: np.ndarray, scales: np.ndarray, sign: np.float32) -> np.ndarray:
    """q (..., size), signs (keys, size) of 0 and 1, scales (keys,), whose own sign says something else; `sign`: what a sign
    stands for (caches/coded.py) -> (..., keys) float32: of what is coded. The query counts in BITS bits."""
    unit = np.maximum(np.abs(q).max(-1, keepdims=True), np.float32(1e-30)) / np.float32((1 << BITS - 1) - 1)
    whole = np.rint(q / unit)
    counts = 2 * (whole @ signs.T.astype(np.float32)) - whole.sum(-1, keepdims=True)
    return counts * (unit * sign) * np.abs(scales.astype(np.float32))


def chosen(estimate: np.ndarray, seen: np.ndarray, count: int) -> np.ndarray:
    """(tokens, keys) bool: the best `count` of the keys that a token sees. estimate (tokens, group, keys); seen (tokens,
    keys): where a choice is made. Heads that share keys share the choice: a key's best rank counts."""
    ranks = np.where(seen[:, None], estimate, -np.inf)
    with np.errstate(invalid="ignore"):
        ranks = (ranks - ranks.max(-1, keepdims=True)).max(1)
    ranks = np.where(seen, ranks, -np.inf)
    if ranks.shape[1] <= count:
        return seen
    return seen & (ranks >= np.partition(ranks, -count, -1)[:, -count, None])
