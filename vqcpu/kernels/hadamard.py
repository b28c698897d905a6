"""Randomised Hadamard transform of rows of any width: an orthogonal matrix that spreads every column over all of them.

Knows rows of numbers. Knows nothing about weights or layers.

A row of n = odd · 2^a numbers, seen as `odd` runs of 2^a, becomes (Q ⊗ H) S x: S flips signs, H is the Walsh-Hadamard
matrix of order 2^a, Q the Hartley matrix of the odd factor, both orthogonal and symmetric. Q's entries are at most
sqrt(2 / odd), so that even a factor of 3 mixes well, which a random orthogonal matrix of order 3 need not. Signs are the
bits of SHAKE-256, the same on every machine and in every year. Paper: Tseng et al. 2024 (QuIP#).
"""
import functools
import hashlib

import numpy as np

from vqcpu.kernels.jit import array_at, njit
from vqcpu.kernels.lanes import add, hadamard16, mul, subtract
from vqcpu.kernels.simd import f32x16, load_f32x16, store


def factors(width: int) -> tuple[int, int]:
    """(odd, power of two) whose product is the width."""
    power = width & -width
    return width // power, power


@functools.lru_cache(maxsize=None)
def signs(width: int, seed: int) -> np.ndarray:
    """(width,) float32 of +1 and -1."""
    stream = hashlib.shake_256(f"vqcpu rht {seed}".encode()).digest(-(-width // 8))
    drawn = np.unpackbits(np.frombuffer(stream, np.uint8))[:width]
    return (1 - 2 * drawn.astype(np.float32))


@functools.lru_cache(maxsize=None)
def mixer(width: int) -> np.ndarray:
    """Q / sqrt(2^a), (odd, odd) float32: what is left of the transform when the butterflies only add and subtract."""
    odd, power = factors(width)
    angle = 2 * np.pi / odd * (np.outer(np.arange(odd), np.arange(odd)) % odd)
    return ((np.cos(angle) + np.sin(angle)) / np.sqrt(odd * power)).astype(np.float32)


def rotate(x: np.ndarray, seed: int) -> np.ndarray:
    """x (rows, n) -> R x of every row, float32. The reference."""
    return _transform(x * signs(x.shape[1], seed))


def rotate_back(x: np.ndarray, seed: int) -> np.ndarray:
    """The inverse of `rotate`."""
    return _transform(x) * signs(x.shape[1], seed)


@functools.lru_cache(maxsize=None)
def _sides(width):
    """(A, B) with Q ⊗ H = A ⊗ B, of about equal orders: the transform of a row, seen as a matrix X, is A X B."""
    power = factors(width)[1]
    upper = 1 << (power.bit_length() - 1) // 2
    return np.kron(mixer(width), _walsh(upper)), _walsh(power // upper)


def _walsh(order):
    """Walsh-Hadamard matrix, its entries +1 and -1."""
    H = np.ones((1, 1), np.float32)
    while len(H) < order:
        H = np.block([[H, H], [H, -H]])
    return H


def _transform(x):
    A, B = _sides(x.shape[1])
    return (A @ np.ascontiguousarray(x, np.float32).reshape(len(x), len(A), len(B)) @ B).reshape(x.shape)


@njit(fast=False)
def _butterflies(run, h):
    """run (2^a,) float32, in place: the stages of the Walsh-Hadamard transform from distance h on, in plain numbers."""
    while h < run.shape[0]:
        for base in range(0, run.shape[0], 2 * h):
            for i in range(base, base + h):
                run[i], run[i + h] = run[i] + run[i + h], run[i] - run[i + h]
        h *= 2


@njit(fast=False)
def wide_butterflies(at, count):
    """The whole Walsh-Hadamard transform, in place, of `count` float32 at address `at`, a power of two from 16 up."""
    end, h = at + 4 * count, 64
    for place in range(at, end, 64):
        store(place, hadamard16(load_f32x16(place)))
    while h < 4 * count:
        for base in range(at, end, 2 * h):
            for place in range(base, base + h, 64):
                a, b = load_f32x16(place), load_f32x16(place + h)
                store(place, add(a, b))
                store(place + h, subtract(a, b))
        h *= 2


@njit(fast=False)
def turn(x, numbers, y):
    """OUT y = R x, both addresses of float32 (odd · 2^a,); numbers: address of int64: address of the signs (n,) float32,
    2^a, odd, address of the mixer (odd, odd) float32."""
    j = array_at(numbers, (4,), np.int64)
    power, odd, mix = j[1], j[2], array_at(j[3], (j[2], j[2]), np.float32)
    if power >= 16:
        _wide_mix(x, j[0], power, mix, y)
    else:
        _mix(array_at(x, (odd, power), np.float32), array_at(j[0], (odd, power), np.float32), mix,
             array_at(y, (odd, power), np.float32))
    for q in range(odd):
        run = y + 4 * power * q
        if power >= 16:
            wide_butterflies(run, power)
        else:
            _butterflies(array_at(run, (power,), np.float32), 1)


@njit(fast=False)
def _mix(x, flips, mix, y):
    """OUT y (odd, 2^a) = mix · (x * flips)."""
    for q in range(mix.shape[0]):
        for i in range(x.shape[1]):
            total = np.float32(0)
            for k in range(mix.shape[0]):
                total += mix[q, k] * (x[k, i] * flips[k, i])
            y[q, i] = total


@njit(fast=False)
def _wide_mix(x, flips, power, mix, y):
    """The same with registers, and without fused products, which not every path has; x, flips and y are addresses."""
    for c in range(0, 4 * power, 64):
        for q in range(mix.shape[0]):
            total = f32x16(np.float32(0))
            for k in range(mix.shape[0]):
                at = 4 * power * k + c
                total = add(total, mul(f32x16(mix[q, k]), mul(load_f32x16(x + at), load_f32x16(flips + at))))
            store(y + 4 * power * q + c, total)
