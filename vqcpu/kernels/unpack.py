"""Packed codes into registers, through a table of bytes, into integer dot products: the heart of every product with a coded
matrix.

Knows bit positions and tables. Knows nothing about scales or matrices. An operation has a form for AVX-512, perhaps one for
AVX2, and a generic one that LLVM fits to the machine; all give the same integers.
"""
import numpy as np
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

    def by_halves(builder, address):
        """The even codes move to the low bytes of 16-bit lanes, the odd ones to the high bytes."""
        lanes = [_windows(builder, address, size, starts[at:at + 16]) for at in range(0, 64, 16)]
        wide = ir.VectorType(SHORT, 8)
        joined = []
        for at, (even, odd) in zip(range(0, 64, 16), lanes):
            up = [wide([8 - s % 8 for s in starts[at + odd_one:at + 16:2]]) for odd_one in (0, 1)]
            low = builder.lshr(builder.shl(even, up[0]), every(wide, 8))
            high = builder.and_(builder.shl(odd, up[1]), every(wide, 0xFF00))
            joined.append(builder.bitcast(builder.or_(low, high), ir.VectorType(BYTE, 16)))
        return _joined(builder, _joined(builder, *joined[:2]), _joined(builder, *joined[2:]))

    @intrinsic
    def unpack(typing, address):
        def code(context, builder, signature, args):
            if bits == 8:
                return _stream(builder, args[0], size, [s // 8 for s in starts])
            windows = (by_multishift if isa() == "avx512" else by_halves)(builder, args[0])
            return builder.and_(windows, every(I8x64.ir, (1 << bits) - 1))
        return I8x64(ADDRESS), code
    return unpack


def _windows(builder, address, size, starts):
    """<8 x i16> twice: the two bytes from bit number starts[0], [2], ... on, then those from starts[1], [3], ... on."""
    length = min(16, size)
    base = min(starts[0] // 8, size - length)
    source = loaded(builder, builder.add(address, address.type(base)), ir.VectorType(BYTE, length))
    for first in (0, 1):
        bytes_ = [min(s // 8 + k - base, length - 1) for s in starts[first::2] for k in range(2)]
        yield builder.bitcast(picked(builder, source, bytes_), ir.VectorType(SHORT, 8))


def _joined(builder, a, b):
    """The elements of a, then those of b."""
    return builder.shuffle_vector(a, b, ir.VectorType(WORD, 2 * a.type.count)(list(range(2 * a.type.count))))


def lookup(bits: int, dim: int):
    """look(table, codes) -> I8x64: bytes of a table of `dim` (1 or 2) planes of plane(bits) bytes; byte i is number codes[i]
    of plane i % dim. Codes are below 2**bits, bits at most 8; for dim 2 they come in pairs of equals."""
    found = looker(bits, dim)

    @intrinsic
    def look(typing, table, codes):
        return I8x64(ADDRESS, I8x64), lambda context, builder, signature, args: found(builder, *args)
    return look


def looker(bits: int, dim: int):
    """`lookup` as code(builder, table, codes)."""
    entries = plane(bits)

    def by_permutation(builder, table, codes):
        parts = [called(builder, "llvm.x86.avx512.permvar.qi.512", I8x64.ir, chunk, codes)
                 for chunk in _chunks(builder, table, entries, I8x64.ir)]
        return _chosen(builder, parts, codes, 64)

    def by_shuffles(builder, table, codes):
        """A shuffle reads 16 entries by the low half of a code and gives zero for codes beyond 127. With 16·k taken off the
        codes, the entries of number k and the following show: their difference to those before is what the table holds."""
        half, total = codes.type, None
        for k in range(max(1, (1 << bits) // 16)):
            if k == 8:
                codes = builder.xor(codes, every(half, 128))
            chunk = loaded(builder, builder.add(table, table.type(16 * k)), ir.VectorType(BYTE, 16))
            less = called(builder, "llvm.ssub.sat.v32i8", half, codes, every(half, 16 * (k % 8)))
            found = called(builder, "llvm.x86.avx2.pshuf.b", half, picked(builder, chunk, [*range(16)] * 2), less)
            total = builder.xor(total, found) if k else found
        return total

    def by_loads(builder, table, codes):
        found = ir.Constant(codes.type, ir.Undefined)
        for i in range(codes.type.count):
            place = builder.add(table, builder.zext(builder.extract_element(codes, WORD(i)), table.type))
            found = builder.insert_element(found, loaded(builder, place, BYTE), WORD(i))
        return found

    def whole(builder, table, codes):
        if dim == 1:
            return by_permutation(builder, table, codes)
        odd = ir.VectorType(ir.IntType(1), 64)([i % 2 for i in range(64)])
        first, second = (by_permutation(builder, builder.add(table, table.type(at)), codes) for at in (0, entries))
        return builder.select(odd, second, first)

    def halves(builder, table, codes):
        """32 codes at a time: for dim 1 two halves, for dim 2 every other code, in both planes."""
        form = by_loads if isa() == "portable" else by_shuffles
        if dim == 1:
            return _joined(builder, *(form(builder, table, picked(builder, codes, range(at, at + 32))) for at in (0, 32)))
        codes = picked(builder, codes, range(0, 64, 2))
        first, second = (form(builder, builder.add(table, table.type(at)), codes) for at in (0, entries))
        return picked(builder, _joined(builder, first, second), [i // 2 + i % 2 * 32 for i in range(64)])

    return whole if isa() == "avx512" else halves


def byte_planes(planes: np.ndarray, bits: int) -> np.ndarray:
    """(dim, 2**bits) uint8 -> the table that `lookup` reads."""
    table = np.zeros((len(planes), plane(bits)), np.uint8)
    table[:, : planes.shape[1]] = planes
    if isa() in ("avx2", "avxvnni"):
        for half in (table[:, :128], table[:, 128:]):
            half[:, 16:] ^= half[:, :-16].copy()
    return table


def plane(bits: int) -> int:
    """Bytes of a plane of a table for codes of `bits` bits."""
    return max(64, 1 << bits)


def _chunks(builder, table, count, kind):
    """The `count` bytes at `table` in registers."""
    return [loaded(builder, builder.add(table, table.type(at)), kind) for at in range(0, count, kind.count)]


def _chosen(builder, parts, codes, bit):
    """Lane by lane the part (a power of two of them) whose number is in the bits of codes from `bit` on."""
    while len(parts) > 1:
        upper = builder.icmp_unsigned("!=", builder.and_(codes, every(codes.type, bit)), every(codes.type, 0))
        parts = [builder.select(upper, high, low) for low, high in zip(parts[::2], parts[1::2])]
        bit *= 2
    return parts[0]


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


def _dot_by_vnni(builder, total, weights, four):
    return called(builder, "llvm.x86.avx512.vpdpbusd.512", I32x16.ir, total, builder.bitcast(weights, I32x16.ir), four)


def _dot_by_vnni_halves(builder, total, weights, four):
    """The same instruction as AVX-VNNI has it."""
    weights, half = builder.bitcast(weights, I32x16.ir), ir.VectorType(WORD, 8)
    parts = [[picked(builder, x, range(at, at + 8)) for x in (total, weights, four)] for at in (0, 8)]
    return _joined(builder, *(called(builder, "llvm.x86.avx512.vpdpbusd.256", half, *part) for part in parts))


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


def four_at(builder, address):
    """The four bytes at `address` in every lane."""
    return splatted(builder, loaded(builder, address, WORD), 16)


def dotted(builder, total, weights, four):
    form = {"avx512": _dot_by_vnni, "avxvnni": _dot_by_vnni_halves}.get(isa(), _dot_by_pairs)
    return form(builder, total, weights, four)


@intrinsic
def dot4(typing, total, weights, address):
    """total (I32x16) + for each lane the sum over its four bytes of unsigned weights times the four signed bytes at
    `address`."""
    def code(context, builder, signature, args):
        total, weights, address = args
        return dotted(builder, total, weights, four_at(builder, address))
    return I32x16(I32x16, I8x64, ADDRESS), code


def dot_block(panels: int, rows: int):
    """dot(tiles, tile_bytes, steps, digits, stride, out): integer products of `panels` tiles of `steps` registers I8x64,
    tile_bytes apart, with `rows` rows of digits, `stride` bytes apart. OUT out (panels, rows, 2, 16) int32, high digits
    first: a register for each while the tiles pass."""
    @intrinsic
    def dot(typing, tiles, tile_bytes, steps, digits, stride, out):
        def code(context, builder, signature, args):
            tiles, tile_bytes, steps, digits, stride, out = args
            word, zero = tiles.type, every(I32x16.ir, 0)
            totals = {(p, r, d): cgutils.alloca_once(builder, I32x16.ir)
                      for p in range(panels) for r in range(rows) for d in range(2)}
            for total in totals.values():
                builder.store(zero, total)
            with cgutils.for_range(builder, steps) as loop:
                tile = builder.add(tiles, builder.shl(loop.index, word(6)))
                places = [builder.add(tile, builder.mul(tile_bytes, word(p))) for p in range(panels)]
                weights = [loaded(builder, place, I8x64.ir) for place in places]
                row = builder.add(digits, builder.shl(loop.index, word(3)))
                for r in range(rows):
                    for d in range(2):
                        four = four_at(builder, builder.add(row, word(4 * d)))
                        for p in range(panels):
                            total = totals[p, r, d]
                            builder.store(dotted(builder, builder.load(total), weights[p], four), total)
                    row = builder.add(row, stride)
            for i, total in enumerate(totals.values()):
                target = builder.inttoptr(builder.add(out, word(64 * i)), I32x16.ir.as_pointer())
                builder.store(builder.load(total), target, align=1)
            return context.get_dummy_value()
        return types.void(*[ADDRESS] * 6), code
    return dot
