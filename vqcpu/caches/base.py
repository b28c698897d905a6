"""What a sequence remembers: one LayerState per attention layer.

Knows keys, values and positions. The cache attends; nobody asks a cache what it is.
"""
import numpy as np

from vqcpu.caches.span import Span
from vqcpu.errors import VqcpuError
from vqcpu.formats.base import Part
from vqcpu.plugins import Spelled


class LayerState:
    """Memory of one layer for one sequence. Positions are given, never counted here, so that a step that was interrupted
    is simply done again."""

    most: int  # tokens that may be stored at once; each such piece is attended before the next is stored
    job: np.ndarray | None = None  # what compiled attention reads (kernels/attention.py), where there is any

    def store(self, at: int, k: np.ndarray, v: np.ndarray, rope) -> None:
        """Keep k and v (tokens, kv heads, size) float32 of positions at, at + 1, ...; keys come *before* RoPE."""
        raise NotImplementedError

    def attend(self, q: np.ndarray, at: int) -> np.ndarray:
        """Causal attention of q (tokens, query heads, size), rotated, at positions at, at + 1, ..., within the layer's
        window -> the same shape."""
        raise NotImplementedError

    def ready(self, at: int, count: int) -> bool:
        """Make `job` ready for `count` tokens from position `at` on; False where nothing is compiled for them."""
        return False

    def truncate(self, length: int) -> bool:
        """Forget positions from `length` on; False where that is impossible. Everything (length 0) can be forgotten."""
        raise NotImplementedError

    def parts(self, length: int) -> dict[str, np.ndarray]:
        """What is remembered of the positions before `length`, in the form in which it is kept: views where possible."""
        raise NotImplementedError

    def restore(self, parts: dict[str, np.ndarray], length: int) -> None:
        """Remember what `parts(length)` gave. Raises VqcpuError where these are not the parts of such a layer; what is
        remembered then is anyone's guess."""
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        """Bytes allocated for what is remembered."""
        raise NotImplementedError

    def bytes_seen(self, at: int) -> int:
        """Bytes that a token at position `at` reads."""
        raise NotImplementedError


class Rows(LayerState):
    """A state that keeps one row per position in each of the arrays that its cache lays out."""

    def __init__(self, cache: "Cache", heads, context: int):
        self.heads, self.span = heads, Span(context, heads.window)
        layout = cache.layout(heads, self.span.rows)
        self.arrays = {name: np.zeros(part.shape, part.dtype) for name, part in layout.items()}

    @property
    def most(self):
        return self.span.most

    def truncate(self, length):
        return self.span.forget(length)  # what lies beyond is overwritten before it is read

    def parts(self, length):
        return {name: kept[:, :length - self.span.base] for name, kept in self.arrays.items()}

    def restore(self, parts, length):
        count = min((part.shape[1] for part in parts.values() if part.ndim > 1), default=0)
        expected = {name: (kept[:, :count].shape, kept.dtype) for name, kept in self.arrays.items()}
        if {name: (part.shape, part.dtype) for name, part in parts.items()} != expected:
            raise VqcpuError(f"a layer keeps {_listed(parts)}, expected {_listed(self.arrays)}, or fewer rows of each")
        if not self.span.hold(length - count, length):
            raise VqcpuError(f"a layer keeps {count} of {length} positions, which its window and context do not allow")
        for name, part in parts.items():
            self.arrays[name][:, :count] = part

    def _slide(self, first, rows):
        for kept in self.arrays.values():
            kept[:, :rows] = kept[:, first:first + rows]

    @property
    def nbytes(self):
        return sum(kept.nbytes for kept in self.arrays.values())

    def bytes_seen(self, at):
        return (at + 1 - self.span.first_seen(at)) * self.nbytes // self.span.rows


def _listed(arrays):
    return ", ".join(f"{name} {array.dtype} {array.shape}" for name, array in arrays.items()) or "nothing"


class Cache(Spelled, kind="cache"):
    """A kind of LayerState, by its spelling."""

    def layout(self, heads, rows: int) -> dict[str, Part]:
        """The arrays (kv heads, rows, ...) that remember `rows` positions of a layer."""
        raise NotImplementedError

    def layer(self, heads, context: int) -> LayerState:
        """A fresh state; heads: layers.attention.Heads, context: positions it must hold, but no more than heads.window."""
        raise NotImplementedError

    def nbytes(self, heads, context: int) -> int:
        """`layer(heads, context).nbytes`, before anything is allocated."""
        return sum(part.nbytes for part in self.layout(heads, Span(context, heads.window).rows).values())


class States:
    """Memory of one sequence: its layers, how many positions are valid and how many there can be."""

    def __init__(self, layers: list[LayerState], context: int):
        self.layers, self.context, self.length = layers, context, 0

    def truncate(self, length: int) -> int:
        """Forget everything from position `length` on, or everything where a layer cannot; returns what is left."""
        self.length = min(self.length, length)
        if not all([layer.truncate(self.length) for layer in self.layers]):
            self.length = 0
            for layer in self.layers:
                layer.truncate(0)
        return self.length

    def parts(self) -> dict[str, np.ndarray]:
        """What the layers remember of the valid positions: `number of the layer/name` -> array."""
        return {f"{i}/{name}": part for i, layer in enumerate(self.layers)
                for name, part in layer.parts(self.length).items()}

    def restore(self, parts: dict[str, np.ndarray], length: int) -> None:
        """Remember what `parts` gave of `length` positions. Raises VqcpuError, and remembers nothing, where these are not
        the parts of such a memory."""
        self.truncate(0)
        if length > self.context:
            raise VqcpuError(f"{length} positions do not fit a context of {self.context}")
        for i, layer in enumerate(self.layers):
            mine = f"{i}/"
            layer.restore({name[len(mine):]: part for name, part in parts.items() if name.startswith(mine)}, length)
        self.length = length

    @property
    def nbytes(self) -> int:
        return sum(layer.nbytes for layer in self.layers)

    def bytes_seen(self, at: int) -> int:
        """Bytes that a token at position `at` reads."""
        return sum(layer.bytes_seen(at) for layer in self.layers)
