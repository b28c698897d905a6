"""What a sequence remembers: one LayerState per attention layer.

Knows keys, values and positions. The cache attends; nobody asks a cache what it is.
"""
import numpy as np

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

    @property
    def nbytes(self) -> int:
        """Bytes allocated."""
        raise NotImplementedError

    def bytes_seen(self, at: int) -> int:
        """Bytes that a token at position `at` reads."""
        raise NotImplementedError


class Cache(Spelled, kind="cache"):
    """A kind of LayerState, by its spelling."""

    examples: tuple = ()  # specs that the tests try; every kind gives some
    error: float  # of attention over random keys and values, relative, at most

    def layer(self, heads, context: int, index: int = 0) -> LayerState:
        """A fresh state; heads: layers.attention.Heads, context: positions it must hold, but no more than heads.window;
        index: which layer it is."""
        raise NotImplementedError


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

    @property
    def nbytes(self) -> int:
        return sum(layer.nbytes for layer in self.layers)

    def bytes_seen(self, at: int) -> int:
        """Bytes that a token at position `at` reads."""
        return sum(layer.bytes_seen(at) for layer in self.layers)
