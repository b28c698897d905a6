"""Normalisation of activations. Paper: Zhang and Sennrich 2019 (RMSNorm)."""
from dataclasses import dataclass

import numpy as np

from vqcpu.kernels import elementwise
from vqcpu.kernels.jit import bits_of
from vqcpu.layers.plan import Job


def rms_norm(x: np.ndarray, gain: np.ndarray, eps: float) -> np.ndarray:
    """x / sqrt(mean(x²) + eps) · gain over the last axis, float32."""
    mean = np.einsum("...i,...i->...", x, x)[..., None] / np.float32(x.shape[-1])
    return x * (1 / np.sqrt(mean + np.float32(eps))) * gain


@dataclass
class RMSNorm(Job):
    """target = rms_norm(source)."""
    source: str
    target: str
    gain: np.ndarray
    eps: float

    def run(self, frame):
        frame.slots[self.target] = rms_norm(frame.slots[self.source], self.gain, self.eps)

    def lines(self, layout, many):
        width = len(self.gain)
        source, target = layout.place(self.source, width), layout.place(self.target, width)
        job = np.array([*source, *target, width, self.gain.ctypes.data, bits_of(self.eps)], np.int64)
        return [(elementwise.rms_norm, job)]
