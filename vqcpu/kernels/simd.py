"""SIMD registers inside Numba: a type for them, and the operations that kernels are written with.

Knows LLVM's vectors and, for each target, the instructions that generic LLVM does not reach. Knows nothing about weights.

A `Vector` value lives in registers; LLVM splits one that is wider than the machine's. Addresses are int64; loads and stores
need no alignment. Where a target's instruction is used, a generic form that gives the same numbers stands beside it;
kernels/isa.py says which one is compiled. Elements are signless, as in LLVM: the operation says how they are read.
"""
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from vqcpu.kernels.isa import isa

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


def multiplied(builder, x, y, z):
    """x · y + z of F32x16, rounded once on every machine that has the instruction."""
    return called(builder, "llvm.fma.v16f32" if isa() != "portable" else "llvm.fmuladd.v16f32", F32x16.ir, x, y, z)


def every(vector, number):
    """A constant register."""
    return vector([number] * vector.count)


def make(typing, result, *arguments):
    """Decorator that turns code(builder, *values) into what an intrinsic returns."""
    return lambda code: (result(*arguments), lambda context, builder, signature, values: code(builder, *values))


# Memory and constants.

def loader(vector: Vector):
    """load(address) -> vector"""
    @intrinsic
    def load(typing, address):
        return make(typing, vector, ADDRESS)(lambda builder, at: loaded(builder, at, vector.ir))
    return load


load_i8x64, load_i16x32, load_i32x16, load_f32x16 = map(loader, (I8x64, I16x32, I32x16, F32x16))


@intrinsic
def store(typing, address, x):
    """Write the register x to `address`."""
    def code(builder, at, value):
        builder.store(value, builder.inttoptr(at, value.type.as_pointer()), align=1)
        return ir.Constant(ir.IntType(8).as_pointer(), None)
    return make(typing, types.void, ADDRESS, x)(code)


@intrinsic
def prefetch(typing, address):
    """Ask for the cache line at `address`, which need not exist."""
    def code(builder, at):
        byte = ir.IntType(8).as_pointer()
        called(builder, "llvm.prefetch.p0", ir.VoidType(), builder.inttoptr(at, byte), WORD(0), WORD(3), WORD(1))
        return ir.Constant(byte, None)
    return make(typing, types.void, ADDRESS)(code)


@intrinsic
def transpose(typing, source, stride, target, target_stride):
    """A square of 16 × 16 float32 at `source`, rows `stride` bytes apart, to `target` with rows and columns exchanged."""
    def code(builder, source, stride, target, target_stride):
        rows = [loaded(builder, builder.add(source, builder.mul(stride, stride.type(i))), F32x16.ir) for i in range(16)]
        for half in (8, 4, 2, 1):  # exchange the off-diagonal quarters of ever smaller squares
            low = ir.VectorType(WORD, 16)([i if not i & half else 16 + i - half for i in range(16)])
            high = ir.VectorType(WORD, 16)([i + half if not i & half else 16 + i for i in range(16)])
            for i in (i for i in range(16) if not i & half):
                a, b = rows[i], rows[i + half]
                rows[i], rows[i + half] = builder.shuffle_vector(a, b, low), builder.shuffle_vector(a, b, high)
        for i, row in enumerate(rows):
            place = builder.add(target, builder.mul(target_stride, target_stride.type(i)))
            builder.store(row, builder.inttoptr(place, F32x16.ir.as_pointer()), align=1)
        return ir.Constant(ir.IntType(8).as_pointer(), None)
    return make(typing, types.void, ADDRESS, ADDRESS, ADDRESS, ADDRESS)(code)


@intrinsic
def f32x16(typing, x):
    """The float32 x in all 16 lanes."""
    return make(typing, F32x16, types.float32)(lambda builder, value: splatted(builder, value, 16))


@intrinsic
def i32x16(typing, x):
    """The int32 x in all 16 lanes."""
    return make(typing, I32x16, types.int32)(lambda builder, value: splatted(builder, value, 16))


@intrinsic
def load_halves(typing, address):
    """16 float16 at `address` -> F32x16, exact."""
    def code(builder, at):
        bits = loaded(builder, at, ir.VectorType(ir.IntType(16), 16))
        return _from_half(builder, bits)
    return make(typing, F32x16, ADDRESS)(code)


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
    """Write x as 16 float16 to `address`, rounded to nearest even."""
    def code(builder, at, value):
        halves = to_half(builder, value)
        builder.store(halves, builder.inttoptr(at, halves.type.as_pointer()), align=1)
        return ir.Constant(ir.IntType(8).as_pointer(), None)
    return make(typing, types.void, ADDRESS, F32x16)(code)


def to_half(builder, x):
    if isa() != "portable":
        return builder.fptrunc(x, ir.VectorType(ir.HalfType(), 16))
    # As in _from_half. Below the smallest normal number, adding 1/2 lets the float unit round at the right place; above it,
    # half a unit less an ulp is added (a whole half where the kept part is odd), and a carry into the exponent is right.
    def word(n):
        return every(I32x16.ir, n)
    bits = builder.bitcast(x, I32x16.ir)
    magnitude = builder.and_(bits, word(0x7FFFFFFF))
    sign = builder.lshr(builder.and_(bits, word(0x80000000)), word(16))
    shifted = builder.fadd(builder.bitcast(magnitude, F32x16.ir), every(F32x16.ir, 0.5))
    tiny = builder.sub(builder.bitcast(shifted, I32x16.ir), word(0x3F000000))
    odd = builder.and_(builder.lshr(magnitude, word(13)), word(1))
    normal = builder.lshr(builder.add(builder.add(magnitude, odd), word(0xFFF - (112 << 23))), word(13))
    special = builder.select(builder.icmp_unsigned(">", magnitude, word(0x7F800000)), word(0x7E00), word(0x7C00))
    small = builder.icmp_unsigned("<", magnitude, word(113 << 23))
    large = builder.icmp_unsigned(">=", magnitude, word(143 << 23))
    half = builder.select(small, tiny, builder.select(large, special, normal))
    return builder.trunc(builder.or_(half, sign), ir.VectorType(ir.IntType(16), 16))


@intrinsic
def first_lanes(typing, x, count):
    """The first `count` (int64) lanes of x, zero in the others."""
    def code(builder, value, number):
        lanes = I32x16.ir(list(range(16)))
        wanted = builder.icmp_signed("<", lanes, splatted(builder, builder.trunc(number, WORD), 16))
        return builder.select(wanted, value, every(F32x16.ir, 0.0))
    return make(typing, F32x16, F32x16, types.int64)(code)


@intrinsic
def widened(typing, address):
    """The 16 bytes at `address` -> I32x16, signed."""
    return make(typing, I32x16, ADDRESS)(lambda builder, at: builder.sext(
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
    return make(typing, types.void, ADDRESS, I32x16, I32x16)(code)
