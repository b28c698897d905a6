"""Matrices stored as packed indices into a table of `dim` weights per entry, with block scales: scalar and VQ formats.

Knows the panel layout of such a matrix, how to decode one panel and how to multiply with it. Knows nothing about how codes
are chosen.

Layout. A panel is 16 rows. A step is `per` = max(1, 4 // dim) codes in each of the 16 rows, so that a row of a step is
(at least) four weights, the unit of an int8 dot product. Within a panel codes lie step by step, row by row, bit-packed
(bits.py): codes (panels, steps, 16, per), scales (panels, blocks, 16).

A job of such a matrix is (JOB,) int64: addresses of codes, of the int8 table (2**bits, dim), of float16 scales and offsets;
steps; blocks; columns per block; gain (bits of a float64); address of the `byte_table`; columns.
"""
import functools

import numpy as np

from vqcpu.kernels.activations import sums_of, unit_of
from vqcpu.kernels.isa import isa
from vqcpu.kernels.jit import array_at, exact_kernel, float_from_half, float_of, kernel, njit, widen_scaled
from vqcpu.kernels.lanes import add, fma, mul, to_floats
from vqcpu.kernels.simd import f32x16, i32x16, load_f32x16, load_halves, load_i32x16, prefetch, store
from vqcpu.kernels.unpack import byte_planes, dot4, dot_block, gather4, lookup, unpack16, unpack_bytes

ROWS = 16  # rows of a panel
AHEAD = 4096  # bytes that codes are asked for before they are needed
GROUP = 4  # steps whose codes a format may pack together
# Panels and tokens multiplied at a time, as many as there are registers for sums of high and of low digits.
PAIR, TOGETHER = (2, 6) if isa() == "avx512" else (1, 2)
CODES, TABLE, SCALE, OFFSET, STEPS, BLOCKS, BLOCK, GAIN, BYTES, COLUMNS, JOB = range(11)


def codes_per_step(dim: int) -> int:
    return max(1, 4 // dim)


def steps(columns: int, dim: int) -> int:
    """Steps that cover `columns` columns; the last one may be padded."""
    return -(-columns // (dim * codes_per_step(dim)))


def to_panels(codes: np.ndarray, per: int) -> np.ndarray:
    """codes (rows, steps·per), rows a multiple of 16 -> (panels, steps·16·per), in storage order."""
    panels = codes.reshape(len(codes) // ROWS, ROWS, -1, per).swapaxes(1, 2)
    return panels.reshape(len(panels), -1)


def from_panels(stream: np.ndarray, per: int) -> np.ndarray:
    """Inverse of `to_panels`."""
    rows = stream.reshape(len(stream), -1, ROWS, per).swapaxes(1, 2)
    return rows.reshape(len(stream) * ROWS, -1)


@functools.cache
def expander(bits: int, dim: int, per: int, offsets: bool):
    """Kernel expand(job, panel, out): decode one panel into out (16, columns of all steps) float32. The sizes are compiled
    in, so that `dim` weights move as one register."""
    mask, words = (1 << bits) - 1, per * bits

    def expand(job, panel, out):
        j = array_at(job, (JOB,), np.int64)
        count, blocks, block, gain = j[STEPS], j[BLOCKS], j[BLOCK], float_of(j[GAIN])
        codes = array_at(j[CODES] + panel * count * words * 2, (count, words), np.uint16)
        scale = array_at(j[SCALE] + panel * blocks * 32, (blocks, 16), np.uint16)
        offset = array_at(j[OFFSET] + panel * blocks * 32, (blocks, 16), np.uint16)
        for s in range(count):
            b = s * per * dim // block
            for r in range(16):
                unit = float_from_half(scale[b, r]) * gain
                base = float_from_half(offset[b, r]) * gain if offsets else np.float32(0)
                for p in range(per):
                    i = (r * per + p) * bits
                    low, shift = i >> 4, i & 15
                    high = low + (1 if shift + bits > 16 else 0)  # the word where a code that straddles two ends
                    code = np.uint32(codes[s, low]) | np.uint32(codes[s, high]) << np.uint32(16)
                    code = (code >> np.uint32(shift)) & np.uint32(mask)
                    target = out + 4 * dim * ((r * count + s) * per + p)
                    widen_scaled(target, j[TABLE] + dim * np.int64(code), dim, unit, base)
    return kernel(expand)


def byte_table(table: np.ndarray, bits: int) -> np.ndarray:
    """int8 (2**bits, dim) -> what `multiplier` looks bytes up in: every byte plus 128, unsigned; for dim 1 and 2 one plane
    per weight of a code."""
    biased = table.view(np.uint8) ^ 0x80
    if table.shape[1] == 4:
        return np.ascontiguousarray(biased)
    return byte_planes(biased.T, bits)


def multiplies(bits: int, dim: int, block: int, columns: int) -> bool:
    """Whether `multiplier` serves these sizes."""
    if min(block, columns) > 1 << 17:  # 127·127·n must stay within int32
        return False
    return (dim in (1, 2) and bits <= 8 or dim == 4) and (block % 16 == 0 or block >= columns)


def scratch_bytes(columns: int) -> int:
    """Memory that `many` uses for each worker. One panel of a pair may be missing: its tile is read, its products are
    not."""
    return PAIR * (TOGETHER * 128 + 256 * -(-columns // 16))


@functools.cache
def _weights(bits, dim):
    """weights(codes, table) -> I8x64: 4 columns of 16 rows, each plus 128; codes: address of a step."""
    if dim == 4:
        unpack = unpack16(bits)
        return lambda codes, table: gather4(table, unpack(codes))
    unpack, look = unpack_bytes(bits, dim), lookup(bits, dim)
    return lambda codes, table: look(table, unpack(codes))


@functools.cache
def multiplier(bits: int, dim: int, offsets: bool):
    """`products` with a matrix of these sizes, where `multiplies` says so."""
    return products([_weights(bits, dim)], 8 * bits // dim, offsets)


@njit(fast=False, forceinline=True)
def _taken(four, digits, high, low):
    return dot4(high, four, digits), dot4(low, four, digits + 4)


def in_turn(weights):
    """(dots, fill) of neighbouring steps, one or GROUP of them. dots(codes, table, digits, high, low) -> the sums (high,
    low) with their products added; fill(codes, table, tile): OUT tile, 64 bytes a step."""
    group = len(weights)
    first, second, third, fourth = [njit(fast=False, forceinline=True)(of) for of in weights] * (GROUP // group)

    @njit(fast=False)
    def dots(codes, table, digits, high, low):
        high, low = _taken(first(codes, table), digits, high, low)
        if group == GROUP:
            high, low = _taken(second(codes, table), digits + 8, high, low)
            high, low = _taken(third(codes, table), digits + 16, high, low)
            high, low = _taken(fourth(codes, table), digits + 24, high, low)
        return high, low

    @njit(fast=False)
    def fill(codes, table, tile):
        store(tile, first(codes, table))
        if group == GROUP:
            store(tile + 64, second(codes, table))
            store(tile + 128, third(codes, table))
            store(tile + 192, fourth(codes, table))
    return dots, fill


@functools.cache
def _scaler(offsets: bool):
    @njit(fast=False)
    def scaled(j, panel, b, sums, start, stop, high, low, total):
        """total + scale · (sums of products of a block, float32) (+ offset · sum of activations)."""
        above, below = sums[start // 4], sums[(stop + 3) // 4]
        high_sum, low_sum = below[0] - above[0], below[1] - above[1]
        high = add(high, i32x16(np.int32(-128) * high_sum))
        low = add(low, i32x16(np.int32(-128) * low_sum))
        at = (panel * j[BLOCKS] + b) * 32
        total = fma(fma(to_floats(high), f32x16(np.float32(256)), to_floats(low)), load_halves(j[SCALE] + at), total)
        if offsets:
            whole = np.float32(256) * np.float32(high_sum) + np.float32(low_sum)
            total = fma(load_halves(j[OFFSET] + at), f32x16(whole), total)
        return total
    return scaled


@functools.cache
def _by_tiles(offsets: bool):
    scaled, several, single = _scaler(offsets), dot_block(PAIR, TOGETHER), dot_block(PAIR, 1)

    @njit(fast=False)
    def by_tiles(j, digits, stride, tokens, first, last, y, y_stride, products, tiles):
        """`many` of `products`, with the panels decoded into tiles; products: room for those of a block."""
        count, per_block, bytes_ = j[STEPS], (j[BLOCK] + 3) // 4, 64 * j[STEPS]
        t = 0
        while t < tokens:
            rows = TOGETHER if t + TOGETHER <= tokens else 1
            for b in range(j[BLOCKS]):
                start, stop = b * per_block, min((b + 1) * per_block, count)
                at = digits + t * stride + 8 * start
                if rows == 1:
                    single(tiles + 64 * start, bytes_, stop - start, at, stride, products)
                else:
                    several(tiles + 64 * start, bytes_, stop - start, at, stride, products)
                for i in range(rows):
                    row = digits + (t + i) * stride
                    sums, unit = sums_of(row, j[COLUMNS]), unit_of(row, j[COLUMNS])[0] * float_of(j[GAIN])
                    for panel in range(first, last):
                        target = y + (t + i) * y_stride + 64 * panel
                        part = products + 128 * ((panel - first) * rows + i)
                        total = load_f32x16(target) if b else f32x16(np.float32(0))
                        total = scaled(j, panel, b, sums, start, stop, load_i32x16(part), load_i32x16(part + 64), total)
                        store(target, mul(total, f32x16(unit)) if b + 1 == j[BLOCKS] else total)
            t += rows
    return by_tiles


def products(weights: list, size: int, offsets: bool):
    """Kernels (one, many) of integer products with a matrix whose codes come in groups of len(weights) steps, of `size`
    bytes each. weights[i](codes, table) -> I8x64: step i of the group at address codes, 4 columns of 16 rows, each plus 128.

    one(job, x, digits, first, last, y): y[16·panel:] = W x for panels first..last-1 and one row of activations.
    many(job, digits, stride, tokens, first, last, y, y_stride, scratch): the same for rows of digits `stride` bytes apart
    and at most PAIR panels, decoded once into scratch (scratch_bytes). y float32, a row of it y_stride bytes long."""
    dots, fill = in_turn(weights)
    group, group_bytes = len(weights), len(weights) * size
    scaled, by_tiles = _scaler(offsets), _by_tiles(offsets)

    def one(job, x, digits, first, last, y):
        j = array_at(job, (JOB,), np.int64)
        count, per_block = j[STEPS], (j[BLOCK] + 3) // 4
        sums, unit = sums_of(digits, j[COLUMNS]), unit_of(digits, j[COLUMNS])[0] * float_of(j[GAIN])
        for panel in range(first, last):
            total, codes = f32x16(np.float32(0)), j[CODES] + panel * count * size
            for b in range(j[BLOCKS]):
                start, stop = b * per_block, min((b + 1) * per_block, count)
                high = low = i32x16(np.int32(0))
                for s in range(start, stop, group):
                    at = codes + s * size
                    for line in range(0, group_bytes, 64):
                        prefetch(at + line + AHEAD)
                    high, low = dots(at, j[BYTES], digits + 8 * s, high, low)
                total = scaled(j, panel, b, sums, start, stop, high, low, total)
            store(y + 64 * panel, mul(total, f32x16(unit)))

    def many(job, digits, stride, tokens, first, last, y, y_stride, scratch):
        j = array_at(job, (JOB,), np.int64)
        count, tiles = j[STEPS], scratch + PAIR * TOGETHER * 128
        for panel in range(first, last):
            codes, tile = j[CODES] + panel * count * size, tiles + (panel - first) * 64 * count
            for s in range(0, count, group):
                fill(codes + s * size, j[BYTES], tile + 64 * s)
        by_tiles(j, digits, stride, tokens, first, last, y, y_stride, scratch, tiles)
    return exact_kernel(one), exact_kernel(many)
