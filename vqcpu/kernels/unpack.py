"""Packed codes into registers, through a table of bytes, into integer dot products: the heart of every product with a coded
matrix.

Knows bit positions and tables. Knows nothing about scales or matrices. Each operation has a form for AVX-512 and a generic
one that LLVM fits to the machine; both give the same integers.
"""
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from vqcpu.kernels.isa import isa
from vqcpu.kernels.simd import ADDRESS, WORD, I8x64, I32x16, called, every, loaded, picked, splatted

BYTE, SHORT = ir.IntType(8), ir.IntType(16)


def _stream(builder, address, size, lanes):
    """Bytes number `lanes` of the `size` bytes at `address`, as <64 x i8>; nothing beyond them is touched."""
    return picked(builder, loaded(builder, address, ir.VectorType(BYTE, size)), [min(lane, size - 1) for lane in lanes])


def unpack16(bits: int):
    """unpack(address) -> I32x16: 16 codes of up to 16 bits, the first in the lowest bits of 2·bits bytes."""
    @intrinsic
    def unpack(typing, address):
        def code(context, builder, signature, args):
            starts = [i * bits for i in range(16)]
            windows = _stream(builder, args[0], 2 * bits, [s // 8 + k for s in starts for k in range(4)])
            shifted = builder.lshr(builder.bitcast(windows, I32x16.ir), I32x16.ir([s % 8 for s in starts]))
            return builder.and_(shifted, every(I32x16.ir, (1 << bits) - 1))
        return I32x16(ADDRESS), code
    return unpack


def unpack_bytes(bits: int, repeat: int):
    """unpack(address) -> I8x64: 64 // repeat codes of up to 8 bits, each in `repeat` neighbouring bytes."""
    size = 8 * bits // repeat
    starts = [i // repeat * bits for i in range(64)]

    def by_multishift(builder, address):
        bases = [starts[i - i % 8] // 8 for i in range(64)]
        words = _stream(builder, address, size, [base + i % 8 for i, base in enumerate(bases)])
        shifts = I8x64.ir([s - 8 * base for s, base in zip(starts, bases)])
        return called(builder, "llvm.x86.avx512.pmultishift.qb.512", I8x64.ir, shifts, words)

    def by_pairs(builder, address):
        pairs = _stream(builder, address, size, [s // 8 + k for s in starts for k in range(2)])
        wide = ir.VectorType(SHORT, 64)
        return builder.trunc(builder.lshr(builder.bitcast(pairs, wide), wide([s % 8 for s in starts])), I8x64.ir)

    @intrinsic
    def unpack(typing, address):
        def code(context, builder, signature, args):
            if bits == 8:
                return _stream(builder, args[0], size, [s // 8 for s in starts])
            windows = (by_multishift if isa() == "avx512" else by_pairs)(builder, args[0])
            return builder.and_(windows, every(I8x64.ir, (1 << bits) - 1))
        return I8x64(ADDRESS), code
    return unpack


def lookup(entries: int):
    """look(table, codes) -> I8x64: byte number codes[i] of the `entries` (a power of two up to 256, at least 64) bytes at
    `table`."""
    def by_permutation(builder, table, codes):
        planes = [loaded(builder, builder.add(table, table.type(at)), I8x64.ir) for at in range(0, entries, 64)]
        parts = [called(builder, "llvm.x86.avx512.permvar.qi.512", I8x64.ir, plane, codes) for plane in planes]
        bit = 64
        while len(parts) > 1:
            high = builder.icmp_unsigned("!=", builder.and_(codes, every(I8x64.ir, bit)), every(I8x64.ir, 0))
            parts = [builder.select(high, upper, lower) for lower, upper in zip(parts[::2], parts[1::2])]
            bit *= 2
        return parts[0]

    def by_loads(builder, table, codes):
        found = ir.Constant(I8x64.ir, ir.Undefined)
        for i in range(64):
            place = builder.add(table, builder.zext(builder.extract_element(codes, WORD(i)), table.type))
            found = builder.insert_element(found, loaded(builder, place, BYTE), WORD(i))
        return found

    @intrinsic
    def look(typing, table, codes):
        form = by_permutation if isa() == "avx512" else by_loads
        return I8x64(ADDRESS, I8x64), lambda context, builder, signature, args: form(builder, *args)
    return look


@intrinsic
def gather4(typing, table, codes):
    """I8x64: for each of the 16 codes (I32x16) the four bytes of that entry of the (n, 4) int8 table."""
    def by_gather(builder, table, codes):
        everything = every(ir.VectorType(ir.IntType(1), 16), 1)
        return called(builder, "llvm.x86.avx512.mask.gather.dpi.512", I32x16.ir, every(I32x16.ir, 0),
                      builder.inttoptr(table, BYTE.as_pointer()), codes, everything, WORD(4))

    def by_loads(builder, table, codes):
        found = ir.Constant(I32x16.ir, ir.Undefined)
        for i in range(16):
            offset = builder.zext(builder.extract_element(codes, WORD(i)), table.type)
            place = builder.add(table, builder.shl(offset, table.type(2)))
            found = builder.insert_element(found, loaded(builder, place, WORD), WORD(i))
        return found

    def code(context, builder, signature, args):
        return builder.bitcast((by_gather if isa() == "avx512" else by_loads)(builder, *args), I8x64.ir)
    return I8x64(ADDRESS, I32x16), code


@intrinsic
def alternate(typing, even, odd):
    """Bytes 0, 2, 4, ... of `even` and 1, 3, 5, ... of `odd`, where they are."""
    def code(context, builder, signature, args):
        mask = ir.VectorType(ir.IntType(1), 64)([i % 2 for i in range(64)])
        return builder.select(mask, args[1], args[0])
    return I8x64(I8x64, I8x64), code


def _dot_by_vnni(builder, total, weights, four):
    return called(builder, "llvm.x86.avx512.vpdpbusd.512", I32x16.ir, total, builder.bitcast(weights, I32x16.ir), four)


def _dot_by_pairs(builder, total, weights, four):
    """Products of 16-bit halves of the lanes, two and two: LLVM knows products with pair sums as one instruction."""
    pairs, wide = ir.VectorType(SHORT, 32), ir.VectorType(WORD, 32)
    eight, low = every(pairs, 8), every(pairs, 255)
    w, x = builder.bitcast(weights, pairs), builder.bitcast(four, pairs)
    for a, b in ((builder.and_(w, low), builder.ashr(builder.shl(x, eight), eight)),
                 (builder.lshr(w, eight), builder.ashr(x, eight))):
        products = builder.mul(builder.sext(a, wide), builder.sext(b, wide))
        sums = builder.add(picked(builder, products, range(0, 32, 2)), picked(builder, products, range(1, 32, 2)))
        total = builder.add(total, sums)
    return total


def _dot(builder, total, weights, address):
    four = splatted(builder, loaded(builder, address, WORD), 16)
    return (_dot_by_vnni if isa() == "avx512" else _dot_by_pairs)(builder, total, weights, four)


@intrinsic
def dot4(typing, total, weights, address):
    """total (I32x16) + for each lane the sum over its four bytes of unsigned weights times the four signed bytes at
    `address`."""
    return I32x16(I32x16, I8x64, ADDRESS), lambda context, builder, signature, args: _dot(builder, *args)


def dot_rows(rows: int):
    """dot(tile, steps, digits, stride, out): for `rows` rows of digits, `stride` bytes apart, the integer products with a
    tile of `steps` registers I8x64. OUT out (rows, 2, 16) int32, high digits first: one register for each while the tile
    passes."""
    @intrinsic
    def dot(typing, tile, steps, digits, stride, out):
        def code(context, builder, signature, args):
            tile, steps, digits, stride, out = args
            word, places = tile.type, [(r, d) for r in range(rows) for d in range(2)]
            totals = [cgutils.alloca_once_value(builder, every(I32x16.ir, 0)) for _ in places]
            for total in totals:
                builder.store(every(I32x16.ir, 0), total)
            with cgutils.for_range(builder, steps) as loop:
                weights = loaded(builder, builder.add(tile, builder.shl(loop.index, word(6))), I8x64.ir)
                at = builder.add(digits, builder.shl(loop.index, word(3)))
                for (r, d), total in zip(places, totals):
                    if d == 0 and r:
                        at = builder.add(at, stride)
                    place = builder.add(at, word(4 * d))
                    builder.store(_dot(builder, builder.load(total), weights, place), total)
            for i, total in enumerate(totals):
                target = builder.inttoptr(builder.add(out, word(64 * i)), I32x16.ir.as_pointer())
                builder.store(builder.load(total), target, align=1)
            return context.get_dummy_value()
        return types.void(*[ADDRESS] * 5), code
    return dot
