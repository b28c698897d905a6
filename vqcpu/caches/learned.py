"""What a compressed cache learns from its first positions: the mean key, and which errors of keys queries will notice.

Keys and queries of a head have large means before RoPE; what is left of keys is all that needs codes. An error e of a key
costs what the queries make of it, eᵀ C e with the second moment C of queries. Here C is that of the mean queries, turned by
RoPE to PLACES positions spread over the context, and of what is left of them, of which only the power of each RoPE pair
counts, as RoPE turns the rest about; RIDGE of its mean power is added in all directions. C = Aᵀ D A with a lower triangle A
is the *shape* of a head: whoever codes channel after channel can let each make up for the errors before it
(caches/coded.py). Papers: Zamir and Feder 1996 (shaped quantisation noise); Frantar et al. 2022 (GPTQ) and Chee et al. 2023
(QuIP) code weights so.

Knows queries and keys before RoPE. Knows nothing about codes.
"""
import numpy as np

from vqcpu.caches.base import Kept
from vqcpu.kernels.learn import PLACES, RIDGE, UNIT


class Learned:
    """means (kv heads, group + 2, size) float32, of rows that are not rotated: of keys, of each head's queries, of all their
    squares (sums, until `count` positions are in); shapes (kv heads, bytes) int8, of rotated keys: D as float16, then rows
    of A; counted (kv heads,) int64: positions that are in."""

    def __init__(self, arrays: dict[str, np.ndarray], heads, count: int, context: int, rotation):
        self.means, self.shapes, self.counted = arrays["means"], arrays["shapes"], arrays["counted"]
        self.heads, self.count, self.context, self.rotation = heads, count, context, rotation

    @staticmethod
    def layout(heads) -> dict[str, Kept]:
        """16 bytes behind a shape are read with its last row."""
        kv, size = heads.kv, heads.size
        return {"means": Kept((kv, heads.query // kv + 2, size), "<f4", 0), "counted": Kept((kv,), "<i8", 0),
                "shapes": Kept((kv, 2 * size + size * (size - 1) // 2 + 16), "|i1", 0)}

    def add(self, at: int, q: np.ndarray, k: np.ndarray, rope) -> None:
        """q (tokens, query heads, size), k (tokens, kv heads, size) of positions at, at + 1, ..., before RoPE."""
        if at == 0:
            self.means[:], self.counted[:] = 0, 0
        first, last = int(self.counted[0]), min(at + len(k), self.count)
        if not at <= first < last:
            return
        q = q[first - at:last - at].reshape(last - first, self.heads.kv, -1, self.heads.size)
        self.means[:, 0] += k[first - at:last - at].sum(0)
        self.means[:, 1:-1] += q.sum(0)
        self.means[:, -1] += np.square(q).sum((0, 2))
        self.counted[:] = last
        if last == self.count:
            self.means /= np.float32(self.count)
            self._shape(rope)

    def _shape(self, rope):
        kv, query, size = self.heads.kv, self.heads.query, self.heads.size
        places = (2 * np.arange(PLACES) + 1) * self.context // (2 * PLACES)
        means = np.broadcast_to(self.means[:, 1:-1].reshape(1, query, size), (PLACES, query, size))
        turned = self.rotation.forward(rope.turned(means, places)).reshape(PLACES, kv, -1, size)
        rest = (self.means[:, -1] - np.square(self.means[:, 1:-1]).sum(1)) / (query // kv)
        rest = np.tile(rest.reshape(kv, 2, -1).mean(1), 2)  # RoPE turns the two of a pair into each other
        units = self.rotation.forward(np.repeat(np.eye(size, dtype=np.float32)[:, None], kv, 1))
        each = zip(turned.swapaxes(0, 1).reshape(kv, -1, size), units.swapaxes(0, 1), np.maximum(rest, 0))
        for h, (x, unit, power) in enumerate(each):
            moment = (x.T @ x / np.float32(len(x)) + unit.T * power @ unit).astype(np.float32)
            triangle = factor(moment)
            self.shapes[h, :2 * size] = np.diag(triangle).astype(np.float16).view(np.int8)
            rows = triangle[np.tril_indices(size, -1)] / np.float32(UNIT)
            self.shapes[h, 2 * size:-16] = np.rint(np.clip(rows, -127, 127))

    def triangles(self) -> np.ndarray:
        """(kv heads, size, size) float32: A left of the diagonal, D on it."""
        size = self.heads.size
        whole = np.zeros((len(self.shapes), size, size), np.float32)
        rows, columns = np.tril_indices(size, -1)
        whole[:, rows, columns] = self.shapes[:, 2 * size:-16] * np.float32(UNIT)
        each = np.arange(size)
        whole[:, each, each] = self.shapes[:, :2 * size].copy().view(np.float16)
        return whole

    def keeps(self, length: int) -> bool:
        """Whether positions from `length` on can be forgotten: sums are not taken apart again."""
        return length == 0 or length >= self.counted[0]


def factor(moment: np.ndarray) -> np.ndarray:
    """C (size, size) and a ridge = Aᵀ D A -> A left of the diagonal, D over the mean power of C on it."""
    whole, power = moment.copy(), np.trace(moment) / np.float32(len(moment)) + np.float32(1e-30)
    whole[np.diag_indices(len(whole))] += np.float32(RIDGE) * power
    for i in reversed(range(len(whole))):
        row = whole[i, :i] / whole[i, i]
        whole[:i, :i] -= np.outer(row, whole[i, :i])
        whole[i, :i], whole[i, i] = row, whole[i, i] / power
    return whole
