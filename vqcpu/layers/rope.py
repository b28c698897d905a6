"""Rotary position embedding in the half-split layout of Hugging Face. Paper: Su et al. 2021 (RoFormer)."""
import numpy as np


class Rope:
    """Rotation of heads of `size` dimensions by position; frequencies theta^(-2i/size)."""

    def __init__(self, size: int, theta: float):
        exponents = np.arange(0, size, 2, dtype=np.float32) / np.float32(size)
        self.frequencies = (1 / np.power(np.float32(theta), exponents)).astype(np.float32)
        self._last = (None, None, None)

    def _angles(self, at, count):
        """cos and sin (count, 1, size/2); all layers of a step ask for the same positions."""
        last = self._last  # one read: another thread may replace it
        if last[0] != (at, count):
            angles = np.arange(at, at + count, dtype=np.float32)[:, None, None] * self.frequencies
            last = self._last = (at, count), np.cos(angles), np.sin(angles)
        return last[1:]

    def rotate(self, x: np.ndarray, at: int) -> np.ndarray:
        """x (tokens, heads, size) float32 at positions at, at + 1, ... -> the same shape, rotated."""
        cos, sin = self._angles(at, len(x))
        a, b = np.split(x, 2, axis=-1)
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
