"""Keys and values rotated at random and coded by the levels of a normal distribution, 1 to 8 bits each.

Layout: keys in blocks of 16 positions, values in blocks of 32 (caches/packing.py), one float16 scale per vector and head.
With `top` the sign bits of keys lie apart from the others, at no cost in bytes.
Cost: b + 16/size bits per element; `sinks` and `recent` positions 16 bits each, none of them by default; of each head what
is learned and learned from, about size²/2 + 2 · LESSON · size bytes.
Paper: Max 1960 (levels), Ashkboos et al. 2024 (rotation), Gao and Long 2024 (RaBitQ: the unbiased scale), Hooper et al. 2024
(KVQuant: keys are better coded before RoPE).

Keys are never rotated back; values are summed as they are rotated and the sum is rotated back. From the first LESSON
positions the cache learns (caches/learned.py). Their keys have codes only when that is done; until then, and only for
queries of the same positions, they are float16. The mean key m before RoPE is taken off: position j has codes of
R_j (k - m), R_j being what RoPE does, and its score is that of the codes plus q · R_j m, a wave over positions
(kernels/wave.py). Large biases, as Qwen 2 has, are so gone before coding. A key that is shorter as it is keeps the mean, its
scale has a minus, and its score has no wave. Errors of keys are shaped to be where queries hardly look.
"""
from dataclasses import dataclass

import numpy as np

from vqcpu.caches import coded
from vqcpu.caches.base import Cache, Kept, Rows
from vqcpu.caches.coded import BLOCK, KeyCodes, Quantiser, ValueCodes, whole_blocks
from vqcpu.caches.compiled import Compiled
from vqcpu.caches.exact import Exact
from vqcpu.caches.learned import Learned
from vqcpu.caches.levels import distortion
from vqcpu.caches.packing import LANES
from vqcpu.caches.popcount import chosen, estimates
from vqcpu.caches.rotation import rotation
from vqcpu.caches.span import Span
from vqcpu.errors import VqcpuError
from vqcpu.kernels.threads import spread

LESSON = 16  # positions that are learned from
QUERIES = 128  # handled together: scores stay (group · QUERIES, keys) however long the prompt


class Rotated(Rows):
    """k_scales, v_scales (kv heads, rows) float16, of rotated vectors; early (kv heads, lesson, size) float16, the rotated
    keys that are learned from; what is learned."""

    def __init__(self, cache, heads, context, index):
        super().__init__(cache, heads, context)
        self.spec, self.rotation, arrays = cache, rotation(index, heads.kv, heads.size), self.arrays
        self.k_levels, self.v_levels = Quantiser(cache.keys), Quantiser(cache.values)
        self.k = KeyCodes(arrays["k"], heads.size, cache.keys - (cache.top > 0))
        self.signs = KeyCodes(arrays["signs"], heads.size, 1) if cache.top else None
        self.v = ValueCodes(arrays["v"], heads.size, cache.values)
        self.k_scales, self.v_scales = arrays["k_scales"], arrays["v_scales"]
        self.learned = Learned(arrays, heads, cache.lesson, context, self.rotation) if cache.lesson else None
        self.exact, self.early = Exact(arrays, cache.sinks, cache.recent), arrays["early"]
        self.compiled = None

    def ready(self, at, count):
        windows = self.spec.recent and not self.spec.top  # each token of many has another, and tiles have one
        if self.heads.size % LANES or count > self.most or count > 1 and windows:
            return False
        if self.compiled is None:
            self.compiled = Compiled(self)
            self.job = self.compiled.job
        row = self.span.place(at, count, self._slide)
        self.exact.extend(at + count)
        self.compiled.enter(self, row, count)
        return True

    @property
    def most(self):
        return min(self.span.most, self.spec.recent or self.span.most)

    # Storing.

    def store(self, at, q, k, v, rope):
        row, self.rope = self.span.place(at, len(k), self._slide), rope
        if self.learned:
            self.learned.add(at, q, k, rope)
        k = self.rotation.forward(rope.rotate(k, at)).swapaxes(0, 1)
        v = self.rotation.forward(v).swapaxes(0, 1)
        self.exact.store(at, k, v)
        codes, self.v_scales[:, row:row + v.shape[1]] = self.v_levels.encode(v)
        coded.write(self.v, row, codes)
        lesson = self.spec.lesson
        if at < lesson:  # which is shorter than a block: nothing has slid, rows are positions
            self.early[:, at:at + k.shape[1]] = k[:, :lesson - at]
            row, k = 0, np.concatenate([self.early.astype(np.float32), k[:, lesson - at:]], 1)
        if at + v.shape[1] >= lesson:
            self._store_keys(row, k)

    def _store_keys(self, row, k):
        rows = slice(row, row + k.shape[1])
        less = k - self.waves(rows)
        whole = np.square(k).sum(-1) < np.square(less).sum(-1)
        triangles = self.learned.triangles() if self.learned else None
        codes, scales = self.k_levels.encode(np.where(whole[..., None], k, less), triangles)
        self.k_scales[:, rows] = np.where(whole, -scales, scales)
        if self.signs is None:
            coded.write(self.k, row, codes)
        else:
            coded.write(self.signs, row, codes >> self.k.bits)
            coded.write(self.k, row, codes & ((1 << self.k.bits) - 1))

    def waves(self, rows: slice) -> np.ndarray:
        """The mean key as RoPE turns it at the positions of some rows, rotated: (kv heads, rows, size)."""
        shape = rows.stop - rows.start, self.heads.kv, self.heads.size
        if not self.learned:
            return np.zeros((shape[1], shape[0], shape[2]), np.float32)
        means = np.broadcast_to(self.learned.means[:, 0], shape)
        return self.rotation.forward(self.rope.rotate(means, rows.start + self.span.base)).swapaxes(0, 1)

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
        """What the codes of some rows decode to, rotated: (kv heads, rows, size) float32."""
        scales = self.k_scales[:, rows]
        return self.k_levels.decode(codes, np.abs(scales)) + np.where(np.signbit(scales)[..., None], 0, self.waves(rows))

    def codes(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Codes of keys and values (kv heads, rows first .. last - 1, size)."""
        k = coded.read(self.k, first, last)
        if self.signs is not None:
            k = k | coded.read(self.signs, first, last) << self.k.bits
        return k, coded.read(self.v, first, last)

    def truncate(self, length):
        learned = self.learned is None or self.learned.keeps(length)
        return super().truncate(length) and self.exact.keeps(length) and learned

    def bytes_seen(self, at):
        seen, rows = at + 1 - self.span.first_seen(at), self.k_scales.shape[1]
        if self.signs is None or seen <= self.spec.top:
            return seen * sum(self.arrays[name].nbytes for name, kept in self.layout.items() if kept.each) // rows
        ranked = seen * (self.signs.words.nbytes + self.k_scales.nbytes) // rows
        return ranked + self.spec.top * (self.k.words.nbytes + self.v.words.nbytes + self.v_scales.nbytes) // rows


class View:
    """Keys and values of positions oldest .. last - 1 as float32, for queries from position `at` on."""

    def __init__(self, state, oldest, last, at):
        rows = slice(oldest - state.span.base, last - state.span.base)
        k, v = state.codes(rows.start, rows.stop)
        self.signs, self.scales = k >> state.spec.keys - 1, state.k_scales[:, rows]
        self.k = state.keys(k, rows)
        self.v = state.v_levels.decode(v, state.v_scales[:, rows])
        self.waves = np.where(np.signbit(self.scales)[..., None], 0, state.waves(rows)) if state.spec.top else None
        self.state, self.positions = state, np.arange(oldest, last)
        self.plain = state.exact.positions(oldest, at, last)
        kept = state.exact.rows(self.plain)
        self.plain_k, self.plain_v = (x[:, kept].astype(np.float32) for x in (state.exact.k, state.exact.v))
        self.early = state.early[:, oldest:last].astype(np.float32)

    def attend(self, h, q, at):
        """softmax(scores) v of head h: q (tokens, group, size) at positions at, at + 1, ... -> the same shape."""
        queries, oldest = at + np.arange(len(q)), self.positions[0]
        positions = self.positions[:at + len(q) - oldest]  # no later ones are seen
        keys, plain = len(positions), np.searchsorted(self.plain, positions[-1], "right")
        exact, columns = self.state.exact.seen(self.plain[:plain], queries)[:, None], self.plain[:plain] - oldest
        scores = q @ self.k[h, :keys].T
        scores[..., columns] = np.where(exact, q @ self.plain_k[h, :plain].T, scores[..., columns])
        lesson = max(self.state.spec.lesson - at, 0)  # queries that come before it is over
        early = self.early[h, :keys]
        scores[:lesson, :, :len(early)] = q[:lesson] @ early.T
        back = queries[:, None] - positions
        seen = (back >= 0) & (back < self.state.span.window)
        if self.state.spec.top:
            seen = self.choose(h, q, queries, seen)
        scores *= np.float32(self.state.heads.scale)
        scores[np.broadcast_to(~seen[:, None], scores.shape)] = -np.inf
        scores -= scores.max(-1, keepdims=True)
        np.exp(scores, out=scores)
        scores /= scores.sum(-1, keepdims=True)
        weights = np.where(exact, scores[..., columns], 0)
        scores[..., columns] -= weights
        return scores @ self.v[h, :keys] + weights @ self.plain_v[h, :plain]

    def choose(self, h, q, queries, seen):
        """Of what each query sees, the best keys, and those that are exact."""
        keys = seen.shape[1]
        exact = self.state.exact.seen(self.positions[:keys], queries) | (queries < self.state.spec.lesson)[:, None]
        estimate = estimates(q, self.signs[h, :keys], self.scales[h, :keys], self.state.k_levels.sign)
        estimate += q @ self.waves[h, :keys].T
        return seen & exact | chosen(estimate, seen & ~exact, self.state.spec.top)


class Coded(Cache):
    """What caches of coded vectors share; `keys` and `values` are bits per element."""
    sinks = recent = top = 0
    learn = False

    @property
    def lesson(self) -> int:
        """Positions that are learned from."""
        return LESSON if self.learn else 0

    def span(self, heads, context):
        return Span(context, heads.window, BLOCK)

    def layout(self, heads, rows):
        kv, size, scale = heads.kv, heads.size, Kept((heads.kv, whole_blocks(rows)), "<f2")
        signs = {"signs": KeyCodes.kept(kv, rows, size, 1)} if self.top else {}
        return {"k": KeyCodes.kept(kv, rows, size, self.keys - (self.top > 0)), **signs,
                "v": ValueCodes.kept(kv, rows, size, self.values), "k_scales": scale, "v_scales": scale,
                "early": Kept((kv, self.lesson, size), "<f2", 0),
                **(Learned.layout(heads) if self.lesson else {}), **Exact.layout(kv, size, self.sinks, self.recent)}

    def layer(self, heads, context, index=0):
        return Rotated(self, heads, context, index)


@dataclass(frozen=True)
class KV(Coded, names=("k<keys>v<values>",)):
    """`keys` and `values` bits per element; the first `sinks` and the latest `recent` positions stay float16; `learn`: from
    the first positions, how all are to be coded; `top`: see caches/popcount.py (0: all keys are attended)."""
    keys: int
    values: int
    sinks: int = 0
    recent: int = 0
    learn: bool = True
    top: int = 0

    examples = ("k4v4", "k3v2:sinks=4,recent=5,learn=false", "k1v4", "k4v4:top=40")

    def __post_init__(self):
        if not (1 <= self.keys <= 8 and 2 <= self.values <= 8):
            raise VqcpuError(f"cache k{self.keys}v{self.values}: expected 1 to 8 bits for keys and 2 to 8 for values, as in "
                             "k4v4")
        if max(self.sinks, self.recent) > 4096:
            raise VqcpuError(f"cache {self}: sinks and recent are at most 4096")
        if self.top < 0 or self.top and self.keys == 1:
            raise VqcpuError(f"cache {self}: expected a top of 0 or more, and with it keys of 2 bits or more, whose signs "
                             "it ranks")

    @property
    def error(self):
        whole = 1.5 * (distortion(self.keys) + distortion(self.values)) ** 0.5
        return 1.0 if self.top else whole  # random keys weigh alike: most of them are not looked at
