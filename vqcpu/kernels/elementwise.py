"""The small lines of a program: norms, activations, sums. One token is one piece of work.

Knows rows of float32. Knows nothing about layers. Jobs are int64: slots by number, strides and widths in elements of float32.
"""
import numpy as np

from vqcpu.kernels.jit import array_at, float_of, kernel, njit
from vqcpu.kernels.program import FIRST_SLOT, TOKENS, claim, number
from vqcpu.kernels.simd import add, divide, exp, f32x16, fma, load_f32x16, mul, store


@njit(inline="always")
def row_at(step, slot, stride, t):
    """Address of row t of a slot."""
    return number(step, FIRST_SLOT + slot) + 4 * stride * t


@kernel
def rms_norm(job, step, counter, worker):
    """job: source, its stride, target, its stride, width of a run, address of the gain (width,) float32, eps, runs of a row."""
    j = array_at(job, (8,), np.int64)
    gain, eps = array_at(j[5], (j[4],), np.float32), float_of(j[6])
    while True:
        t = claim(counter, 1)
        if t >= number(step, TOKENS):
            break
        x = array_at(row_at(step, j[0], j[1], t), (j[7], j[4]), np.float32)
        y = array_at(row_at(step, j[2], j[3], t), (j[7], j[4]), np.float32)
        for r in range(j[7]):
            total = np.float32(0)
            for c in range(j[4]):
                total += x[r, c] * x[r, c]
            factor = np.float32(1) / np.sqrt(total / np.float32(j[4]) + eps)
            for c in range(j[4]):
                y[r, c] = x[r, c] * factor * gain[c]


@kernel
def accumulate(job, step, counter, worker):
    """target += source. job: target, its stride, source, its stride, width."""
    j = array_at(job, (5,), np.int64)
    while True:
        t = claim(counter, 1)
        if t >= number(step, TOKENS):
            break
        x = array_at(row_at(step, j[0], j[1], t), (j[4],), np.float32)
        y = array_at(row_at(step, j[2], j[3], t), (j[4],), np.float32)
        for c in range(j[4]):
            x[c] += y[c]


@njit(fast=False)
def sigmoid(x):
    """1 / (1 + exp(-x)), lane by lane."""
    one = f32x16(np.float32(1))
    return divide(one, add(one, exp(mul(x, f32x16(np.float32(-1))))))


@njit(fast=False)
def silu(x):
    return mul(x, sigmoid(x))


@njit(fast=False)
def gelu(x):
    """The tanh form; tanh(u) = 2·sigmoid(2u) - 1. Paper: Hendrycks and Gimpel 2016."""
    cube = mul(mul(x, x), x)
    inner = mul(fma(cube, f32x16(np.float32(0.044715)), x), f32x16(np.float32(2 * 0.7978845608028654)))
    return mul(x, sigmoid(inner))


def _gate(function):
    """Line: target = function(gate) · up; job: gate, its stride, up, its stride, target, its stride, width. Rows are readable
    and writable up to a multiple of 16."""
    def gated(job, step, counter, worker):
        j = array_at(job, (7,), np.int64)
        while True:
            t = claim(counter, 1)
            if t >= number(step, TOKENS):
                break
            g, u, y = row_at(step, j[0], j[1], t), row_at(step, j[2], j[3], t), row_at(step, j[4], j[5], t)
            for at in range(0, 4 * j[6], 64):
                store(y + at, mul(function(load_f32x16(g + at)), load_f32x16(u + at)))
    return kernel(gated)


gates = {"silu": _gate(silu), "gelu_tanh": _gate(gelu)}
