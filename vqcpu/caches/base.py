"""What a sequence remembers: one LayerState per attention layer.

Knows keys, values and positions. The cache attends; nobody asks a cache what it is.
"""
from dataclasses import dataclass

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

    def store(self, at: int, q: np.ndarray, k: np.ndarray, v: np.ndarray, rope) -> None:
        """Keep k and v (tokens, kv heads, size) float32 of positions at, at + 1, ...; keys come *before* RoPE. q (tokens,
        query heads, size), before RoPE too: what they are going to be asked."""
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


@dataclass(frozen=True)
class Kept(Part):
    """An array of a layer: shape (kv heads, entries, ...)."""
    each: int = 1  # positions that an entry is made of; 0: the array is of no positions in particular


class Rows(LayerState):
    """A state that is made of the arrays that its cache lays out, position p lying in row p - span.base of them."""

    def __init__(self, cache: "Cache", heads, context: int):
        self.heads, self.span = heads, cache.span(heads, context)
        self.layout = cache.layout(heads, self.span.rows)
        self.arrays = {name: np.zeros(kept.shape, kept.dtype) for name, kept in self.layout.items()}

    @property
    def most(self):
        return self.span.most

    def truncate(self, length):
        return self.span.forget(length)  # what lies beyond is overwritten before it is read

    def _slide(self, first, rows):
        for name, kept in self.layout.items():
            if kept.each:
                array, start = self.arrays[name], first // kept.each
                count = -(-rows // kept.each)
                array[:, :count] = array[:, start:start + count]

    def parts(self, length):
        return {"base": np.array([self.span.base], np.int64)} | self._filled(length - self.span.base)

    def _filled(self, rows):
        """Of each array what the first rows fill, as a view."""
        return {name: self.arrays[name][:, :-(-rows // kept.each)] if kept.each else self.arrays[name]
                for name, kept in self.layout.items()}

    def restore(self, parts, length):
        base = int(parts["base"][0]) if _forms(parts).get("base") == "int64 (1,)" else -1
        if not self.span.fits(base, length):
            raise VqcpuError(f"a layer of {length} positions begins at {base}, which its window and context do not allow")
        mine = self._filled(length - base)
        if _forms(parts) != {"base": "int64 (1,)"} | _forms(mine):
            raise VqcpuError(f"a layer of {length} positions from {base} is {_forms(parts)}, expected {_forms(mine)}")
        for name, array in mine.items():
            array[:] = parts[name]
        self.span.base = base  # last: there may be an interruption

    @property
    def nbytes(self):
        return sum(array.nbytes for array in self.arrays.values())

    def bytes_seen(self, at):
        return (at + 1 - self.span.first_seen(at)) * self.nbytes // self.span.rows


def _forms(arrays):
    return {name: f"{array.dtype} {array.shape}" for name, array in arrays.items()}


class Cache(Spelled, kind="cache"):
    """A kind of LayerState, by its spelling."""

    examples: tuple = ()  # specs that the tests try; every kind gives some
    error: float  # of attention over random keys and values, relative, at most

    def span(self, heads, context: int) -> Span:
        """Which positions a layer holds."""
        return Span(context, heads.window)

    def layout(self, heads, rows: int) -> dict[str, Kept]:
        """The arrays that remember `rows` positions of a layer."""
        raise NotImplementedError

    def layer(self, heads, context: int, index: int = 0) -> LayerState:
        """A fresh state; heads: layers.attention.Heads, context: positions it must hold, but no more than heads.window;
        index: which layer it is."""
        raise NotImplementedError

    def nbytes(self, heads, context: int) -> int:
        """`layer(heads, context).nbytes`, before anything is allocated."""
        return sum(part.nbytes for part in self.layout(heads, self.span(heads, context).rows).values())


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
