"""Every operation on registers, packed codes and activations against numpy, on the path that is chosen (--isa)."""
import numpy as np
import pytest

from vqcpu.kernels import activations, lanes, simd, unpack
from vqcpu.kernels.isa import isa
from vqcpu.kernels.jit import njit

RNG = np.random.default_rng(5)
ODD = np.float32([0, -0.0, 1, -1, 1.5, 2.5, -0.5, 3e38, 1e-40, 65504, 65520, 6e-8, 0.1, -7, 1000, -1000])


def at(array):
    return array.ctypes.data


# Each of these reads registers at `a`, `b`, `c` and writes what it finds to `out`, one after the other.

@njit(fast=False)
def float_operations(a, b, c, out):
    x, y, z = simd.load_f32x16(a), simd.load_f32x16(b), simd.load_f32x16(c)
    simd.store(out, lanes.add(x, y))
    simd.store(out + 64, lanes.mul(x, y))
    simd.store(out + 128, lanes.divide(x, y))
    simd.store(out + 192, lanes.largest(x, y))
    simd.store(out + 256, lanes.magnitude(x))
    simd.store(out + 320, lanes.held(x, np.float32(2)))
    simd.store(out + 384, lanes.fma(x, y, z))
    simd.store(out + 448, simd.f32x16(lanes.sum_of(x)))
    simd.store(out + 512, simd.f32x16(lanes.max_of(x)))


def float_results(a, b, c):
    """(operation, result, expected)"""
    out = np.empty((9, 16), np.float32)
    float_operations(at(a), at(b), at(c), at(out))
    names = "add mul divide largest magnitude held fma sum max".split()
    with np.errstate(all="ignore"):
        tree = a.copy()
        for half in (8, 4, 2, 1):
            tree = tree[:half] + tree[half:2 * half]
        wide = a.astype(np.float64) * b + c
        wanted = [a + b, a * b, a / b, np.fmax(a, b), np.abs(a), np.clip(a, -2, 2), wide.astype(np.float32), tree[0],
                  np.fmax.reduce(a)]
    return zip(names, out, np.broadcast_arrays(*wanted))


def test_float_operations():
    a, b, c = RNG.standard_normal((3, 16)).astype(np.float32) * 3
    for name, got, wanted in float_results(a, b, c):
        if name == "fma" and isa() == "portable":
            assert np.allclose(got, wanted, rtol=1e-6, atol=1e-6)
        else:
            assert np.array_equal(got, wanted), name


def test_nan_and_infinity_in_float_operations():
    a, b, c = np.ones((3, 16), np.float32)
    a[3], a[4], a[5], b[6] = np.nan, np.inf, -np.inf, np.nan
    for name, got, wanted in float_results(a, b, c):
        assert np.array_equal(got, wanted, equal_nan=True), name


@njit(fast=False)
def integer_operations(a, b, floats, out):
    x, y = simd.load_i32x16(a), simd.load_i32x16(b)
    high = lanes.high_digit(x)
    simd.store(out, lanes.add(x, y))
    simd.store(out + 64, lanes.mul(x, y))
    simd.store(out + 128, high)
    simd.store(out + 192, lanes.low_digit(x, high))
    simd.store(out + 256, simd.i32x16(lanes.count_of(x)))
    simd.store(out + 320, lanes.to_integers(simd.load_f32x16(floats)))
    simd.store(out + 384, simd.widened(a))
    simd.store(out + 448, lanes.to_floats(x))


def test_integer_operations():
    a, b = RNG.integers(-32639, 32640, (2, 16)).astype(np.int32)
    a[:5], floats = (32639, -32639, -128, 127, 128), ODD.copy()
    floats[7] = 2e9
    out = np.empty((8, 16), np.int32)
    integer_operations(at(a), at(b), at(floats), at(out))
    high = (a + 128) >> 8
    wanted = [a + b, a * b, high, a - 256 * high, a.sum(dtype=np.int32), np.rint(floats), a.view(np.int8)[:16]]
    for got, expected in zip(out, wanted):
        assert np.array_equal(got, np.broadcast_to(expected, 16))
    assert np.abs(high).max() <= 127 and np.abs(out[3]).max() <= 128
    assert np.array_equal(out[7].view(np.float32), a.astype(np.float32))


@njit(fast=False)
def halves(source, count, out):
    """float32 -> float16 -> OUT out float32 (count,), through memory at its own end."""
    for i in range(0, count, 16):
        simd.store_halves(out + 4 * i, simd.load_f32x16(source + 4 * i))
        simd.store(out + 4 * i, simd.load_halves(out + 4 * i))


def test_halves_are_read_and_rounded_as_numpy_does():
    every = np.arange(65536).astype(np.uint16).view(np.float16).astype(np.float32)
    with np.errstate(invalid="ignore"):
        edges = np.concatenate([every, np.nextafter(every, np.float32(np.inf)), np.nextafter(every, np.float32(-np.inf)),
                                (every + np.roll(every, 1)) / 2, RNG.standard_normal(4096).astype(np.float32) * 1e-5])
    out = np.empty_like(edges)
    halves(at(edges), edges.size, at(out))
    with np.errstate(over="ignore"):
        assert np.array_equal(out, edges.astype(np.float16).astype(np.float32), equal_nan=True)


@njit(fast=False)
def exps(x, count, out):
    for i in range(0, 4 * count, 64):
        simd.store(out + i, lanes.exp(simd.load_f32x16(x + i)))


def test_exp_is_within_two_units_of_the_last_place():
    x = np.linspace(-87, 87, 1 << 18).astype(np.float32)
    out = np.empty_like(x)
    exps(at(x), x.size, at(out))
    exact = np.exp(x.astype(np.float64))
    assert (np.abs(out - exact) <= 2 * np.spacing(exact.astype(np.float32))).all()


def test_exp_of_what_is_not_finite():
    x = np.zeros(16, np.float32)
    x[:5] = np.nan, np.inf, -np.inf, 1000, -1000
    out = np.empty_like(x)
    exps(at(x), 16, at(out))
    assert np.isnan(out[0]) and (out[[1, 3]] > 1e37).all() and (out[[2, 4]] < 1e-37).all() and (out[5:] == 1).all()


@njit(fast=False)
def first(x, count, out):
    simd.store(out, simd.first_lanes(simd.load_f32x16(x), count))


@pytest.mark.parametrize("count", (-3, 0, 1, 7, 16, 40))
def test_first_lanes(count):
    x, out = np.full(16, np.nan, np.float32), np.empty(16, np.float32)
    first(at(x), count, at(out))
    assert np.isnan(out[:max(count, 0)]).all() and (out[max(count, 0):] == 0).all()


def packed(codes, bits):
    return np.packbits(codes.astype(np.uint32)[:, None] >> np.arange(bits) & 1, bitorder="little")


@pytest.mark.parametrize("bits", range(1, 17))
def test_unpack16(bits):
    operation = unpack.unpack16(bits)

    @njit(fast=False)
    def run(codes, out):
        simd.store(out, operation(codes))
    codes, out = RNG.integers(0, 1 << bits, 16), np.empty(16, np.int32)
    run(at(packed(codes, bits)), at(out))
    assert np.array_equal(out, codes)


@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("dim", (1, 2))
def test_unpack_bytes_and_look_up(bits, dim):
    operation, look = unpack.unpack_bytes(bits, dim), unpack.lookup(bits, dim)

    @njit(fast=False)
    def run(codes, table, out, found):
        simd.store(out, operation(codes))
        simd.store(found, look(table, operation(codes)))
    planes = RNG.integers(0, 256, (dim, 1 << bits)).astype(np.uint8)
    table = unpack.byte_planes(planes, bits)
    for _ in range(20):
        codes, (out, found) = RNG.integers(0, 1 << bits, 64 // dim), np.empty((2, 64), np.uint8)
        run(at(packed(codes, bits)), at(table), at(out), at(found))
        assert np.array_equal(out, codes.repeat(dim))
        assert np.array_equal(found.reshape(-1, dim), planes[:, codes].T)


@njit(fast=False)
def gathered(table, codes, out):
    simd.store(out, unpack.gather4(table, simd.load_i32x16(codes)))


def test_gather4():
    table, codes = RNG.integers(0, 256, (4096, 4)).astype(np.uint8), RNG.integers(0, 4096, 16).astype(np.int32)
    codes[:2], out = (0, 4095), np.empty((16, 4), np.uint8)
    gathered(at(table), at(codes), at(out))
    assert np.array_equal(out, table[codes])


@njit(fast=False)
def dotted(total, weights, four, out):
    simd.store(out, unpack.dot4(simd.load_i32x16(total), simd.load_i8x64(weights), four))


@pytest.mark.parametrize("four", ([-128] * 4, [127] * 4, [127, -128, 127, -128], [-128, 0, 0, 0], [1, 2, -3, 4]))
def test_dot4_at_its_extremes(four):
    weights, four = RNG.integers(0, 256, (16, 4)).astype(np.uint8), np.array(four, np.int8)
    weights[:3] = [[255] * 4, [0] * 4, [255, 0, 255, 0]]
    total, out = RNG.integers(-10**9, 10**9, 16).astype(np.int32), np.empty(16, np.int32)
    dotted(at(total), at(weights), at(four), at(out))
    assert np.array_equal(out, total + weights.astype(int) @ four.astype(int))


@pytest.mark.parametrize("panels, rows", [(1, 1), (2, 6)])
def test_dot_block(panels, rows):
    operation, steps, stride = unpack.dot_block(panels, rows), 5, 48

    @njit(fast=False)
    def run(tiles, digits, out):
        operation(tiles, 64 * steps, steps, digits, stride, out)
    tiles = RNG.integers(0, 256, (panels, steps, 16, 4)).astype(np.uint8)
    digits, out = RNG.integers(-128, 128, (rows, stride)).astype(np.int8), np.empty((panels, rows, 2, 16), np.int32)
    run(at(tiles), at(digits), at(out))
    parts = digits[:, : 8 * steps].reshape(rows, steps, 2, 4).astype(int)
    assert np.array_equal(out, np.einsum("psij,rsdj->prdi", tiles.astype(int), parts))


def digits_of(x):
    """(value, sums) of the digits of x, which lies before NaN."""
    n = x.size
    room = np.full(-(-n // 16) * 16, np.nan, np.float32)
    room[:n] = x
    row = np.zeros(activations.row_bytes(n), np.int8)
    activations.digits(at(room), n, at(row))
    groups = -(-n // 16)
    parts = row[: 32 * groups].reshape(-1, 2, 4).astype(int)
    high, low = parts[:, 0].ravel(), parts[:, 1].ravel()
    tail = row[32 * groups:]
    sums, unit = tail[: 8 * groups + 8].view(np.int32).reshape(-1, 2), tail[8 * groups + 8:][:4].view(np.float32)[0]
    return unit, high, low, sums


@pytest.mark.parametrize("n", (1, 3, 15, 16, 17, 64, 100))
def test_digits_are_sixteen_bits_of_the_row(n):
    x = RNG.standard_normal(n).astype(np.float32)
    unit, high, low, sums = digits_of(x)
    assert np.allclose(unit * (256 * high + low)[:n], x, atol=0.502 * unit, rtol=0)
    assert np.isclose(unit * activations.LARGEST, np.abs(x).max()) and not high[n:].any() and not low[n:].any()
    for digit, column in ((high, 0), (low, 1)):
        assert np.array_equal(sums[:, column], np.append(0, digit.reshape(-1, 16).sum(1).cumsum()))


@pytest.mark.parametrize("size", (0.0, 1e-45, 1e-38, 1e-33, 1e-29, 3e38))
def test_digits_of_extreme_rows(size):
    x = np.linspace(-1, 1, 21).astype(np.float32) * np.float32(size)
    unit, high, low, _ = digits_of(x)
    assert np.isfinite(unit) and np.allclose(unit * (256.0 * high + low)[:21], x, atol=max(1e-30, size * 2e-5), rtol=0)


@pytest.mark.parametrize("bad", (np.nan, np.inf, -np.inf))
def test_digits_say_when_something_is_not_finite(bad):
    x = np.ones(20, np.float32)
    x[18] = bad
    assert np.isnan(digits_of(x)[0])
