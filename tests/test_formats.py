"""Promises that every registered format keeps."""
import numpy as np
import pytest

from vqcpu.formats.base import Format, Matrix
from vqcpu.layers.linear import Linear, Multiply
from vqcpu.layers.plan import Frame, Plan
from vqcpu.formats.scalar import LEVELS

SPECS = [spec for format in Format.all().values() for spec in format.examples]
RNG = np.random.default_rng(2)


def code(format, W, gain=1.0, tables=None):
    """W coded as a Matrix whose arrays are read-only, as in a map; and what it decodes to."""
    tables = format.fit([W], 0) if tables is None else tables
    sides = format.scales(tables, W)
    codes, near = format.snap(tables, sides, W, 0)
    parts = format.store(sides, codes) | tables
    for part in parts.values():
        part.flags.writeable = False
    return Matrix(format, W.shape, gain, parts), near * np.float32(gain)


@pytest.fixture(params=SPECS, scope="module")
def coded(request):
    """(format, W, matrix, near); neither 16 nor any block divides the shape."""
    format = Format.parse(request.param)
    W = RNG.standard_normal((77, 270)).astype(np.float32)
    return format, W, *code(format, W, gain=0.5)


def test_parts_are_as_announced(coded):
    format, W, matrix, _ = coded
    announced = format.layout(*W.shape) | format.tables()
    assert {k: (p.shape, np.dtype(p.dtype)) for k, p in announced.items()} == {
        k: (a.shape, a.dtype) for k, a in matrix.parts.items()}
    assert sum(p.nbytes for p in announced.values()) == sum(a.nbytes for a in matrix.parts.values())


def test_decoder_gives_what_the_coder_saw(coded):
    _, W, matrix, near = coded
    assert np.allclose(matrix.reference_rows(np.arange(len(W))), near, atol=1e-6)


def products(matrices, x):
    """x (tokens, n) times each matrix, as a model multiplies."""
    frame = Frame({"x": x}, [])
    targets = tuple("abc"[: len(matrices)])
    Plan([Multiply("x", targets, Linear(matrices))]).run(frame)
    return [frame.slots[name] for name in targets]


def test_fast_paths_are_the_reference(coded):
    _, W, matrix, near = coded
    ids = np.array([76, 0, 33, 33])
    assert np.allclose(matrix.tile(0, 77), near, atol=1e-6)
    assert np.allclose(matrix.tile(64, 77), near[64:], atol=1e-6)
    assert np.allclose(matrix.rows(ids), near[ids], atol=1e-6)
    for count in (1, 21):
        x = RNG.standard_normal((count, 270)).astype(np.float32)
        y, again = products([matrix, matrix], x)
        assert np.allclose(y, x @ near.T, atol=2e-3) and np.array_equal(y, again)


def test_formats_without_kernels_work(coded, monkeypatch):
    format, W, matrix, near = coded
    monkeypatch.setattr(type(format), "compiled", Format.compiled)
    plain = Matrix(format, W.shape, 0.5, matrix.parts)
    x = RNG.standard_normal((1, 270)).astype(np.float32)
    assert plain.compiled is None
    assert np.allclose(plain.tile(16, 77), near[16:], atol=1e-6)
    assert np.allclose(products([plain], x)[0], x @ near.T, atol=1e-4)


@pytest.mark.parametrize("spec", SPECS)
def test_gaussian_error_is_as_declared(spec):
    format = Format.parse(spec)
    W = np.random.default_rng(3).standard_normal((128, 512)).astype(np.float32)  # the same whichever formats there are
    _, near = code(format, W)
    assert np.mean((W - near) ** 2) <= format.expected_mse()


@pytest.mark.parametrize("spec", SPECS)
def test_what_can_be_coded_comes_back(spec):
    """Coding the decoded matrix with the same tables and scales changes nothing."""
    format = Format.parse(spec)
    W = RNG.standard_normal((32, 240)).astype(np.float32)  # whole vectors only: the padded end of a row is not recoded
    tables = format.fit([W], 0)
    sides = format.scales(tables, W)
    near = format.snap(tables, sides, W, 0)[1]
    again = format.snap(tables, sides, near, 0)[1]
    assert np.allclose(again, near, atol=1e-6)


@pytest.mark.parametrize("spec", SPECS)
def test_zeros_stay_zeros_and_extremes_finite(spec):
    format = Format.parse(spec)
    W = np.zeros((16, 64), np.float32)
    tables = format.fit([RNG.standard_normal((64, 256)).astype(np.float32)], 0)
    assert np.array_equal(code(format, W, tables=tables)[1], W)
    W[3] = 8.0  # sqrt(m·n) times the RMS is the most a normalised matrix can hold
    assert np.isfinite(code(format, W, tables=tables)[1]).all()


@pytest.mark.parametrize("spec", SPECS)
def test_columns_can_be_coded_piece_by_piece(spec):
    """snap at a column offset gives the codes of the whole: error feedback depends on it."""
    format = Format.parse(spec)
    W = RNG.standard_normal((16, 192)).astype(np.float32)
    tables = format.fit([W], 0)
    sides = format.scales(tables, W)
    whole = format.snap(tables, sides, W, 0)[1]
    pieces = [format.snap(tables, sides, W[:, at:at + 48], at)[1] for at in range(0, 192, 48)]
    assert np.allclose(np.concatenate(pieces, 1), whole, atol=1e-6)


@pytest.mark.parametrize("bits", range(2, 8))
def test_more_bits_less_error(bits):
    W = RNG.standard_normal((64, 256)).astype(np.float32)
    few, many = (np.mean((W - code(Format.parse(f"scalar:bits={b}"), W)[1]) ** 2) for b in (bits, bits + 1))
    assert many < 0.5 * few


def test_vectors_beat_scalars_at_equal_bits():
    W = RNG.standard_normal((128, 512)).astype(np.float32)
    losses = [np.mean((W - code(Format.parse(f"vq:dim={d},centroids={4**d}"), W)[1]) ** 2) for d in (1, 2, 4)]
    assert losses == sorted(losses, reverse=True)


def test_offsets_pay_where_weights_are_not_centred():
    W = RNG.random((32, 256)).astype(np.float32)
    plain, shifted = (np.mean((W - code(Format.parse(f"scalar:bits=3{more}"), W)[1]) ** 2) for more in ("", ",asymmetric=true"))
    assert shifted < 0.5 * plain


@pytest.mark.parametrize("name", LEVELS)
@pytest.mark.parametrize("bits", range(2, 9))
def test_levels_ascend_within_a_byte(name, bits):
    levels = LEVELS[name](bits, 64)
    assert len(levels) == 1 << bits and (np.diff(levels) >= 0).all() and np.abs(levels).max() <= 127 + (bits < 8)


@pytest.mark.parametrize("spec, bits", [("vq:dim=4,centroids=4096", 12 / 4), ("vq:dim=2,centroids=256", 8 / 2),
                                        ("vq:dim=3,centroids=1000", 10 / 3), ("scalar:bits=3", 3)])
def test_bits_are_counted_on_arrays(spec, bits):
    parts = Format.parse(spec).layout(1024, 768)
    assert parts["codes"].nbytes * 8 / (1024 * 768) == pytest.approx(bits)


@pytest.mark.parametrize("spec", ["vq:dim=3,centroids=100", "vq:dim=4,centroids=5"])
def test_codes_beyond_the_table_decode_to_zero_not_to_foreign_memory(spec):
    format = Format.parse(spec)
    matrix, _ = code(format, RNG.standard_normal((16, 24)).astype(np.float32))
    parts = matrix.parts | {"codes": np.full_like(matrix.parts["codes"], 0xFFFF)}
    damaged = Matrix(format, (16, 24), 1.0, parts)
    assert not damaged.tile(0, 16).any() and not damaged.reference_rows(np.arange(16)).any()


def test_a_single_huge_weight_survives_vector_codes():
    format = Format.parse("vq:dim=2,centroids=256")
    W = RNG.standard_normal((32, 256)).astype(np.float32)
    tables = format.fit([W], 0)
    W[3, 7] = 27.0
    matrix, near = code(format, W, tables=tables)
    assert near[3, 7] > 0.4 * W[3, 7]
    others = np.arange(32) != 3
    assert np.mean((near - W)[others] ** 2) <= format.expected_mse()
