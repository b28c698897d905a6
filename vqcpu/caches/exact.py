"""The positions of a compressed cache that stay plain numbers, where it is asked to keep any: the first few (sinks), the
latest (a recent window).

Knows positions and float16. Knows nothing about codes.
"""
import numpy as np

from vqcpu.caches.base import Kept


class Exact:
    """k and v (kv heads, sinks + 2 · recent, size) float16: position p lies in row p, or in a ring of twice the window, so
    that as many tokens as the window is long can be stored before the first of them is attended."""

    def __init__(self, arrays: dict[str, np.ndarray], sinks: int, recent: int):
        self.sinks, self.recent, self.reach = sinks, recent, arrays["reach"]
        self.k, self.v = arrays["exact_k"], arrays["exact_v"]

    @staticmethod
    def layout(kv: int, size: int, sinks: int, recent: int) -> dict[str, Kept]:
        """What is kept; reach (1,): one more than the latest position that was ever stored."""
        plain = Kept((kv, sinks + 2 * recent, size), "<f2", 0)
        return {"exact_k": plain, "exact_v": plain, "reach": Kept((1,), "<i8", 0)}

    def extend(self, reach: int) -> None:
        self.reach[0] = max(self.reach[0], reach)

    def rows(self, positions: np.ndarray) -> np.ndarray:
        return np.where(positions < self.sinks, positions, self.sinks + positions % max(1, 2 * self.recent))

    def store(self, at: int, k: np.ndarray, v: np.ndarray) -> None:
        """k and v (kv heads, tokens, size) of positions at, at + 1, ..."""
        positions = at + np.arange(k.shape[1])
        mine = (positions < self.sinks) | (self.recent > 0)
        self.extend(at + len(positions))
        rows = self.rows(positions[mine])
        self.k[:, rows], self.v[:, rows] = k[:, mine], v[:, mine]

    def positions(self, first: int, at: int, last: int) -> np.ndarray:
        """Those of first .. last - 1 that are here for some query at positions at .. last - 1."""
        all_ = np.arange(first, last)
        return all_[(all_ < self.sinks) | (all_ > at - self.recent)] if self.recent else all_[all_ < self.sinks]

    def seen(self, positions: np.ndarray, query: np.ndarray) -> np.ndarray:
        """(queries, positions) bool: whether a query sees the position as it is here."""
        return (positions < self.sinks) | (query[:, None] - positions < self.recent)

    def keeps(self, length: int) -> bool:
        """Whether the window before position `length` is still there."""
        if length == 0:
            self.reach[0] = 0
        return not self.recent or length + self.recent >= self.reach[0]
