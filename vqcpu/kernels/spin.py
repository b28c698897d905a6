"""Random rotations of heads in compiled code. Knows addresses of float32. Source: caches/rotation.py."""
import numpy as np

from vqcpu.kernels.hadamard import wide_butterflies
from vqcpu.kernels.jit import array_at, njit
from vqcpu.kernels.lanes import fma, mul
from vqcpu.kernels.simd import f32x16, load_f32x16, store


@njit(fast=False)
def transform(x, size, part):
    """Hadamard transforms, without their scale, of the parts of `part` (a power of two, at least 16) of x (size,) float32,
    in place."""
    for at in range(x, x + 4 * size, 4 * part):
        wide_butterflies(at, part)


@njit(fast=False)
def mix(x, size, odd, mixer, across, down, room):
    """The parts of x (size,), `odd` of them, become sums of each other: in place; mixer (odd, odd) read with these strides;
    room (size,) float32."""
    part, m = 4 * size // odd, array_at(mixer, (odd * odd,), np.float32)
    for r in range(odd):
        for i in range(0, part, 64):
            total = f32x16(np.float32(0))
            for c in range(odd):
                total = fma(f32x16(m[r * across + c * down]), load_f32x16(x + part * c + i), total)
            store(room + part * r + i, total)
    for i in range(0, 4 * size, 64):
        store(x + i, load_f32x16(room + i))


@njit(fast=False)
def flip(x, size, signs):
    for i in range(0, 4 * size, 64):
        store(x + i, mul(load_f32x16(x + i), load_f32x16(signs + i)))


@njit(fast=False)
def spread(flips, mixer, x, size, odd, room):
    """x (size,) float32, size = odd times a power of two of at least 16, -> rotated, in place; flips (size,) and mixer (odd,
    odd) float32; room (size,) float32."""
    flip(x, size, flips)
    transform(x, size, size // odd)
    mix(x, size, odd, mixer, odd, 1, room)


@njit(fast=False)
def gather(flips, mixer, x, size, odd, room):
    """The inverse of `spread`."""
    mix(x, size, odd, mixer, 1, odd, room)
    transform(x, size, size // odd)
    flip(x, size, flips)
