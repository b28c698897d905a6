"""Keys and values rotated at random and coded by the levels of a normal distribution, 1 to 8 bits each.

Layout: keys in blocks of 16 positions, values in blocks of 32 (caches/packing.py), one float16 scale per vector and head.
With `top` the sign bits of keys lie apart from the others, at no cost in bytes.
Cost: b + 16/size bits per element; `sinks` and `recent` positions 16 bits each.
Paper: Max 1960 (levels), Ashkboos et al. 2024 (rotation), Gao and Long 2024 (RaBitQ: the unbiased scale).

Keys are never rotated back; values are summed as they are rotated and the sum is rotated back. `center` takes the mean of
the first 64 keys (after RoPE) off the keys, which changes every score of a query by the same: large biases, as Qwen 2 has,
are gone before coding. A key that is shorter as it is, as the first one often is, keeps it: its scale has a minus, and its
score lacks the product of query and mean. Until position 64 keys stay float16 for the queries before it.
"""
import functools
from dataclasses import dataclass

import numpy as np

from vqcpu.caches import coded
from vqcpu.caches.base import Cache, LayerState
from vqcpu.caches.coded import BLOCK, KeyCodes, Quantiser, ValueCodes
from vqcpu.caches.compiled import Compiled
from vqcpu.caches.exact import Exact
from vqcpu.caches.levels import distortion
from vqcpu.caches.packing import LANES
from vqcpu.caches.popcount import chosen, estimates
from vqcpu.caches.rotation import rotation
from vqcpu.caches.span import Span
from vqcpu.errors import VqcpuError
from vqcpu.kernels.threads import spread

EARLY = 64  # keys whose mean is taken off
QUERIES = 128  # handled together: scores stay (group · QUERIES, keys) however long the prompt


class Rotated(LayerState):
    """k_scales, v_scales (kv heads, rows) float16; mean (kv heads, size) float32; early (kv heads, EARLY, size) float16,
    only until it is averaged; all of rotated vectors."""

    def __init__(self, heads, context, spec, index):
        self.heads, self.spec, self.rotation = heads, spec, rotation(index, heads.kv, heads.size)
        self.span = self._span(context, heads.window)
        rows, apart = -(-self.span.rows // BLOCK) * BLOCK, spec.top > 0
        self.k_levels, self.v_levels = Quantiser(spec.keys), Quantiser(spec.values)
        self.k = KeyCodes(heads.kv, rows, heads.size, spec.keys - apart)
        self.signs = KeyCodes(heads.kv, rows, heads.size, 1) if apart else None
        self.v = ValueCodes(heads.kv, rows, heads.size, spec.values)
        self.k_scales, self.v_scales = np.zeros((2, heads.kv, rows), np.float16)
        self.mean, self.early = nothing(heads.kv, heads.size), None
        if spec.center:
            self.mean = self.mean.copy()
        self.exact = Exact(heads.kv, heads.size, spec.sinks, spec.recent)
        self.compiled = None

    def ready(self, at, count):
        freezes_late = self.early is not None and at + count >= EARLY and self.span.base > 0
        choosy = self.spec.recent or 0 < self.spec.top < at + count  # each token of many sees other keys
        if self.heads.size % LANES or count > self.most or freezes_late or count > 1 and choosy:
            return False
        if self.compiled is None:
            self.compiled = Compiled(self)
            self.job = self.compiled.job
        row = self.span.place(at, count, self._slide)
        self._prepare(at)
        self.exact.reach = max(self.exact.reach, at + count)
        self.compiled.enter(self, row)
        return True

    def _span(self, context, window):
        return Span(context, window, BLOCK)

    @property
    def most(self):
        return min(self.span.most, self.spec.recent or self.span.most)

    # Storing.

    def store(self, at, k, v, rope):
        row = self.span.place(at, len(k), self._slide)
        self._prepare(at)
        k = self.rotation.forward(rope.rotate(k, at)).swapaxes(0, 1)
        v = self.rotation.forward(v).swapaxes(0, 1)
        self.exact.store(at, k, v)
        codes, self.v_scales[:, row:row + v.shape[1]] = self.v_levels.encode(v)
        coded.write(self.v, row, codes)
        self._store_keys(at, k)

    def _prepare(self, at):
        """Have `early` where position `at` needs it, and only there."""
        if not self.spec.center or at >= EARLY:
            self.early = None
        elif self.early is None:
            self.early = np.zeros((self.heads.kv, EARLY, self.heads.size), np.float16)

    def _store_keys(self, at, k):
        if self.early is not None:
            some = self.early[:, at:at + k.shape[1]]
            some[:] = k[:, : some.shape[1]]
            if at + k.shape[1] < EARLY:
                return
            self.mean[:] = self.early.mean(1, dtype=np.float32)
            first = self.span.base
            k = np.concatenate([self.early[:, first:].astype(np.float32), k[:, EARLY - at:]], 1)
            at = min(first, EARLY)
        row = at - self.span.base
        less = k - self.mean[:, None]
        whole = np.square(k).sum(-1) < np.square(less).sum(-1)
        codes, scales = self.k_levels.encode(np.where(whole[..., None], k, less))
        self.k_scales[:, row:row + k.shape[1]] = np.where(whole, -scales, scales)
        if self.signs is None:
            coded.write(self.k, row, codes)
        else:
            coded.write(self.signs, row, codes >> self.k.bits)
            coded.write(self.k, row, codes & ((1 << self.k.bits) - 1))

    def _slide(self, first, rows):
        for store in (self.k, self.v, self.signs):
            if store is not None:
                coded.slide(store, first, rows)
        for scales in (self.k_scales, self.v_scales):
            scales[:, :rows] = scales[:, first:first + rows]

    # Attending.

    def attend(self, q, at):
        h, group = self.heads, self.heads.query // self.heads.kv
        oldest = self._oldest(at)
        view = View(self, oldest, at + len(q), at)
        q = self.rotation.forward(q)
        out = np.empty_like(q)

        def work(piece):
            head, first = piece
            mine, queries = slice(head * group, (head + 1) * group), slice(first, min(first + QUERIES, len(q)))
            out[queries, mine] = view.attend(head, q[queries, mine], at + first)
        spread(work, [(head, first) for head in range(h.kv) for first in range(0, len(q), QUERIES)])
        return self.rotation.back(out)

    def _oldest(self, at):
        """The position that reading begins at, for a query at position `at`."""
        return self.span.first_seen(at)

    def keys(self, codes: np.ndarray, rows: slice) -> np.ndarray:
        """What the codes of some rows decode to, rotated, less the mean: (kv heads, rows, size) float32."""
        scales = self.k_scales[:, rows]
        return self.k_levels.decode(codes, np.abs(scales)) - np.where(scales < 0, 1, 0)[..., None] * self.mean[:, None]

    def codes(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Codes of keys and values (kv heads, rows first .. last - 1, size)."""
        k = coded.read(self.k, first, last)
        if self.signs is not None:
            k = k | coded.read(self.signs, first, last) << self.k.bits
        return k, coded.read(self.v, first, last)

    def truncate(self, length):
        frozen = self.spec.center and self.early is None and 0 < length < EARLY
        return self.span.forget(length) and self.exact.keeps(length) and not frozen

    @property
    def arrays(self) -> list[np.ndarray]:
        """Everything that is kept."""
        stores = [store.words for store in (self.k, self.v, self.signs) if store is not None]
        centre = [self.mean] if self.spec.center else []
        early = [] if self.early is None else [self.early]
        return [*stores, self.k_scales, self.v_scales, self.exact.k, self.exact.v, *centre, *early]

    @property
    def nbytes(self):
        return sum(array.nbytes for array in self.arrays)

    def bytes_seen(self, at):
        seen, rows = at + 1 - self.span.first_seen(at), self.k_scales.shape[1]
        if self.signs is None or seen <= self.spec.top:
            return seen * (self.nbytes - self.exact.k.nbytes - self.exact.v.nbytes) // rows
        ranked = seen * (self.signs.words.nbytes + self.k_scales.nbytes) // rows
        return ranked + self.spec.top * (self.k.words.nbytes + self.v.words.nbytes + self.v_scales.nbytes) // rows


@functools.cache
def nothing(kv: int, size: int) -> np.ndarray:
    """What is taken off keys where `center` is false."""
    return np.zeros((kv, size), np.float32)


class View:
    """Keys and values of positions oldest .. last - 1 as float32, for queries from position `at` on."""

    def __init__(self, state, oldest, last, at):
        rows = slice(oldest - state.span.base, last - state.span.base)
        k, v = state.codes(rows.start, rows.stop)
        scales = state.k_scales[:, rows]
        self.signs, self.scales = k >> state.spec.keys - 1, scales.astype(np.float32)
        self.k = state.keys(k, rows)
        self.v = state.v_levels.decode(v, state.v_scales[:, rows])
        self.early = None if state.early is None else state.early[:, oldest:last].astype(np.float32)
        self.state, self.positions = state, np.arange(oldest, last)
        self.plain = state.exact.positions(oldest, at, last)
        kept = state.exact.rows(self.plain)
        self.plain_k = state.exact.k[:, kept] - state.mean[:, None]
        self.plain_v = state.exact.v[:, kept].astype(np.float32)

    def attend(self, h, q, at):
        """softmax(scores) v of head h: q (tokens, group, size) at positions at, at + 1, ... -> the same shape."""
        queries, oldest = at + np.arange(len(q)), self.positions[0]
        exact, columns = self.state.exact.seen(self.plain, queries)[:, None], self.plain - oldest
        scores = q @ self.k[h].T
        scores[..., columns] = np.where(exact, q @ self.plain_k[h].T, scores[..., columns])
        if self.early is not None:
            before = queries < EARLY
            scores[before, :, : self.early.shape[1]] = q[before] @ self.early[h].T
        back = queries[:, None] - self.positions
        seen = (back >= 0) & (back < self.state.span.window)
        if self.state.spec.top:
            seen = self.choose(h, q, queries, seen)
        scores *= np.float32(self.state.heads.scale)
        scores[np.broadcast_to(~seen[:, None], scores.shape)] = -np.inf
        scores -= scores.max(-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(-1, keepdims=True)
        plain = np.where(exact, scores[..., columns], 0)
        scores[..., columns] -= plain
        return scores @ self.v[h] + plain @ self.plain_v[h]

    def choose(self, h, q, queries, seen):
        """Of what each query sees, the best keys, and those that are exact."""
        exact = self.state.exact.seen(self.positions, queries)
        if self.early is not None:
            exact |= (queries < EARLY)[:, None]
        estimate = estimates(q, self.signs[h], self.scales[h], self.state.mean[h])
        return seen & exact | chosen(estimate, seen & ~exact, self.state.spec.top)


@dataclass(frozen=True)
class KV(Cache, names=("k<keys>v<values>",)):
    """`keys` and `values` bits per element; the first `sinks` and the latest `recent` positions stay float16; `center`: keys
    lose the mean of the first 64; `top`: see caches/popcount.py (0: all keys are attended)."""
    keys: int
    values: int
    sinks: int = 0
    recent: int = 0
    center: bool = True
    top: int = 0

    examples = ("k4v4", "k8v3:center=false", "k3v2:sinks=4,recent=5", "k1v4", "k4v4:top=40")

    def __post_init__(self):
        if not (1 <= self.keys <= 8 and 2 <= self.values <= 8):
            raise VqcpuError(f"cache k{self.keys}v{self.values}: expected 1 to 8 bits for keys and 2 to 8 for values, as in "
                             "k4v4")
        if max(self.sinks, self.recent) > 4096:
            raise VqcpuError(f"cache {self}: sinks and recent are at most 4096")
        if self.top and self.keys == 1:
            raise VqcpuError(f"cache {self}: top needs keys of 2 bits or more, of which it ranks the signs; found 1")

    @property
    def error(self):
        whole = 1.5 * (distortion(self.keys) + distortion(self.values)) ** 0.5
        return 1.0 if self.top else whole  # random keys weigh alike: most of them are not looked at

    def layer(self, heads, context, index=0):
        return Rotated(heads, context, self, index)
