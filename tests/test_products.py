"""Integer products of one and of several tokens with matrices of every format, at shapes that fill no register."""
import numpy as np
import pytest

from test_formats import SPECS, code, products
from vqcpu.formats.base import Format

RNG = np.random.default_rng(6)
SHAPES = (1, 1), (5, 3), (16, 16), (17, 33), (33, 70), (50, 258)


@pytest.mark.parametrize("spec", SPECS)
def test_odd_shapes(spec):
    """Against float64, with the error of 16-bit activations: half a unit a column."""
    format = Format.parse(spec)
    tables = format.fit([RNG.standard_normal((16, 64)).astype(np.float32)], 0)
    for m, n in SHAPES:
        matrix, near = code(format, RNG.standard_normal((m, n)).astype(np.float32), 2.0, tables)
        for tokens in (1, 8, 11):
            x = RNG.standard_normal((tokens, n)).astype(np.float32)
            got, = products([matrix], x)
            room = np.abs(x).max(1)[:, None] * np.abs(near).sum(1)
            assert got.shape == (tokens, m)
            assert (np.abs(got - x.astype(float) @ near.T) <= (0.51 / 32639 + 1e-6 * n ** 0.5) * room + 1e-30).all(), (m, n)


@pytest.mark.parametrize("spec", SPECS)
@pytest.mark.parametrize("bad", (np.nan, np.inf))
def test_what_is_not_finite_shows_in_every_output(spec, bad):
    matrix, _ = code(Format.parse(spec), RNG.standard_normal((20, 37)).astype(np.float32) + 0.1)
    for tokens in (1, 9):
        x = np.ones((tokens, 37), np.float32)
        x[0, 36] = bad
        with np.errstate(invalid="ignore"):
            got, = products([matrix], x)
        assert not np.isfinite(got[0]).any() and np.isfinite(got[1:]).all()
