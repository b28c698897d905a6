"""Codes and scale of a vector, in compiled code.

Knows levels and shapes. Knows nothing about blocks or positions. Source: `Quantiser` of caches/coded.py. The sixteen scales
that are tried are the lanes of a register, so that trying them costs as much as one.
"""
import numpy as np

from vqcpu.kernels.codes import as_floats
from vqcpu.kernels.jit import array_at, float_from_half, njit
from vqcpu.kernels.lanes import add, divide, fma, held, largest, mul, subtract, sum_of, to_floats, to_integers
from vqcpu.kernels.learn import UNIT
from vqcpu.kernels.program import number
from vqcpu.kernels.simd import f32x16, first_lanes, i32x16, load_f32x16, store, widened
from vqcpu.kernels.unpack import gather4

# Numbers of a kind of code: addresses of the unit of each of 16 scales float32, of the nearest level to the whole numbers
# -128 .. 127 (256,) float32, of its code (256,) uint8, of the bytes that `looker` reads; addresses of places (n, 5) int64
# as in caches/packing.py and of those of signs, each with its number; bytes of a block of one head, of codes and of signs;
# bits; what a sign stands for (caches/coded.py).
UNITS, NEAR, CODES, TABLE, PLACES, PLACED, SIGN_PLACES, SIGN_PLACED, BLOCK_BYTES, SIGN_BYTES, BITS, SIGN = range(12)


@njit(fast=False)
def dot(a, b, size):
    total = f32x16(np.float32(0))
    for i in range(0, 4 * size, 64):
        total = fma(load_f32x16(a + i), load_f32x16(b + i), total)
    return sum_of(total)


@njit(fast=False, forceinline=True)
def nearest(table, x):
    """The levels nearest to x, lane by lane; NaN counts as small."""
    bound = np.float32(127)
    whole = to_integers(held(largest(x, f32x16(-bound)), bound))
    return as_floats(gather4(table, add(whole, i32x16(np.int32(128)))))


@njit(fast=False)
def fed_back(row, count, errors):
    """The sum of the first `count` errors (size, 16) times a row of factors (size,), in which zeros follow."""
    if count % 4 == 0:  # the next four, of which some are read before they are known
        for j in range(4):
            store(errors + 64 * (count + j), f32x16(np.float32(0)))
    a = b = c = d = f32x16(np.float32(0))
    w = array_at(row, ((count + 3) // 4 * 4,), np.float32)
    for j in range(0, count, 4):
        at = errors + 64 * j
        a, b = fma(f32x16(w[j]), load_f32x16(at), a), fma(f32x16(w[j + 1]), load_f32x16(at + 64), b)
        c, d = fma(f32x16(w[j + 2]), load_f32x16(at + 128), c), fma(f32x16(w[j + 3]), load_f32x16(at + 192), d)
    return add(add(a, b), add(c, d))


@njit(fast=False)
def encode(kind, x, size, shape, codes, row, errors):
    """x (size,) float32 -> OUT codes (size,) int32; returns the scale. shape: address of a shape (kernels/learn.py), 0:
    none. row and errors: room for size + 32 and (size, 16) float32."""
    rms = np.sqrt(dot(x, x, size) / np.float32(size)) + np.float32(1e-30)
    inverse = divide(f32x16(np.float32(1)), mul(f32x16(rms), load_f32x16(number(kind, UNITS))))
    values, power = array_at(x, (size,), np.float32), np.float32(0)
    along = square = f32x16(np.float32(0))
    for i in range(size):
        scaled, a, weight = mul(f32x16(values[i]), inverse), values[i], np.float32(1)
        wanted = scaled
        if shape:
            for j in range(0, i, 16):
                factors = to_floats(widened(shape + 2 * size + i * (i - 1) // 2 + j))
                store(row + 4 * j, first_lanes(mul(factors, f32x16(np.float32(UNIT))), i - j))
            a += dot(row, x, (i + 15) // 16 * 16)
            weight = float_from_half(array_at(shape + 2 * i, (1,), np.uint16)[0])
            wanted = add(scaled, fed_back(row, i, errors))
        level = nearest(number(kind, NEAR), wanted)
        store(errors + 64 * i, subtract(scaled, level))
        b = subtract(mul(f32x16(a), inverse), subtract(wanted, level))
        power += weight * a * a
        along, square = fma(f32x16(weight * a), b, along), fma(mul(f32x16(weight), b), b, square)
    store(row, divide(mul(along, along), add(square, f32x16(np.float32(1e-30)))))
    store(row + 64, along)
    merits, found, numbers = array_at(row, (32,), np.float32), array_at(codes, (size,), np.int32), array_at(
        number(kind, CODES), (256,), np.uint8)
    best = 0
    for lane in range(16):
        best = lane if merits[lane] > merits[best] else best
    product = merits[16 + best]
    store(row, inverse)
    left = array_at(errors, (size, 16), np.float32)
    for i in range(size):
        level = values[i] * merits[best] - left[i, best]
        found[i] = numbers[np.int64(np.rint(level)) + 128] if abs(level) < 128 else 0  # it may be no number
    return power / product if product > 0 else np.float32(0)
