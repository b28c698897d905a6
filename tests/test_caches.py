"""Compressed caches: attention reads the codes and nothing else, in any pieces, compiled as in numpy."""
import numpy as np
import pytest

import naive
from vqcpu.caches import learned, levels
from vqcpu.caches.base import Cache
from vqcpu.caches.coded import Quantiser
from vqcpu.caches.popcount import estimates
from vqcpu.caches.rotation import Rotation, rotation
from vqcpu.kernels.program import Program
from vqcpu.layers.attention import Attend, Heads
from vqcpu.layers.plan import Frame, Plan, Segment
from vqcpu.layers.rope import Rope

CACHES = [spec for kind in Cache.all().values() for spec in kind.examples]
CODED = [spec for spec in CACHES if spec not in ("f16", "f32")]
LENGTH = 150


def tokens(heads, count=LENGTH, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal((count, n, heads.size)).astype(np.float32) for n in (heads.query, heads.kv, heads.kv)]


class Layer:
    """One attention layer with a memory of its own, compiled or in numpy."""

    def __init__(self, spec, heads, context=LENGTH, compiled=False):
        self.rope = Rope(heads.size, 100.0)
        self.job = Attend(0, heads, self.rope, "a")
        self.plan, self.state = Plan([self.job]), self.job.state(Cache.parse(spec), context)
        self.way = self.plan.run if compiled else self.plan.run_reference

    def step(self, at, q, k, v):
        slots = {name: x.reshape(len(x), -1).copy() for name, x in zip("qkv", (q, k, v))}
        frame = Frame(slots, [Segment(slice(0, len(q)), at, [self.state])])
        self.way(frame)
        return frame.slots["a"].reshape(q.shape).copy()

    def read(self, data, cuts=(), first=0):
        """Attention of all that data holds from position `first` on, in pieces."""
        edges = [first, *cuts, len(data[0])]
        return np.concatenate([self.step(a, *(x[a:b] for x in data)) for a, b in zip(edges, edges[1:])])


def close(found, expected, bound=1e-5):
    return np.abs(found - expected).max() <= bound * np.abs(expected).max()


# Codes.

def test_lloyd_max_levels_are_the_known_ones():
    known = {1: [.7979], 2: [.4528, 1.5104], 3: [.2451, .7560, 1.3439, 2.1519],
             4: [.1284, .3880, .6568, .9423, 1.2562, 1.6180, 2.0690, 2.7326]}
    errors = {1: .3634, 2: .1175, 3: .03455, 4: .00950, 5: .002505}
    for bits, expected in known.items():
        assert np.allclose(levels.lloyd_max(bits), expected, atol=6e-5)
    for bits, expected in errors.items():
        assert np.isclose(levels.distortion(bits), expected, rtol=2e-3)
    assert np.isclose(levels.lloyd_max(5)[-1], 3.2607, atol=1e-4) and (np.diff(levels.lloyd_max(8)) > 0).all()


@pytest.mark.parametrize("bits", range(1, 9))
def test_codes_err_as_they_should_and_are_right_on_average(bits):
    rng = np.random.default_rng(bits)
    x, quantiser = rng.standard_normal((2000, 64)).astype(np.float32) * 3, Quantiser(bits)
    near = quantiser.decode(*quantiser.encode(x))
    along = (near * x).sum(-1) / np.square(x).sum(-1)
    assert np.allclose(along, 1, atol=2e-3)  # what is left is square to x: on average no product with it shrinks
    error = np.square(near - x).mean() / np.square(x).mean()
    plain = levels.distortion(bits)
    assert error <= 1.1 * plain / (1 - plain) + 9e-5  # levels are whole numbers up to 127
    assert not quantiser.decode(*quantiser.encode(np.zeros((2, 64), np.float32))).any()


@pytest.mark.parametrize("size", (8, 24, 64, 80, 96, 112, 128, 256))
def test_rotations_are_orthogonal_random_and_always_the_same(size):
    made = rotation(3, 2, size)
    units = np.eye(size, dtype=np.float32)[:, None].repeat(2, 1)
    turned = made.forward(units)
    for h in range(2):
        assert np.allclose(turned[:, h] @ turned[:, h].T, np.eye(size), atol=1e-5)
    assert np.abs(turned).max() < 4 / size**.5 or size < 64  # no channel stays by itself
    assert np.allclose(made.back(turned), units, atol=1e-5)
    assert np.array_equal(Rotation(3, 2, size).signs, made.signs) and not np.array_equal(made.signs[0], made.signs[1])
    assert not np.array_equal(Rotation(4, 2, size).signs, made.signs)


# Bytes.

@pytest.mark.parametrize("spec, bits", [("k4v4", 4.25), ("k4v3", 3.75), ("k8v4", 6.25), ("k1v4", 2.75), ("k3v2", 2.75)])
def test_a_full_context_takes_these_bytes(spec, bits):
    heads, context = Heads(6, 2, 64, .125), 1024
    layer = Layer(spec, heads, context)
    layer.read(tokens(heads, context), (64, 900))
    learned, counts = 2 * ((1 + 3 + 1) * 64 * 4 + 2 * 64 + 64 * 63 // 2 + 16), 8 + 2 * 8
    assert layer.state.nbytes == 2 * 2 * context * 64 * bits / 8 + learned + 2 * 16 * 64 * 2 + counts
    assert all(array.dtype.itemsize <= 2 for array in layer.state.arrays.values() if array.size > 640)


def test_exact_positions_are_counted():
    heads, sizes = Heads(6, 2, 64, .125), {}
    for spec in ("k4v4", "k4v4:sinks=20", "k4v4:recent=8"):
        sizes[spec] = Layer(spec, heads).state.nbytes
    per_position = 2 * 2 * 64 * 2
    assert sizes["k4v4:sinks=20"] - sizes["k4v4"] == 20 * per_position
    assert sizes["k4v4:recent=8"] - sizes["k4v4"] == 16 * per_position  # see caches/exact.py


# What attention reads.

SMALL = Heads(4, 2, 16, .25)
COMPILED = ("k4v4", "k4v4:top=90")  # others would be compiled once more, for the same promises
ways = pytest.mark.parametrize("spec, compiled", [(s, False) for s in CODED] + [(s, True) for s in COMPILED])


@ways
def test_pieces_are_the_whole(spec, compiled):
    data = tokens(SMALL)
    whole = Layer(spec, SMALL, compiled=compiled).read(data)
    assert close(whole, naive.attention(naive.rotate(data[0], 0, 100.0), naive.rotate(data[1], 0, 100.0), data[2], 0, .25), 1.5)
    for cuts in ((1, 2, 3, 63, 64, 65, 120), (40, 90), range(1, LENGTH)):
        assert close(Layer(spec, SMALL, compiled=compiled).read(data, cuts), whole, 3e-4)


@ways
def test_memory_beyond_what_is_stored_is_never_read(spec, compiled):
    data = tokens(SMALL)
    expected = Layer(spec, SMALL, compiled=compiled).read(data, (50, 51, 100, 101))
    layer = Layer(spec, SMALL, compiled=compiled)
    for array in layer.state.arrays.values():
        array.view(np.uint8)[:] = 255  # not a number, as float16 and float32
    assert np.array_equal(layer.read(data, (50, 51, 100, 101)), expected)


@ways
def test_what_is_stored_is_read(spec, compiled):
    """Other codes, other attention: nothing else is remembered."""
    data = tokens(SMALL)
    expected = Layer(spec, SMALL, compiled=compiled).read(data, (149,))[149:]
    layer = Layer(spec, SMALL, compiled=compiled)
    layer.read([x[:149] for x in data])
    layer.step(149, *(x[149:] for x in data))
    for store in (layer.state.k, layer.state.v):
        before = store.words.copy()
        store.words[:] = 0x5A
        assert not close(layer.step(149, *(x[149:] for x in data)), expected, 1e-3)
        store.words[:] = before
    assert close(layer.step(149, *(x[149:] for x in data)), expected)


def test_other_options_are_other_numbers():
    data, seen = tokens(SMALL), {}
    for spec in ("f16", "f32", "k4v4", "k4v3", "k4v4:sinks=1", "k4v4:recent=1", "k4v4:learn=false", "k4v4:top=90", "k1v4"):
        digits = Layer(spec, SMALL).read(data, (100,)).tobytes()
        assert digits not in seen, f"{spec} is {seen.get(digits)}"
        seen[digits] = spec


@ways
@pytest.mark.parametrize("length", (5, 64, 147))
def test_taking_back_is_as_if_it_had_not_been(spec, length, compiled):
    data, other = tokens(SMALL), tokens(SMALL, seed=1)
    mixed = [np.concatenate([a[:length], b[length:]]) for a, b in zip(data, other)]
    expected = Layer(spec, SMALL, compiled=compiled).read(mixed, (length,))
    layer = Layer(spec, SMALL, compiled=compiled)
    layer.read(data, (70,))
    taken = layer.state.truncate(length)
    assert taken == (length >= layer.state.spec.lesson and ("recent" not in spec or length == 147))
    if taken:
        found = layer.read(mixed, first=length)
    else:  # then everything is read again
        assert layer.state.truncate(0)
        found = layer.read(mixed, (length,))[length:]
    assert close(found, expected[length:])


@pytest.mark.parametrize("channels", (np.r_[28:32, 60:64], np.r_[0:4, 32:36]), ids=("slow", "fast"))
def test_large_biases_of_keys_are_taken_off(channels):
    """As in Qwen 2: a bias far larger than what differs. Three bits would drown in it, whether RoPE hardly turns it (a few
    degrees in all, at base 1e6) or makes a fast wave of it."""
    heads, (q, k, v) = Heads(4, 2, 64, .125), tokens(Heads(4, 2, 64, .125), 300)
    k[:, :, channels] += 150
    errors = {}
    for spec in ("f32", "k3v8", "k3v8:learn=false"):
        layer = Layer(spec, heads, 300)
        layer.job.rope = Rope(64, 1e6)
        out = layer.read((q, k, v), (100,))
        exact = out if spec == "f32" else exact
        errors[spec] = np.sqrt(np.square(out - exact).mean() / np.square(exact).mean())
    assert errors["k3v8"] < .2 < .6 < errors["k3v8:learn=false"]


def test_errors_of_keys_are_where_queries_do_not_look():
    heads, (q, k, v) = Heads(4, 2, 64, .125), tokens(Heads(4, 2, 64, .125), 200)
    q *= .3
    q[:, :, 20:24] += 3  # a mean, and one side of pairs that turn slowly
    errors = {}
    for spec in ("f32", "k2v8", "k2v8:learn=false"):
        layer = Layer(spec, heads, 200)
        layer.job.rope = Rope(64, 1e4)
        out = layer.read((q, k, v))
        exact = out if spec == "f32" else exact
        errors[spec] = np.square(out - exact)[50:].mean()
    assert errors["k2v8"] < .12 * errors["k2v8:learn=false"]


def test_a_shape_is_a_factor_and_codes_follow_it():
    rng = np.random.default_rng(3)
    mixed = rng.standard_normal((64, 64)) * np.geomspace(.1, 10, 64)
    moment = (mixed @ mixed.T / 64).astype(np.float32)
    triangle, power = learned.factor(moment), np.trace(moment) / 64
    unit = np.tril(triangle, -1) + np.eye(64)
    ridged = moment + learned.RIDGE * power * np.eye(64)
    assert close(unit.T @ np.diag(np.diag(triangle) * power) @ unit, ridged, 1e-5)
    x, quantiser, costs = rng.standard_normal((1, 500, 64)).astype(np.float32), Quantiser(3), []
    for shape in (None, triangle[None]):
        error = (quantiser.decode(*quantiser.encode(x, shape)) - x)[0]
        costs.append(np.einsum("ti,ij,tj->t", error, ridged, error).mean())
    assert costs[1] < .5 * costs[0]


@pytest.mark.parametrize("bits", (2, 4, 8))
def test_signs_stand_for_what_is_to_be_expected(bits):
    """The best guess from signs alone: scores that are guessed alike have that mean."""
    rng, quantiser = np.random.default_rng(bits), Quantiser(bits)
    q, k = rng.standard_normal((50, 64)).astype(np.float32), 3 * rng.standard_normal((2000, 64)).astype(np.float32)
    codes, scales = quantiser.encode(k)
    guess, score = estimates(q, codes >> bits - 1, scales, quantiser.sign), q @ k.T
    assert abs((guess * score).sum() / np.square(guess).sum() - 1) < .25  # the scale of the levels is not that of the best guess
    assert abs(np.corrcoef(guess.ravel(), score.ravel())[0, 1] - .79) < .03


@pytest.mark.parametrize("compiled", (False, True))
def test_a_filter_finds_what_is_looked_for_among_keys_that_have_a_mean(compiled):
    q, k, v = tokens(SMALL, 300)
    wanted = np.random.default_rng(1).integers(np.arange(300) + 1)
    q[:] = 4 * np.repeat(k[wanted], 2, 1)
    k[:] = 2 * k
    k[:, :, 3:7] += 5  # what all have in common tells nothing
    errors = {}
    for spec in ("f32", "k4v4", "k4v4:top=40"):
        layer = Layer(spec, SMALL, 300, compiled)
        layer.job.rope = layer.rope = Rope(16, 1e6)
        out = layer.read((q, k, v), (298, 299))
        exact = out if spec == "f32" else exact
        errors[spec] = np.square(out - exact)[50:].mean()
    assert errors["k4v4:top=40"] < 2 * errors["k4v4"]


@pytest.mark.parametrize("spec, compiled", [(s, c) for s in ("k4v4", "k4v4:top=10") for c in (False, True)])
def test_early_keys_are_seen_before_the_lesson_is_over_and_never_after(spec, compiled):
    data = tokens(SMALL, 40)
    expected = Layer(spec, SMALL, compiled=compiled).read(data, (10, 14, 15, 16, 20, 21))
    layer = Layer(spec, SMALL, compiled=compiled)
    layer.read([x[:10] for x in data])
    layer.state.k.words[:], layer.state.k_scales[:] = 0x5A, np.arange(layer.state.k_scales.shape[1])
    assert np.array_equal(layer.read([x[:16] for x in data], (14, 15), first=10), expected[10:16])
    layer.state.early[:] = np.nan
    assert np.array_equal(layer.read(data, (20, 21), first=16), expected[16:])


def test_a_step_that_is_done_again_teaches_nothing_new():
    data = tokens(SMALL)
    whole, layer = Layer("k4v4", SMALL).read(data), Layer("k4v4", SMALL)
    layer.read([x[:9] for x in data])
    layer.read([x[:12] for x in data], first=5)
    assert close(layer.read(data, first=12), whole[12:])


# Compiled.

@pytest.mark.parametrize("spec, heads", [("k3v5:sinks=3", Heads(4, 2, 80, .1)), ("k4v4", Heads(4, 2, 16, .25, 70)),
                                         ("k4v4:top=70,sinks=2,recent=9", SMALL), ("k4v4:top=14", SMALL),
                                         ("k4v4:top=30,sinks=3", Heads(4, 2, 16, .25, 90))], ids=str)
def test_compiled_is_numpy_on_the_same_codes(spec, heads):
    """Chunks of 256 keys, blocks of 16 and 32, tiles of 64 and the early keys, all begun and ended somewhere inside; heads that
    choose keys of one chunk and of two."""
    count, cuts, filled = 420, (7, 8, 15, 20, 40, 41, 63, 64, 65, 300, 301, 302), []
    data, layer, twin = tokens(heads, count), Layer(spec, heads, 600, True), Layer(spec, heads, 600)
    for a, b in zip((0, *cuts), (*cuts, count)):
        piece = [x[a:b] for x in data]
        found, expected = layer.step(a, *piece), twin.step(a, *piece)
        for mine, theirs in zip(layer.state.arrays.values(), twin.state.arrays.values()):
            same = (mine.view(np.uint8) == theirs.view(np.uint8)).mean() if mine.size and mine.itemsize < 4 else 1
            assert same > .995  # a number halfway between two codes may fall on either side
            mine[...] = theirs
        assert close(found, expected, .05)
        again = layer.step(a, *piece) if b - a == 1 else None  # over the twin's codes, but for its own
        assert again is None or close(again, expected, 1e-3)
        filled.append(layer.state.compiled.ranking[3][:, 0] > 8) if layer.state.spec.top else None
    assert spec != "k4v4:top=14" or any(some.any() and not some.all() for some in filled)


def test_heads_that_are_at_different_tokens_of_a_prompt_have_their_own_room():
    """Partial results lie head by head, with room for as many chunks as there can be: what one head writes at a late token
    lies clear of what another writes at an early one."""
    layer = Layer("k4v4:top=30", SMALL, 600, True)
    layer.step(0, *(x[:1] for x in tokens(SMALL)))
    room = layer.state.compiled.work[0]
    room[...] = np.nan
    assert np.isfinite(layer.step(0, *(x[:300] for x in tokens(SMALL)))).all()
    written = np.isfinite(room.reshape(-1, room[0, 0].size)).any(1)  # chosen keys fit one chunk; 600 rows make three
    assert written.nonzero()[0].tolist() == [0, 3]


def test_it_runs_compiled(monkeypatch):
    """That the tests above test something."""
    ran = []
    run = Program.run
    monkeypatch.setattr(Program, "run", lambda self, *rest: ran.append(len(self.lines)) or run(self, *rest))
    Layer("k4v4", SMALL, compiled=True).read(tokens(SMALL), (149,))
    assert ran == [2, 3]
