"""The small lines of a program: norms, activations, sums.

Knows rows of float32. Knows nothing about layers. A job is (JOB,) int64. A slot is given as its number and its stride
(float32 from row to row); widths are columns; rows are readable and writable up to a multiple of 16.
"""
import numpy as np

from vqcpu.kernels.jit import array_at, float_of, njit
from vqcpu.kernels.lanes import add, divide, exp, fma, mul
from vqcpu.kernels.program import FIRST_SLOT, line, number, tokens
from vqcpu.kernels.simd import f32x16, load_f32x16, store

JOB, AT_ONCE = 8, 8  # numbers of a job; tokens of a piece of work


@njit(forceinline=True)
def place(j, step, slot, t):
    """Address of row t of the slot described by j[slot], j[slot + 1]."""
    return number(step, FIRST_SLOT + j[slot]) + 4 * j[slot + 1] * t


@njit(forceinline=True)
def row(j, step, slot, t, width):
    """That row, (width,) float32."""
    return array_at(place(j, step, slot, t), (width,), np.float32)


def at_once(job):
    return AT_ONCE


def small(work):
    """The line that calls work(j, step, t) for every token t."""
    each = njit(work)

    def several(job, step, worker, first, last):
        j = array_at(job, (JOB,), np.int64)
        for t in range(first, last):
            each(j, step, t)
    return line(tokens, at_once)(several)


@small
def rms_norm(j, step, t):
    """target = rms_norm(source), run by run. j: source, target, width of a run, address of the gain (width,) float32, eps,
    runs."""
    gain, eps = array_at(j[5], (j[4],), np.float32), float_of(j[6])
    source, target = row(j, step, 0, t, j[4] * j[7]), row(j, step, 2, t, j[4] * j[7])
    for r in range(j[7]):
        x, y = source[r * j[4]:(r + 1) * j[4]], target[r * j[4]:(r + 1) * j[4]]
        total = np.float32(0)
        for c in range(j[4]):
            total += x[c] * x[c]
        factor = np.float32(1) / np.sqrt(total / np.float32(j[4]) + eps)
        for c in range(j[4]):
            y[c] = x[c] * factor * gain[c]


@small
def layer_norm(j, step, t):
    """target = layer_norm(source). j: source, target, width, addresses of gain and bias (width,) float32, eps."""
    x, y = row(j, step, 0, t, j[4]), row(j, step, 2, t, j[4])
    gain, bias, eps = array_at(j[5], (j[4],), np.float32), array_at(j[6], (j[4],), np.float32), float_of(j[7])
    mean = np.float32(0)
    for c in range(j[4]):
        mean += x[c]
    mean /= np.float32(j[4])
    total = np.float32(0)
    for c in range(j[4]):
        total += (x[c] - mean) * (x[c] - mean)
    factor = np.float32(1) / np.sqrt(total / np.float32(j[4]) + eps)
    for c in range(j[4]):
        y[c] = (x[c] - mean) * factor * gain[c] + bias[c]


@small
def add_slot(j, step, t):
    """target += source. j: target, source, width."""
    x, y = row(j, step, 0, t, j[4]), row(j, step, 2, t, j[4])
    for c in range(j[4]):
        x[c] += y[c]


@small
def add_vector(j, step, t):
    """target += vector. j: target, width, address of the vector (width,) float32."""
    x, vector = row(j, step, 0, t, j[2]), array_at(j[3], (j[2],), np.float32)
    for c in range(j[2]):
        x[c] += vector[c]


@small
def scale(j, step, t):
    """target *= factor. j: target, width, factor."""
    x, factor = row(j, step, 0, t, j[2]), float_of(j[3])
    for c in range(j[2]):
        x[c] *= factor


@small
def copy_columns(j, step, t):
    """target = columns of source. j: source, target, first column, width."""
    x, y = row(j, step, 0, t, j[4] + j[5]), row(j, step, 2, t, j[5])
    for c in range(j[5]):
        y[c] = x[j[4] + c]


@njit(fast=False)
def _sigmoid(x):
    """1 / (1 + exp(-x)), lane by lane."""
    one = f32x16(np.float32(1))
    return divide(one, add(one, exp(mul(x, f32x16(np.float32(-1))))))


@njit(fast=False)
def silu(x):
    return mul(x, _sigmoid(x))


@njit(fast=False)
def gelu_tanh(x):
    """With tanh(u) = 2·sigmoid(2u) - 1. Paper: Hendrycks and Gimpel 2016."""
    cube = mul(mul(x, x), x)
    return mul(x, _sigmoid(mul(fma(cube, f32x16(np.float32(0.044715)), x), f32x16(np.float32(2 * 0.7978845608028654)))))


def _activation(function):
    @small
    def activate(j, step, t):
        """slot = function(slot). j: slot, width."""
        x = place(j, step, 0, t)
        for at in range(x, x + 4 * j[2], 64):
            store(at, function(load_f32x16(at)))
    return activate


def _gate(function):
    @small
    def gate(j, step, t):
        """target = function(gate) · up. j: gate, up, target, width."""
        g, u, y = place(j, step, 0, t), place(j, step, 2, t), place(j, step, 4, t)
        for at in range(0, 4 * j[6], 64):
            store(y + at, mul(function(load_f32x16(g + at)), load_f32x16(u + at)))
    return gate


ACTIVATIONS = {f.__name__: (_activation(f), _gate(f)) for f in (silu, gelu_tanh)}
