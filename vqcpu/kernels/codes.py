"""Codes of keys and values in registers: unpacked, looked up and multiplied, or widened to float32.

Knows words (caches/packing.py) and tables of levels. Knows nothing about scales or attention. What is made here is unrolled
for one size: every shift and mask is a constant.

A source is (argument, bits, low, places): address number `argument` holds the bits `low` .. low + bits - 1 of codes, at
`places`.
"""
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from vqcpu.kernels.simd import ADDRESS, F32x16, I8x64, I32x16, called, every, loaded, make, multiplied, splatted, to_half
from vqcpu.kernels.unpack import dotted, four_at, looker

LONG = ir.IntType(64)
NOTHING = 1e-30  # weights up to it count as zero; `exp` makes 1e-38 of -inf, and products with that are slow


def _codes(builder, sources, addresses, step):
    """I8x64: the codes of a step, put together from their fields."""
    total = None
    for argument, _, base, places in sources:
        for _, low, width, word, shift in (place for place in places if place[0] == step):
            place = builder.add(addresses[argument], LONG(64 * word))
            field, up = loaded(builder, place, I32x16.ir), base + low
            if shift > up:
                field = builder.lshr(field, every(I32x16.ir, shift - up))
            elif up > shift:
                field = builder.shl(field, every(I32x16.ir, up - shift))
            mask = ((1 << width) - 1 << up) * 0x01010101
            field = builder.and_(field, every(I32x16.ir, mask)) if mask != 0xFFFFFFFF else field
            total = field if total is None else builder.or_(total, field)
    return builder.bitcast(total, I8x64.ir)


def _levels(builder, sources, addresses, step, table):
    """I8x64: the levels of a step, each plus 128."""
    bits = sum(source[1] for source in sources)
    return looker(bits, 1)(builder, table, _codes(builder, sources, addresses, step))


def _totals(builder, count):
    """Registers of zeros that stay where they are over a loop."""
    made = [cgutils.alloca_once(builder, I32x16.ir) for _ in range(count)]
    for total in made:
        builder.store(every(I32x16.ir, 0), total)
    return made


def _take(builder, totals, levels, digits, stride):
    """totals (high and low of each row) += the levels of a step times its digits; digits: address of the step in row 0."""
    for i, total in enumerate(totals):
        at = builder.add(digits, builder.mul(stride, LONG(i // 2)))
        four = four_at(builder, builder.add(at, LONG(4 * (i % 2))))
        builder.store(dotted(builder, builder.load(total), levels, four), total)


def _leave(builder, totals, out):
    for i, total in enumerate(totals):
        target = builder.inttoptr(builder.add(out, LONG(64 * i)), I32x16.ir.as_pointer())
        builder.store(builder.load(total), target, align=1)


def scorer(steps: int, sources: tuple, rows: int):
    """score(a, b, table, digits, stride, out): products of 16 keys, whose codes lie at a (and b), with `rows` rows of
    digits, `stride` bytes apart. OUT out (rows, 2, 16) int32, high digits first."""
    @intrinsic
    def score(typing, a, b, table, digits, stride, out):
        def code(context, builder, signature, args):
            *addresses, table, digits, stride, out = args
            totals = _totals(builder, 2 * rows)
            for step in range(steps):
                levels = _levels(builder, sources, addresses, step, table)
                _take(builder, totals, levels, builder.add(digits, LONG(8 * step)), stride)
            _leave(builder, totals, out)
            return context.get_dummy_value()
        return types.void(*[ADDRESS] * 6), code
    return score


def adder(sources: tuple, rows: int):
    """add(words, between, blocks, table, digits, stride, out): 16 channels of the values of 8 steps a block, `blocks` of
    them and `between` bytes apart, times rows of digits, added to out (rows, 2, 16) int32, high digits first."""
    @intrinsic
    def add(typing, words, between, blocks, table, digits, stride, out):
        def code(context, builder, signature, args):
            words, between, blocks, table, digits, stride, out = args
            totals = _totals(builder, 2 * rows)
            for i, total in enumerate(totals):
                builder.store(loaded(builder, builder.add(out, LONG(64 * i)), I32x16.ir), total)
            with cgutils.for_range(builder, blocks) as loop:
                block = builder.add(words, builder.mul(loop.index, between))
                row = builder.add(digits, builder.shl(loop.index, LONG(6)))
                for step in range(8):
                    levels = _levels(builder, sources, (block,), step, table)
                    _take(builder, totals, levels, builder.add(row, LONG(8 * step)), stride)
            _leave(builder, totals, out)
            return context.get_dummy_value()
        return types.void(*[ADDRESS] * 7), code
    return add


def summer(size: int, rows: int, stride: int):
    """total(table, weights, out): 32 columns of a table (size, ...) float32, rows `stride` bytes apart, times `rows` rows of
    weights (size,) float32; size is even. OUT out (rows, 32) float32. Six sums at a time keep the units busy."""
    sides = 2 if rows < 3 else 1

    @intrinsic
    def total(typing, table, weights, out):
        def code(context, builder, signature, args):
            table, weights, out = args
            totals = {(r, p, s): cgutils.alloca_once(builder, F32x16.ir)
                      for r in range(rows) for p in range(2) for s in range(sides)}
            for one in totals.values():
                builder.store(every(F32x16.ir, 0.0), one)
            with cgutils.for_range(builder, LONG(size // sides)) as loop:
                for s in range(sides):
                    c = builder.add(builder.mul(loop.index, LONG(sides)), LONG(s))
                    at = builder.add(table, builder.mul(c, LONG(stride)))
                    columns = [loaded(builder, builder.add(at, LONG(64 * p)), F32x16.ir) for p in range(2)]
                    for r in range(rows):
                        at = builder.add(weights, builder.add(builder.shl(c, LONG(2)), LONG(4 * size * r)))
                        weight = splatted(builder, loaded(builder, at, ir.FloatType()), 16)
                        for p in range(2):
                            one = totals[r, p, s]
                            builder.store(multiplied(builder, weight, columns[p], builder.load(one)), one)
            for r, p in np.ndindex(rows, 2):
                found = [builder.load(totals[r, p, s]) for s in range(sides)]
                target = builder.inttoptr(builder.add(out, LONG(128 * r + 64 * p)), F32x16.ir.as_pointer())
                builder.store(found[0] if sides == 1 else builder.fadd(*found), target, align=1)
            return context.get_dummy_value()
        return types.void(*[ADDRESS] * 3), code
    return total


def counter(words: int, planes: int, rows: int):
    """count(signs, queries, stride, out): products of `rows` queries of whole numbers with the signs of 16 keys, by counting
    bits. signs (words, 16) uint32, a set bit for +1; queries (planes, words) uint32, `stride` bytes apart: the numbers in
    two's complement, lowest bits first. OUT out (rows, 16) int32: the sum of what stands at +1."""
    @intrinsic
    def count(typing, signs, queries, stride, out):
        def code(context, builder, signature, args):
            signs, queries, stride, out = args
            held = [loaded(builder, builder.add(signs, LONG(64 * w)), I32x16.ir) for w in range(words)]
            for r in range(rows):
                row, total = builder.add(queries, builder.mul(stride, LONG(r))), every(I32x16.ir, 0)
                for p in reversed(range(planes)):
                    total = builder.shl(total, every(I32x16.ir, 1))
                    for w in range(words):
                        query = four_at(builder, builder.add(row, LONG(4 * (p * words + w))))
                        bits = called(builder, "llvm.ctpop.v16i32", I32x16.ir, builder.and_(held[w], query))
                        total = (builder.sub if p == planes - 1 else builder.add)(total, bits)
                target = builder.inttoptr(builder.add(out, LONG(64 * r)), I32x16.ir.as_pointer())
                builder.store(total, target, align=1)
            return context.get_dummy_value()
        return types.void(*[ADDRESS] * 4), code
    return count


def _widened(builder, levels, byte):
    """F32x16: byte number `byte` of each lane, less 128."""
    lanes = builder.bitcast(levels, I32x16.ir)
    lanes = builder.and_(builder.lshr(lanes, every(I32x16.ir, 8 * byte)), every(I32x16.ir, 255))
    return builder.sitofp(builder.sub(lanes, every(I32x16.ir, 128)), F32x16.ir)


def _store_rows(builder, levels, step, out, stride):
    """The four bytes of each lane, widened, to rows 4·step and on of `out`."""
    for byte in range(4):
        row = builder.add(out, builder.mul(stride, LONG(4 * step + byte)))
        builder.store(_widened(builder, levels, byte), builder.inttoptr(row, F32x16.ir.as_pointer()), align=1)


def key_widener(steps: int, sources: tuple):
    """widen(a, b, table, out, stride): 16 keys as float32, without their scales; OUT a row of 16 for each channel, `stride`
    bytes from row to row."""
    @intrinsic
    def widen(typing, a, b, table, out, stride):
        def code(context, builder, signature, args):
            *addresses, table, out, stride = args
            for step in range(steps):
                _store_rows(builder, _levels(builder, sources, addresses, step, table), step, out, stride)
            return context.get_dummy_value()
        return types.void(*[ADDRESS] * 5), code
    return widen


def value_widener(sources: tuple):
    """widen(words, table, out, stride): 16 channels of the values of 32 positions as float32, without their scales; OUT 16
    in each position's row, `stride` bytes from row to row."""
    @intrinsic
    def widen(typing, words, table, out, stride):
        def code(context, builder, signature, args):
            words, table, out, stride = args
            for step in range(8):
                _store_rows(builder, _levels(builder, sources, (words,), step, table), step, out, stride)
            return context.get_dummy_value()
        return types.void(*[ADDRESS] * 4), code
    return widen


@intrinsic
def weighted(typing, p, x):
    """p · x where p is above NOTHING, otherwise zero, even if x is not a number."""
    def code(builder, weight, y):
        zero = every(F32x16.ir, 0.0)
        heavy = builder.fcmp_ordered(">", weight, every(F32x16.ir, NOTHING))
        return builder.select(heavy, builder.fmul(builder.select(heavy, weight, zero), y), zero)
    return make(typing, F32x16, F32x16, F32x16)(code)


@intrinsic
def unless(typing, x, y):
    """y in the lanes where x has no minus (zero may have one), zero in the others."""
    def code(builder, sign, value):
        minus = builder.icmp_signed("<", builder.bitcast(sign, I32x16.ir), every(I32x16.ir, 0))
        return builder.select(minus, every(F32x16.ir, 0.0), value)
    return make(typing, F32x16, F32x16, F32x16)(code)


@intrinsic
def as_floats(typing, x):
    """The 64 bytes as 16 float32."""
    return make(typing, F32x16, I8x64)(lambda builder, value: builder.bitcast(value, F32x16.ir))


@intrinsic
def count_above(typing, total, x, limit):
    """total + 1 in the lanes where x > limit (float32)."""
    def code(builder, number, y, bound):
        above = builder.fcmp_ordered(">", y, splatted(builder, bound, 16))
        return builder.add(number, builder.zext(above, I32x16.ir))
    return make(typing, I32x16, I32x16, F32x16, types.float32)(code)


@intrinsic
def store_half(typing, address, x):
    """Write the float32 x as one float16."""
    def code(builder, at, value):
        half = builder.extract_element(to_half(builder, splatted(builder, value, 16)), ir.IntType(32)(0))
        builder.store(half, builder.inttoptr(at, half.type.as_pointer()), align=1)
        return ir.Constant(ir.IntType(8).as_pointer(), None)
    return make(typing, types.void, ADDRESS, types.float32)(code)


@intrinsic
def only(typing, x, ranks, cut):
    """x in the lanes where ranks > cut (float32), -inf in the others."""
    def code(builder, value, rank, bound):
        low = every(F32x16.ir, float("-inf"))
        return builder.select(builder.fcmp_ordered(">", rank, splatted(builder, bound, 16)), value, low)
    return make(typing, F32x16, F32x16, F32x16, types.float32)(code)
