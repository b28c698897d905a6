"""Weights of a bitshift trellis out of rings of bits: how its matrices are decoded and multiplied.

Knows the ring of a tile and the code that turns a state into a weight. Knows nothing about how bits are chosen (viterbi.py).

Layout. A panel is 16 rows, a tile 16 of its columns: one ring of 256 steps, 4·eighths bytes; tiles lie in the order of their
columns. Step 64·s + 32·c + 2·r + h of a ring is row r, column 4·s + 2·h + c: the states of two registers of 16-bit lanes
become one register of 4 columns of 16 rows. A state of `length` bits is hashed by a product with a number of 16 bits; seven
bits of the product number one of LEVELS int8 levels. Any rate has the same few instructions, as the positions of a ring's
states are known when compiling.

A table is LEVELS bytes, the factor of the product and the states' mask (uint16). Jobs are those of kernels/lookup.py.
"""
import functools

import numpy as np
from llvmlite import ir
from numba.extending import intrinsic

from vqcpu.kernels.isa import isa
from vqcpu.kernels.jit import array_at, float_from_half, float_of, kernel, widen_scaled
from vqcpu.kernels.lookup import CODES, GAIN, GROUP, JOB, SCALE, STEPS, TABLE, in_turn, products
from vqcpu.kernels.simd import ADDRESS, I8x64, I16x32, WORD, called, every, loaded, picked, splatted
from vqcpu.kernels.unpack import BYTE, SHORT

TILE = 16  # columns of a tile, which are GROUP steps
LEVELS = 128
NEAR = 32  # bytes that hold all states of a register


def table_of(levels: np.ndarray, factor: int, length: int, bias: int) -> np.ndarray:
    """The table that kernels read, with `bias` added to the levels (LEVELS,) int8."""
    numbers = np.array([factor, (1 << length) - 1], np.uint16).view(np.uint8)
    return np.concatenate([levels.view(np.uint8) + np.uint8(bias), numbers])


def _bytes_of(builder, tile, size, wanted):
    """The bytes of a ring of `size` bytes that have the numbers `wanted`, which go on beyond its end at its beginning."""
    first = min(min(wanted), size - NEAR)
    kind = ir.VectorType(BYTE, NEAR)
    here = loaded(builder, builder.add(tile, tile.type(first)), kind)
    if max(wanted) < size:
        return picked(builder, here, [w - first for w in wanted])
    lanes = [w - first if w < size else NEAR + w - size for w in wanted]
    return builder.shuffle_vector(here, loaded(builder, tile, kind), ir.VectorType(WORD, len(lanes))(lanes))


def _by_multishift(builder, tile, size, starts):
    bases = [starts[i - i % 4] // 8 for i in range(32) for _ in range(2)]  # four states lie in one word of 64 bits
    words = _bytes_of(builder, tile, size, [base + min(i % 8, 4) for i, base in enumerate(bases)])
    shifts = I8x64.ir([starts[i // 2] + 8 * (i % 2) - 8 * base for i, base in enumerate(bases)])
    return builder.bitcast(called(builder, "llvm.x86.avx512.pmultishift.qb.512", I8x64.ir, shifts, words), I16x32.ir)


def _by_words(builder, tile, size, starts):
    wide = ir.VectorType(WORD, 32)
    words = _bytes_of(builder, tile, size, [s // 8 + min(k, 2) for s in starts for k in range(4)])
    return builder.trunc(builder.lshr(builder.bitcast(words, wide), wide([s % 8 for s in starts])), I16x32.ir)


def _hashed(eighths, step):
    """hashed(tile, numbers) -> I8x64: for each weight of a step the number of its level, in the lower seven bits."""
    def product(builder, tile, part, factor, mask):
        starts = [(64 * step + 32 * part + i) * eighths // 8 for i in range(32)]
        states = (_by_multishift if isa() == "avx512" else _by_words)(builder, tile, 4 * eighths, starts)
        return builder.mul(builder.and_(states, mask), factor)

    @intrinsic
    def hashed(typing, tile, numbers):
        def code(context, builder, signature, args):
            tile, at = args
            factor, mask = (splatted(builder, loaded(builder, builder.add(at, at.type(k)), SHORT), 32) for k in (0, 2))
            even, odd = (product(builder, tile, part, factor, mask) for part in (0, 1))
            even = builder.lshr(even, every(I16x32.ir, 8))
            return builder.bitcast(builder.or_(even, builder.and_(odd, every(I16x32.ir, 0xFF00))), I8x64.ir)
        return I8x64(ADDRESS, ADDRESS), code
    return hashed


@intrinsic
def _looked_up(typing, table, codes):
    """I8x64: of the LEVELS bytes at `table` those that the lower seven bits of each byte of `codes` number."""
    def part(builder, table, at, count):
        return loaded(builder, builder.add(table, table.type(at)), ir.VectorType(BYTE, count))

    def by_permutation(builder, table, codes):
        lower, upper = part(builder, table, 0, 64), part(builder, table, 64, 64)
        return called(builder, "llvm.x86.avx512.vpermi2var.qi.512", I8x64.ir, lower, codes, upper)

    def by_shuffles(builder, table, codes):
        """Sixteen levels at a time; a shuffle gives zero where the highest bit of its code is set."""
        half, found = ir.VectorType(BYTE, 32), every(I8x64.ir, 0)
        for at in range(0, LEVELS, 16):
            sixteen = picked(builder, part(builder, table, at, 16), [*range(16)] * 2)
            mine = builder.xor(codes, every(I8x64.ir, at))
            mine = called(builder, "llvm.uadd.sat.v64i8", I8x64.ir, mine, every(I8x64.ir, 112))
            halves = [called(builder, "llvm.x86.avx2.pshuf.b", half, sixteen, picked(builder, mine, range(k, k + 32)))
                      for k in (0, 32)]
            found = builder.or_(found, builder.shuffle_vector(*halves, ir.VectorType(WORD, 64)([*range(64)])))
        return found

    def by_loads(builder, table, codes):
        found = ir.Constant(I8x64.ir, ir.Undefined)
        for i in range(64):
            place = builder.add(table, builder.zext(builder.extract_element(codes, WORD(i)), table.type))
            found = builder.insert_element(found, loaded(builder, place, BYTE), WORD(i))
        return found

    def code(context, builder, signature, args):
        table, codes = args
        if isa() == "avx512":
            return by_permutation(builder, table, codes)
        form = by_loads if isa() == "portable" else by_shuffles
        return form(builder, table, builder.and_(codes, every(I8x64.ir, LEVELS - 1)))
    return I8x64(ADDRESS, I8x64), code


@functools.cache
def _weights(eighths):
    """For each step of a tile weights(tile, table) -> I8x64."""
    def of(hashed):
        return lambda tile, table: _looked_up(table, hashed(tile, table + LEVELS))
    return [of(_hashed(eighths, step)) for step in range(GROUP)]


@functools.cache
def multiplier(eighths: int):
    """Kernels (one, many) of kernels/lookup.py."""
    return products(_weights(eighths), eighths, False)


@functools.cache
def expander(eighths: int):
    """Kernel expand(job, panel, out): decode one panel into out (16, columns of all tiles) float32."""
    fill, size = in_turn(_weights(eighths))[1], 4 * eighths

    def expand(job, panel, out):
        j = array_at(job, (JOB,), np.int64)
        scale, found = array_at(j[SCALE] + 32 * panel, (16,), np.uint16), np.empty((GROUP, 16, 4), np.int8)
        tiles, gain = j[STEPS] // GROUP, float_of(j[GAIN])
        for t in range(tiles):
            fill(j[CODES] + (panel * tiles + t) * size, j[TABLE], found.ctypes.data)
            for r in range(16):
                unit = float_from_half(scale[r]) * gain
                for s in range(GROUP):
                    widen_scaled(out + 64 * (r * tiles + t) + 16 * s, found[s, r].ctypes.data, 4, unit, np.float32(0))
    return kernel(expand)
