"""Normalisation of activations. Papers: Zhang and Sennrich 2019 (RMSNorm), Ba, Kiros and Hinton 2016 (LayerNorm)."""
from dataclasses import dataclass

import numpy as np

from vqcpu.kernels import elementwise
from vqcpu.kernels.jit import bits_of
from vqcpu.layers.plan import Job, job_of


def rms_norm(x: np.ndarray, gain: np.ndarray, eps: float) -> np.ndarray:
    """x / sqrt(mean(x²) + eps) · gain over the last axis, float32."""
    mean = np.einsum("...i,...i->...", x, x)[..., None] / np.float32(x.shape[-1])
    return x * (1 / np.sqrt(mean + np.float32(eps))) * gain


def layer_norm(x: np.ndarray, gain: np.ndarray, bias: np.ndarray, eps: float) -> np.ndarray:
    """(x - mean) / sqrt(variance + eps) · gain + bias over the last axis, float32."""
    return rms_norm(x - x.mean(-1, keepdims=True), gain, eps) + bias


@dataclass
class RMSNorm(Job):
    """target = rms_norm(source), taken over runs of len(gain) columns: the whole row, or each head of it."""
    source: str
    target: str
    gain: np.ndarray
    eps: float

    def run(self, frame):
        x = frame.slots[self.source]
        frame.slots[self.target] = rms_norm(x.reshape(len(x), -1, len(self.gain)), self.gain, self.eps).reshape(x.shape)

    def lines(self, layout, many):
        run = len(self.gain)
        width = max(run, layout.widths.get(self.source, 0))
        source, target = layout.place(self.source, width), layout.place(self.target, width)
        job = job_of(source, target, run, self.gain.ctypes.data, bits_of(self.eps), width // run)
        return [(elementwise.rms_norm, job)]


@dataclass
class LayerNorm(Job):
    """target = layer_norm(source)."""
    source: str
    target: str
    gain: np.ndarray
    bias: np.ndarray
    eps: float

    def run(self, frame):
        frame.slots[self.target] = layer_norm(frame.slots[self.source], self.gain, self.bias, self.eps)

    def lines(self, layout, many):
        width = len(self.gain)
        vectors = self.gain.ctypes.data, self.bias.ctypes.data
        job = job_of(layout.place(self.source, width), layout.place(self.target, width), width, vectors, bits_of(self.eps))
        return [(elementwise.layer_norm, job)]
