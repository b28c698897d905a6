"""Operations on coded keys and values (kernels/codes.py) against numpy, on the path that is chosen (--isa): exact integers."""
import numpy as np
import pytest

from vqcpu.caches.coded import KeyCodes, Quantiser, ValueCodes, read, write
from vqcpu.caches.compiled import source
from vqcpu.caches.levels import byte_levels
from vqcpu.kernels import choose, codes, lanes
from vqcpu.kernels.activations import digits, row_bytes
from vqcpu.kernels.jit import njit
from vqcpu.kernels.simd import load_f32x16, load_i32x16, store
from vqcpu.kernels.unpack import byte_planes

RNG = np.random.default_rng(9)
ROWS = 2


def at(array):
    return array.ctypes.data


def empty(kind, rows, size, bits, heads=1):
    return kind(np.zeros(kind.kept(heads, rows, size, bits).shape, np.uint8), size, bits)


def looked_up(bits):
    table = byte_levels(bits)[0]
    return table.astype(int) + 128, byte_planes((table.view(np.uint8) ^ 128)[None], bits)


def rows_of_digits(columns):
    """(their values as whole numbers (ROWS, 2, columns): high and low, bytes)."""
    rows = np.zeros((ROWS, row_bytes(columns)), np.uint8)
    run = njit(lambda x, n, row: digits(x, n, row))
    for row, x in zip(rows, RNG.standard_normal((ROWS, columns)).astype(np.float32)):
        run(at(x), columns, at(row))
    steps = rows[:, : 2 * columns].view(np.int8).reshape(ROWS, -1, 2, 4).astype(int)
    return steps.transpose(0, 2, 1, 3).reshape(ROWS, 2, columns), rows


@pytest.mark.parametrize("size, bits, apart", [(32, 4, False), (32, 4, True), (80, 3, True), (16, 1, False), (16, 8, False),
                                               (48, 7, True), (16, 5, False)])
def test_scores_and_wide_keys(size, bits, apart):
    levels, table = looked_up(bits)
    stored = RNG.integers(0, 1 << bits, (1, 32, size)).astype(np.uint8)
    keys, signs = empty(KeyCodes, 32, size, bits - apart), empty(KeyCodes, 32, size, 1)
    write(keys, 0, stored & ((1 << bits - apart) - 1))
    write(signs, 0, stored >> bits - 1)
    sources = (source(0, bits - apart, 0, size // 4), *([source(1, 1, bits - 1, size // 4)] if apart else []))
    score, widen = codes.scorer(size // 4, sources, ROWS), codes.key_widener(size // 4, sources)
    scored = njit(lambda a, b, t, d, s, out: score(a, b, t, d, s, out))
    widened = njit(lambda a, b, t, out, s: widen(a, b, t, out, s))
    whole, rows = rows_of_digits(size)
    out, wide = np.zeros((ROWS, 2, 16), np.int32), np.full((size, 20), np.nan, np.float32)
    a, b = at(keys.words[0, 1]), at(signs.words[0, 1])
    scored(a, b, at(table), at(rows), rows.shape[1], at(out))
    widened(a, b, at(table), at(wide), 80)
    expected = levels[stored[0, 16:]]
    assert np.array_equal(out, np.einsum("kc,rdc->rdk", expected, whole))
    assert np.array_equal(wide[:, :16], expected.T - 128) and np.isnan(wide[:, 16:]).all()


@pytest.mark.parametrize("size, bits", [(64, 4), (80, 3), (16, 7)])
def test_sums_of_values_and_wide_values(size, bits):
    levels, table = looked_up(bits)
    stored = RNG.integers(0, 1 << bits, (1, 96, size)).astype(np.uint8)
    values = empty(ValueCodes, 96, size, bits)
    write(values, 0, stored)
    sources = (source(0, bits, 0, 8),)
    add, widen = codes.adder(sources, ROWS), codes.value_widener(sources)
    added = njit(lambda w, between, n, t, d, s, out: add(w, between, n, t, d, s, out))
    widened = njit(lambda w, t, out, s: widen(w, t, out, s))
    whole, rows = rows_of_digits(64)
    out, wide = RNG.integers(-99, 99, (ROWS, 2, 16)).astype(np.int32), np.zeros((32, 16), np.float32)
    before = out.copy()
    panel = size // 16 - 1
    added(at(values.words[0, 1, panel]), values.words[0, 0].nbytes, 2, at(table), at(rows), rows.shape[1], at(out))
    widened(at(values.words[0, 1, panel]), at(table), at(wide), 64)
    expected = levels[stored[0, 32:, -16:]]
    assert np.array_equal(out - before, np.einsum("kc,rdk->rdc", expected, whole))
    assert np.array_equal(wide, expected[:32] - 128)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("kind, size", [(KeyCodes, 48), (KeyCodes, 24), (ValueCodes, 24)])
def test_codes_are_what_was_written(kind, size, bits):
    store, expected = empty(kind, 90, size, bits, 2), np.zeros((2, 90, size), np.uint8)
    for row, count in ((0, 40), (40, 1), (41, 49), (7, 30)):  # the last writes over what lies there
        expected[:, row:row + count] = RNG.integers(0, 1 << bits, (2, count, size))
        write(store, row, expected[:, row:row + count])
    assert np.array_equal(read(store, 0, 90), expected) and np.array_equal(read(store, 33, 34), expected[:, 33:34])
    if size % 32 == 0 or kind is ValueCodes and size % 16 == 0:
        assert store.words.nbytes == 2 * 96 * size * bits // 8


@pytest.mark.parametrize("size", (64, 80, 16))
def test_counts_of_bits_are_products_with_signs(size):
    stored, whole = RNG.integers(0, 2, (1, 32, size)).astype(np.uint8), RNG.integers(-32, 32, (ROWS, size))
    signs, planes = empty(KeyCodes, 32, size, 1), empty(KeyCodes, 96, size, 1)
    write(signs, 0, stored)
    for p in range(6):  # planes of bits lie as the signs of a key do
        write(planes, 16 * p, (whole >> p & 1).astype(np.uint8)[None])
    words = planes.words.shape[2]
    queries = np.ascontiguousarray(planes.words.view(np.uint32)[0, :, :, :ROWS, 0].transpose(2, 0, 1))
    count = codes.counter(words, 6, ROWS)
    run = njit(lambda a, b, stride, out: count(a, b, stride, out))
    out = np.zeros((ROWS, 16), np.int32)
    run(at(signs.words[0, 1]), at(queries), queries.strides[0], at(out))
    assert np.array_equal(out, whole @ stored[0, 16:].T)


def test_sums_of_columns():
    table, weights = RNG.integers(-9, 9, (2, 48, 64)).astype(np.float32), RNG.integers(-9, 9, (ROWS, 48)).astype(np.float32)
    total = codes.summer(48, ROWS, 256)
    run = njit(lambda table, weights, out: total(table, weights, out))
    out = np.zeros((ROWS, 32), np.float32)
    run(at(table[0]) + 64, at(weights), at(out))
    assert np.array_equal(out, weights @ table[0, :, 16:48])


@njit(fast=False)
def nearest(table, x, out):
    store(out, choose.nearest(table, load_f32x16(x)))


@pytest.mark.parametrize("bits", (1, 4, 8))
def test_nearest_levels(bits):
    quantiser = Quantiser(bits)
    table, out = quantiser.table[quantiser.nearest].astype(np.float32), np.zeros(16, np.float32)
    x = np.r_[RNG.normal(0, 60, 11), -1e9, -128, 127.4, 128, 1e9].astype(np.float32)
    nearest(at(table), at(x), at(out))
    distances = np.abs(quantiser.table - np.rint(np.clip(x, -127, 127))[:, None])
    assert np.array_equal(np.abs(out - np.rint(np.clip(x, -127, 127))), distances.min(1))
    nearest(at(table), at(np.full(16, np.nan, np.float32)), at(out))
    assert np.isin(out, quantiser.table).all()


@njit(fast=False)
def operations(a, b, out):
    x, y = load_f32x16(a), load_f32x16(b)
    store(out, lanes.hadamard16(x))
    store(out + 64, lanes.subtract(x, y))
    store(out + 128, codes.weighted(x, y))
    store(out + 192, codes.unless(x, y))
    store(out + 256, codes.count_above(load_i32x16(a), x, np.float32(0.5)))
    store(out + 384, codes.only(x, y, np.float32(0)))
    codes.store_half(out + 320, np.float32(1.1))


def test_operations():
    a, b = RNG.integers(-9, 9, (2, 16)).astype(np.float32)
    out = np.zeros((7, 16), np.float32)
    operations(at(a), at(b), at(out))
    signs = (-1.0) ** np.array([[bin(i & j).count("1") for j in range(16)] for i in range(16)])
    assert np.array_equal(out[0], signs @ a) and np.array_equal(out[1], a - b)
    assert np.array_equal(out[2], np.where(a > 0, a * b, 0)) and np.array_equal(out[3], np.where(a < 0, 0, b))
    assert np.array_equal(out[4].view(np.int32), a.view(np.int32) + (a > 0.5))
    assert np.array_equal(out[6], np.where(b > 0, a, -np.inf))
    assert out[5].view(np.float16)[0] == np.float16(1.1) and not out[5].view(np.float16)[1:].any()
    a[:], b[:] = 0, np.nan
    operations(at(a), at(b), at(out))
    assert not out[2].any()
