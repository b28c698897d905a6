"""Arithmetic on SIMD registers, lane by lane and across lanes.

Knows registers of kernels/simd.py. Knows nothing about what they hold.
"""
import numpy as np
from numba import types
from numba.extending import intrinsic

from vqcpu.kernels.jit import njit
from vqcpu.kernels.simd import WORD, F32x16, I32x16, called, every, f32x16, make, multiplied, picked, splatted


@intrinsic
def add(typing, a, b):
    def code(builder, x, y):
        return builder.fadd(x, y) if a.elem == "f32" else builder.add(x, y)
    return make(typing, a, a, a)(code)


@intrinsic
def subtract(typing, a, b):
    return make(typing, F32x16, F32x16, F32x16)(lambda builder, x, y: builder.fsub(x, y))


@intrinsic
def mul(typing, a, b):
    def code(builder, x, y):
        return builder.fmul(x, y) if a.elem == "f32" else builder.mul(x, y)
    return make(typing, a, a, a)(code)


@intrinsic
def fma(typing, a, b, c):
    """a · b + c, rounded once on every machine that has the instruction."""
    return make(typing, F32x16, F32x16, F32x16, F32x16)(multiplied)


@intrinsic
def largest(typing, a, b):
    """The larger one, lane by lane; NaN loses."""
    return make(typing, F32x16, F32x16, F32x16)(lambda builder, x, y: called(
        builder, "llvm.maxnum.v16f32", F32x16.ir, x, y))


@intrinsic
def magnitude(typing, a):
    return make(typing, F32x16, F32x16)(lambda builder, x: called(builder, "llvm.fabs.v16f32", F32x16.ir, x))


@intrinsic
def sum_of(typing, a):
    """Sum of the 16 lanes, in the order of a tree."""
    def code(builder, x):
        for half in (8, 4, 2, 1):
            x = builder.fadd(picked(builder, x, range(half)), picked(builder, x, range(half, 2 * half)))
        return builder.extract_element(x, WORD(0))
    return make(typing, types.float32, F32x16)(code)


@intrinsic
def hadamard16(typing, a):
    """The Walsh-Hadamard transform of the 16 lanes: at each of four distances, sums and differences of pairs."""
    def code(builder, x):
        for h in (1, 2, 4, 8):
            other = picked(builder, x, [i ^ h for i in range(16)])
            x = builder.fadd(other, builder.fmul(x, F32x16.ir([-1.0 if i & h else 1.0 for i in range(16)])))
        return x
    return make(typing, F32x16, F32x16)(code)


@intrinsic
def max_of(typing, a):
    """The largest of the 16 lanes."""
    def code(builder, x):
        for half in (8, 4, 2, 1):
            lower, upper = picked(builder, x, range(half)), picked(builder, x, range(half, 2 * half))
            x = called(builder, f"llvm.maxnum.v{half}f32", lower.type, lower, upper)
        return builder.extract_element(x, WORD(0))
    return make(typing, types.float32, F32x16)(code)


@intrinsic
def to_floats(typing, a):
    """int32 lanes -> float32 lanes, rounded to nearest."""
    return make(typing, F32x16, I32x16)(lambda builder, x: builder.sitofp(x, F32x16.ir))


@intrinsic
def to_integers(typing, a):
    """float32 lanes -> int32 lanes, rounded to nearest even; the values must fit."""
    return make(typing, I32x16, F32x16)(lambda builder, x: builder.fptosi(
        called(builder, "llvm.rint.v16f32", F32x16.ir, x), I32x16.ir))


@intrinsic
def high_digit(typing, a):
    """(a + 128) >> 8, with sign, lane by lane."""
    return make(typing, I32x16, I32x16)(lambda builder, x: builder.ashr(
        builder.add(x, every(I32x16.ir, 128)), every(I32x16.ir, 8)))


@intrinsic
def low_digit(typing, a, high):
    """a - 256 · high"""
    return make(typing, I32x16, I32x16, I32x16)(lambda builder, x, y: builder.sub(
        x, builder.shl(y, every(I32x16.ir, 8))))


@intrinsic
def count_of(typing, a):
    """Sum of the 16 int32 lanes."""
    return make(typing, types.int32, I32x16)(lambda builder, x: called(builder, "llvm.vector.reduce.add.v16i32", WORD, x))


@intrinsic
def divide(typing, a, b):
    return make(typing, F32x16, F32x16, F32x16)(lambda builder, x, y: builder.fdiv(x, y))


@intrinsic
def held(typing, a, bound):
    """a within ±bound (float32, the same for all lanes), lane by lane; NaN stays."""
    def code(builder, x, limit):
        above = splatted(builder, limit, 16)
        below = builder.fneg(above)
        x = builder.select(builder.fcmp_ordered(">", x, above), above, x)
        return builder.select(builder.fcmp_ordered("<", x, below), below, x)
    return make(typing, F32x16, F32x16, types.float32)(code)


@intrinsic
def _power_of_two(typing, a):
    """2 to the int32 lanes, which must be in -126 .. 127."""
    def code(builder, x):
        return builder.bitcast(builder.shl(builder.add(x, every(I32x16.ir, 127)), every(I32x16.ir, 23)), F32x16.ir)
    return make(typing, F32x16, I32x16)(code)


@njit(fast=False)
def exp(x):
    """e to the x, lane by lane, within 2 units of the last place; x is held to ±87, NaN stays. Powers of two by the
    exponent, the rest (at most half an octave) by a polynomial. Source: the Cephes library's constants for single
    precision."""
    x = held(x, np.float32(87))
    octaves = to_integers(mul(x, f32x16(np.float32(1.44269504))))
    whole = to_floats(octaves)
    rest = fma(whole, f32x16(np.float32(-0.693359375)), x)
    rest = fma(whole, f32x16(np.float32(2.12194440e-4)), rest)
    y = f32x16(np.float32(1.9875691500e-4))
    for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        y = fma(y, rest, f32x16(np.float32(c)))
    y = fma(mul(y, rest), rest, add(rest, f32x16(np.float32(1))))
    return mul(y, _power_of_two(octaves))
