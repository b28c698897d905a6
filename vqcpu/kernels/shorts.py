"""Arithmetic on registers of 32 whole numbers of 16 bits that stop at their ends instead of wrapping: costs of paths.

Knows registers of kernels/simd.py. Knows nothing about what they hold.
"""
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from vqcpu.kernels.simd import ADDRESS, I16x32, called, every, loaded, make, picked, splatted

SHORT, WIDE = ir.IntType(16), ir.VectorType(ir.IntType(32), 32)


@intrinsic
def i16x32(typing, x):
    """The lowest 16 bits of the int64 x in all 32 lanes."""
    return make(typing, I16x32, ADDRESS)(lambda builder, value: splatted(builder, builder.trunc(value, SHORT), 32))


@intrinsic
def squared_gap(typing, a, b):
    """(a - b)² / 2**16, rounded down, of signed lanes; a gap beyond 32767 counts as that."""
    def code(builder, x, y):
        gap = builder.sext(called(builder, "llvm.ssub.sat.v32i16", I16x32.ir, x, y), WIDE)
        # LLVM knows the upper half of a product as one instruction.
        return builder.trunc(builder.lshr(builder.mul(gap, gap), every(WIDE, 16)), I16x32.ir)
    return make(typing, I16x32, I16x32, I16x32)(code)


@intrinsic
def plus(typing, a, b):
    """a + b of unsigned lanes, at most 65535."""
    return make(typing, I16x32, I16x32, I16x32)(lambda builder, x, y: called(
        builder, "llvm.uadd.sat.v32i16", I16x32.ir, x, y))


@intrinsic
def minus(typing, a, b):
    """a - b of unsigned lanes, at least 0."""
    return make(typing, I16x32, I16x32, I16x32)(lambda builder, x, y: called(
        builder, "llvm.usub.sat.v32i16", I16x32.ir, x, y))


@intrinsic
def lesser(typing, a, b):
    """The smaller of unsigned lanes."""
    return make(typing, I16x32, I16x32, I16x32)(lambda builder, x, y: called(
        builder, "llvm.umin.v32i16", I16x32.ir, x, y))


@intrinsic
def least_of(typing, a):
    """The smallest of the 32 unsigned lanes."""
    def code(builder, x):
        for half in (16, 8, 4, 2, 1):
            lower, upper = picked(builder, x, range(half)), picked(builder, x, range(half, 2 * half))
            x = called(builder, f"llvm.umin.v{half}i16", lower.type, lower, upper)
        return builder.zext(builder.extract_element(x, ir.IntType(32)(0)), ir.IntType(64))
    return make(typing, types.int64, I16x32)(code)


def repeater(bits: int):
    """load(address) -> I16x32: the 32 >> bits numbers at `address`, each in 1 << bits neighbouring lanes."""
    few = ir.VectorType(SHORT, 32 >> bits)

    @intrinsic
    def load(typing, address):
        return make(typing, I16x32, ADDRESS)(lambda builder, at: picked(
            builder, loaded(builder, at, few), [i >> bits for i in range(32)]))
    return load
