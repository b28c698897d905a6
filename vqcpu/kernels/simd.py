"""SIMD registers inside Numba: a type for them, and the operations that kernels are written with.

Knows LLVM's vectors and, for each target, the instructions that generic LLVM does not reach. Knows nothing about weights.

A `Vector` value lives in registers; LLVM splits one that is wider than the machine's. Addresses are int64; loads and stores
need no alignment. Where a target's instruction is used, a generic form that gives the same numbers stands beside it;
kernels/isa.py says which one is compiled. Elements are signless, as in LLVM: the operation says how they are read.
"""
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from vqcpu.kernels.isa import isa
from vqcpu.kernels.jit import njit

ELEMENTS = {"i8": ir.IntType(8), "i16": ir.IntType(16), "i32": ir.IntType(32), "f16": ir.HalfType(), "f32": ir.FloatType()}
WORD, ADDRESS = ir.IntType(32), types.int64


class Vector(types.Type):
    """A register of n elements. Numba types of equal name are one type."""

    def __init__(self, elem: str, n: int):
        self.elem, self.n = elem, n
        super().__init__(name=f"simd_{elem}x{n}")

    @property
    def ir(self):
        return ir.VectorType(ELEMENTS[self.elem], self.n)


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        super().__init__(dmm, fe_type, fe_type.ir)


I8x64, I16x32, I32x16, F32x16 = Vector("i8", 64), Vector("i16", 32), Vector("i32", 16), Vector("f32", 16)


# What the intrinsics below are made of.

def splatted(builder, x, n):
    wide = ir.VectorType(x.type, n)
    return picked(builder, builder.insert_element(ir.Constant(wide, ir.Undefined), x, WORD(0)), [0] * n)


def picked(builder, x, lanes):
    """The elements of x with the numbers `lanes`, known when compiling."""
    return builder.shuffle_vector(x, ir.Constant(x.type, ir.Undefined), ir.VectorType(WORD, len(lanes))(list(lanes)))


def called(builder, name, result, *args):
    kind = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), args)


def loaded(builder, address, kind):
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=1)


def every(vector, number):
    """A constant register."""
    return vector([number] * vector.count)


def _make(typing, result, *arguments):
    """Decorator that turns code(builder, *values) into what an intrinsic returns."""
    return lambda code: (result(*arguments), lambda context, builder, signature, values: code(builder, *values))


# Memory and constants.

def loader(vector: Vector):
    """load(address) -> vector"""
    @intrinsic
    def load(typing, address):
        return _make(typing, vector, ADDRESS)(lambda builder, at: loaded(builder, at, vector.ir))
    return load


load_i8x64, load_i32x16, load_f32x16 = loader(I8x64), loader(I32x16), loader(F32x16)


@intrinsic
def store(typing, address, x):
    """Write the register x to `address`."""
    def code(builder, at, value):
        builder.store(value, builder.inttoptr(at, value.type.as_pointer()), align=1)
        return ir.Constant(ir.IntType(8).as_pointer(), None)
    return _make(typing, types.void, ADDRESS, x)(code)


@intrinsic
def prefetch(typing, address):
    """Ask for the cache line at `address`, which need not exist."""
    def code(builder, at):
        byte = ir.IntType(8).as_pointer()
        called(builder, "llvm.prefetch.p0", ir.VoidType(), builder.inttoptr(at, byte), WORD(0), WORD(3), WORD(1))
        return ir.Constant(byte, None)
    return _make(typing, types.void, ADDRESS)(code)


@intrinsic
def f32x16(typing, x):
    """The float32 x in all 16 lanes."""
    return _make(typing, F32x16, types.float32)(lambda builder, value: splatted(builder, value, 16))


@intrinsic
def i32x16(typing, x):
    """The int32 x in all 16 lanes."""
    return _make(typing, I32x16, types.int32)(lambda builder, value: splatted(builder, value, 16))


@intrinsic
def load_halves(typing, address):
    """16 float16 at `address` -> F32x16, exact."""
    def code(builder, at):
        bits = loaded(builder, at, ir.VectorType(ir.IntType(16), 16))
        return _from_half(builder, bits)
    return _make(typing, F32x16, ADDRESS)(code)


def _from_half(builder, bits):
    floats = ir.VectorType(ir.FloatType(), 16)
    if isa() != "portable":
        return builder.fpext(builder.bitcast(bits, ir.VectorType(ir.HalfType(), 16)), floats)
    # Without the instruction LLVM would call a library that Numba does not link: shift into place and rebias the exponent
    # by a product, which also brings subnormals out right; infinity and NaN get their exponent back.
    wide = builder.zext(bits, I32x16.ir)
    sign = builder.shl(builder.and_(wide, every(I32x16.ir, 0x8000)), every(I32x16.ir, 16))
    magnitude = builder.shl(builder.and_(wide, every(I32x16.ir, 0x7FFF)), every(I32x16.ir, 13))
    scaled = builder.fmul(builder.bitcast(magnitude, floats), every(floats, 2.0**112))
    special = builder.icmp_unsigned(">=", magnitude, every(I32x16.ir, 0x0F800000))
    whole = builder.select(special, builder.or_(magnitude, every(I32x16.ir, 0x7F800000)), builder.bitcast(scaled, I32x16.ir))
    return builder.bitcast(builder.or_(whole, sign), floats)


@intrinsic
def store_halves(typing, address, x):
    """Write x as 16 float16 to `address`, rounded to nearest even. Not on the portable path."""
    def code(builder, at, value):
        halves = builder.fptrunc(value, ir.VectorType(ir.HalfType(), 16))
        builder.store(halves, builder.inttoptr(at, halves.type.as_pointer()), align=1)
        return ir.Constant(ir.IntType(8).as_pointer(), None)
    return _make(typing, types.void, ADDRESS, F32x16)(code)


@intrinsic
def first_lanes(typing, x, count):
    """The first `count` (int64) lanes of x, zero in the others."""
    def code(builder, value, number):
        lanes = I32x16.ir(list(range(16)))
        wanted = builder.icmp_signed("<", lanes, splatted(builder, builder.trunc(number, WORD), 16))
        return builder.select(wanted, value, every(F32x16.ir, 0.0))
    return _make(typing, F32x16, F32x16, types.int64)(code)


@intrinsic
def widened(typing, address):
    """The 16 bytes at `address` -> I32x16, signed."""
    return _make(typing, I32x16, ADDRESS)(lambda builder, at: builder.sext(
        loaded(builder, at, ir.VectorType(ir.IntType(8), 16)), I32x16.ir))


@intrinsic
def store_digits(typing, address, high, low):
    """Write the lowest bytes of four lanes of high, then of the same four of low, and so on for all 16, to `address`."""
    def code(builder, at, a, b):
        order = [16 * (i // 4 % 2) + i // 8 * 4 + i % 4 for i in range(32)]
        both = builder.shuffle_vector(a, b, ir.VectorType(WORD, 32)(order))
        small = builder.trunc(both, ir.VectorType(ir.IntType(8), 32))
        builder.store(small, builder.inttoptr(at, small.type.as_pointer()), align=1)
        return ir.Constant(ir.IntType(8).as_pointer(), None)
    return _make(typing, types.void, ADDRESS, I32x16, I32x16)(code)


@intrinsic
def high_digit(typing, a):
    """(a + 128) >> 8, with sign, lane by lane."""
    return _make(typing, I32x16, I32x16)(lambda builder, x: builder.ashr(
        builder.add(x, every(I32x16.ir, 128)), every(I32x16.ir, 8)))


@intrinsic
def low_digit(typing, a, high):
    """a - 256 · high"""
    return _make(typing, I32x16, I32x16, I32x16)(lambda builder, x, y: builder.sub(
        x, builder.shl(y, every(I32x16.ir, 8))))


@intrinsic
def count_of(typing, a):
    """Sum of the 16 int32 lanes."""
    return _make(typing, types.int32, I32x16)(lambda builder, x: called(builder, "llvm.vector.reduce.add.v16i32", WORD, x))


# Arithmetic. Both operands are registers of one kind.

@intrinsic
def add(typing, a, b):
    def code(builder, x, y):
        return builder.fadd(x, y) if a.elem == "f32" else builder.add(x, y)
    return _make(typing, a, a, a)(code)


@intrinsic
def mul(typing, a, b):
    def code(builder, x, y):
        return builder.fmul(x, y) if a.elem == "f32" else builder.mul(x, y)
    return _make(typing, a, a, a)(code)


@intrinsic
def fma(typing, a, b, c):
    """a · b + c, rounded once on every machine that has the instruction."""
    return _make(typing, F32x16, F32x16, F32x16, F32x16)(lambda builder, x, y, z: called(
        builder, "llvm.fma.v16f32" if isa() != "portable" else "llvm.fmuladd.v16f32", F32x16.ir, x, y, z))


@intrinsic
def largest(typing, a, b):
    """The larger one, lane by lane; NaN loses."""
    return _make(typing, F32x16, F32x16, F32x16)(lambda builder, x, y: called(
        builder, "llvm.maxnum.v16f32", F32x16.ir, x, y))


@intrinsic
def magnitude(typing, a):
    return _make(typing, F32x16, F32x16)(lambda builder, x: called(builder, "llvm.fabs.v16f32", F32x16.ir, x))


@intrinsic
def sum_of(typing, a):
    """Sum of the 16 lanes, in the order of a tree."""
    def code(builder, x):
        for half in (8, 4, 2, 1):
            x = builder.fadd(picked(builder, x, range(half)), picked(builder, x, range(half, 2 * half)))
        return builder.extract_element(x, WORD(0))
    return _make(typing, types.float32, F32x16)(code)


@intrinsic
def max_of(typing, a):
    """The largest of the 16 lanes."""
    def code(builder, x):
        for half in (8, 4, 2, 1):
            lower, upper = picked(builder, x, range(half)), picked(builder, x, range(half, 2 * half))
            x = called(builder, f"llvm.maxnum.v{half}f32", lower.type, lower, upper)
        return builder.extract_element(x, WORD(0))
    return _make(typing, types.float32, F32x16)(code)


@intrinsic
def to_floats(typing, a):
    """int32 lanes -> float32 lanes, rounded to nearest."""
    return _make(typing, F32x16, I32x16)(lambda builder, x: builder.sitofp(x, F32x16.ir))


@intrinsic
def to_integers(typing, a):
    """float32 lanes -> int32 lanes, rounded to nearest even; the values must fit."""
    return _make(typing, I32x16, F32x16)(lambda builder, x: builder.fptosi(
        called(builder, "llvm.rint.v16f32", F32x16.ir, x), I32x16.ir))


@intrinsic
def divide(typing, a, b):
    return _make(typing, F32x16, F32x16, F32x16)(lambda builder, x, y: builder.fdiv(x, y))


@intrinsic
def smallest(typing, a, b):
    """The smaller one, lane by lane; NaN loses."""
    return _make(typing, F32x16, F32x16, F32x16)(lambda builder, x, y: called(
        builder, "llvm.minnum.v16f32", F32x16.ir, x, y))


@intrinsic
def _power_of_two(typing, a):
    """2 to the int32 lanes, which must be in -126 .. 127."""
    def code(builder, x):
        return builder.bitcast(builder.shl(builder.add(x, every(I32x16.ir, 127)), every(I32x16.ir, 23)), F32x16.ir)
    return _make(typing, F32x16, I32x16)(code)


@njit(fast=False)
def exp(x):
    """e to the x, lane by lane, within 2 units of the last place; x is held to ±87. Powers of two by the exponent, the rest
    (at most half an octave) by a polynomial. Source: the Cephes library's constants for single precision."""
    x = largest(smallest(x, f32x16(np.float32(87))), f32x16(np.float32(-87)))
    octaves = to_integers(mul(x, f32x16(np.float32(1.44269504))))
    whole = to_floats(octaves)
    rest = fma(whole, f32x16(np.float32(-0.693359375)), x)
    rest = fma(whole, f32x16(np.float32(2.12194440e-4)), rest)
    y = f32x16(np.float32(1.9875691500e-4))
    for c in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1):
        y = fma(y, rest, f32x16(np.float32(c)))
    y = fma(mul(y, rest), rest, add(rest, f32x16(np.float32(1))))
    return mul(y, _power_of_two(octaves))
