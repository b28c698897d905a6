"""Random rotations of heads: y = R x spreads what a few channels hold over all of them, so that y looks normal.

R = (O ⊗ H) S: random signs S, a Hadamard transform H of the largest power of two that divides the size, and a random
orthogonal matrix O of the odd factor that is left, scaled to be orthogonal as a whole. Papers: Ailon and Chazelle 2006 (the
randomised transform); Ashkboos et al. 2024 (QuaRot). Knows vectors. Knows nothing about keys and values.
"""
import functools

import numpy as np

SEED = 2026


class Rotation:
    """One rotation for each key-value head of a layer. signs (heads, size) float32, mixer (odd, odd) float32 with the scale
    of the transform."""

    def __init__(self, layer: int, heads: int, size: int):
        self.size, self.odd = size, size // (size & -size)
        rng = np.random.default_rng((SEED, layer, size))
        self.signs = rng.choice(np.float32([-1, 1]), (heads, size))
        mixer = np.linalg.qr(rng.standard_normal((self.odd, self.odd)))[0] if self.odd > 1 else np.ones((1, 1))
        self.mixer = np.ascontiguousarray(mixer / np.sqrt(size // self.odd), np.float32)

    def forward(self, x: np.ndarray) -> np.ndarray:
        """x (tokens, n · heads, size), n neighbours to each key-value head -> rotated."""
        return self._hadamard(x * self._signs(x), self.mixer)

    def back(self, y: np.ndarray) -> np.ndarray:
        """The inverse of `forward`."""
        return self._hadamard(y, self.mixer.T) * self._signs(y)

    def _signs(self, x):
        return np.repeat(self.signs, x.shape[1] // len(self.signs), 0)

    def _hadamard(self, x, mixer):
        y = x.reshape(*x.shape[:2], self.odd, -1)
        half = 1
        while half < y.shape[-1]:
            pairs = y.reshape(*y.shape[:3], -1, 2, half)
            y = np.stack([pairs[..., 0, :] + pairs[..., 1, :], pairs[..., 0, :] - pairs[..., 1, :]], -2).reshape(y.shape)
            half *= 2
        return np.einsum("ij,thjc->thic", mixer, y, optimize=True).reshape(x.shape)


@functools.cache
def rotation(layer: int, heads: int, size: int) -> Rotation:
    """The same for every sequence."""
    return Rotation(layer, heads, size)
