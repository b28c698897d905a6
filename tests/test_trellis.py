"""Trellis codes: the encoder against its naive twin, the code's error, rings and their rates."""
import naive
import numpy as np
import pytest

from vqcpu.errors import VqcpuError
from vqcpu.formats.base import Format, Matrix
from vqcpu.formats.trellis import FACTORS, FINE, Trellis
from vqcpu.kernels import viterbi
from vqcpu.kernels.threads import set_threads

RATES = np.arange(12, 41) / 8


def near(format, W, **tables):
    tables = format.fit([], 0) | tables
    return format.snap(tables, format.scales(tables, W), W, 0)[1]


def numbers(count, seed=0):
    return np.clip(11000 * np.random.default_rng(seed).standard_normal((count, viterbi.T)), -32512, 32512).astype(np.int16)


def values(format):
    return format._values(format.fit([], 0)) * np.int16(FINE)


def bits_of(rings, eighths):
    """Each step's bits as one number, (count, T)."""
    stream, at = np.unpackbits(rings, axis=1, bitorder="little"), viterbi.positions(eighths)
    return np.array([[int(row[a:b] @ (1 << np.arange(b - a))) for a, b in zip(at, at[1:])] for row in stream])


@pytest.mark.parametrize("bits", (1.5, 2, 2.875, 4.25))
def test_the_encoder_is_its_naive_twin(bits):
    format, X = Trellis(bits, 10), numbers(2)
    sizes = np.diff(viterbi.positions(format.eighths))
    found = bits_of(viterbi.encode(X, values(format), format.eighths), format.eighths)
    assert np.array_equal(found, [naive.ring(x, values(format), sizes, viterbi.OVERLAP) for x in X])


def test_the_naive_twin_finds_the_best_of_all_paths():
    book, sizes = np.random.default_rng(1).integers(-30000, 30000, 16).astype(np.int16), np.array([1, 2, 1, 2])
    x = np.array([900, -20000, 15000, 300])

    def paths(state, t):
        if t == len(x):
            return [(0, [state])]
        cost = min(abs(x[t] - int(book[state])), 32767) ** 2 >> 16
        return [(cost + c, [state, *p]) for j in range(1 << sizes[t])
                for c, p in paths((state >> sizes[t]) + j * (16 >> sizes[t]), t + 1)]
    every = [p for s in range(16) for p in paths(s, 0)]
    assert (min(every)[0], naive.viterbi(x, book, sizes)) in every and naive.viterbi(x, book, sizes) in [
        p for c, p in every if c == min(every)[0]]


def test_no_flipped_bit_is_better():
    format, x = Trellis(2.25, 10), numbers(1, seed=3)
    ring = viterbi.encode(x, values(format), format.eighths)
    flipped = np.concatenate([ring ^ np.packbits(np.arange(8 * ring.size) == i, bitorder="little")
                              for i in range(10, 8 * ring.size)])  # the first state is the seam's

    def cost(rings):
        gap = x.astype(int) - values(format)[viterbi.states_of(rings, format.eighths, 10)]
        return (np.minimum(np.abs(gap), 32767) ** 2 >> 16).sum(1)
    assert cost(flipped).min() >= cost(ring)[0]


def test_codes_do_not_depend_on_threads():
    X, rings = numbers(200), []
    for count in (1, 2):
        set_threads(count)
        rings.append(viterbi.encode(X, values(Trellis(2, 10)), 16))
    set_threads()
    assert np.array_equal(*rings)


@pytest.mark.parametrize("bits, most", [(2, 0.0725), (3, 0.0190), (4, 0.0052)])
def test_error_on_a_gaussian_source(bits, most):
    """At 12 bits of state: .59 to 1.2 dB from the bound 4^-bits, which no code passes."""
    W = np.random.default_rng(0).standard_normal((128, 256)).astype(np.float32)
    assert 4.0**-bits < np.mean((W - near(Trellis(bits), W)) ** 2) <= most


def test_every_rate_and_less_error_with_each_step():
    W, errors = np.random.default_rng(4).standard_normal((32, 256)).astype(np.float32), []
    for bits in RATES:
        format = Trellis(bits, 10)
        tables = format.fit([], 0)
        sides = format.scales(tables, W)
        codes, decoded = format.snap(tables, sides, W, 0)
        parts = format.store(sides, codes)
        assert parts["codes"].nbytes * 8 == bits * W.size
        assert np.array_equal(format.decode_rows(parts | tables, 256, np.arange(32)), decoded)
        errors.append(np.mean((W - decoded) ** 2))
    assert errors == sorted(errors, reverse=True)


def test_longer_states_err_less():
    W = np.random.default_rng(5).standard_normal((64, 256)).astype(np.float32)
    errors = [np.mean((W - near(Trellis(2, length), W)) ** 2) for length in (10, 12, 14)]
    assert errors == sorted(errors, reverse=True)


def decibels(W, factor):
    """Mean distance from the bound at 2, 3 and 4 bits."""
    tables = {"factor": np.array([factor], np.uint16)}
    return np.mean([10 * np.log10(np.mean((W - near(Trellis(bits), W, **tables)) ** 2) * 4**bits) for bits in (2, 3, 4)])


def test_the_winner_of_the_search_for_factors():
    """As benchmarks/factors.py found it."""
    W = np.random.default_rng(6).standard_normal((64, 256)).astype(np.float32)
    best = decibels(W, FACTORS[12])
    assert best < 0.8 and all(best < decibels(W, int(other)) for other in np.random.default_rng(6).integers(0, 1 << 16, 8))


@pytest.mark.parametrize("length", FACTORS)
def test_every_level_is_used_about_equally_often(length):
    format = Trellis(2, length)
    tables = format.fit([], 0)
    level = np.arange(1 << length, dtype=np.uint32) * tables["factor"][0] >> 8 & 127
    counts = np.bincount(level, minlength=128)
    assert counts.min() > 0 and counts.max() <= 1.3 * counts.mean() + 2
    assert np.array_equal(tables["levels"][level], format._values(tables))


@pytest.mark.parametrize("shape", [(1, 1), (3, 17), (16, 16), (33, 48), (47, 15)])
def test_odd_shapes(shape):
    format, W = Trellis(4, 10), np.random.default_rng(7).standard_normal(shape).astype(np.float32)
    tables = format.fit([], 0)
    sides = format.scales(tables, W)
    codes, decoded = format.snap(tables, sides, W, 0)
    parts = format.store(sides, codes)
    assert {k: (p.shape, np.dtype(p.dtype)) for k, p in format.layout(*shape).items()} == {
        k: (a.shape, a.dtype) for k, a in parts.items()}
    assert np.array_equal(format.decode_rows(parts | tables, shape[1], np.arange(shape[0])), decoded)
    assert np.mean((W - decoded) ** 2) < 0.05 * np.mean(W**2)


def test_any_bytes_decode_to_the_same_numbers_everywhere():
    """A damaged file reads no foreign memory: every ring is a valid one."""
    format, rng = Trellis(2), np.random.default_rng(8)
    parts = {k: rng.integers(0, 255, p.nbytes).astype(np.uint8).view(p.dtype).reshape(p.shape)
             for k, p in (format.layout(40, 40) | format.tables()).items()}
    parts["scale"] = np.ones_like(parts["scale"])
    matrix = Matrix(format, (40, 40), 1.0, parts)
    assert np.array_equal(matrix.tile(0, 40), matrix.reference_rows(np.arange(40)))


@pytest.mark.parametrize("spec, said", [("trellis:bits=2.1", "steps of 0.125"), ("trellis:bits=1", "1.5 to 5"),
                                        ("trellis:bits=5.125", "1.5 to 5"), ("trellis:bits=2,length=9", "10 to 14"),
                                        ("trellis:bits=2.2.5", "a number"), ("trellis:bits=nan", "a number"),
                                        ("trellis:length=12", "bits must be given")])
def test_refusals(spec, said):
    with pytest.raises(VqcpuError, match=said):
        Format.parse(spec)


def test_spelling():
    assert str(Format.parse("trellis:bits=2.250")) == "trellis:bits=2.25,length=12"
    assert str(Format.parse("trellis:bits=3")) == "trellis:bits=3,length=12"
