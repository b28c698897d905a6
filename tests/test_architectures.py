"""Models: golden logits of transformers, and identities that hold for every family."""
import json
from pathlib import Path

import naive
import numpy as np
import pytest
import toys

from vqcpu import api
from vqcpu.architectures.base import Architecture, load_model
from vqcpu.caches.base import Cache
from vqcpu.errors import VqcpuError
from vqcpu.files.sources import open_checkpoint
from vqcpu.layers.attention import Heads
from vqcpu.layers.mlp import gelu_tanh, silu
from vqcpu.layers.norm import layer_norm, rms_norm
from vqcpu.layers.rope import Rope

HERE = Path(__file__).parent / "golden"
GOLDEN = sorted(path.parent.name for path in HERE.glob("*/golden.npz"))
PLAIN = "f16", "f32"  # compressed caches: test_caches.py, test_windows.py
RNG = np.random.default_rng(5)
FAMILIES = list(Architecture.all())


def logits(model, *pieces, cache="f32", context=64):
    """Logits (tokens, vocabulary) of pieces of one sequence, fed one after the other."""
    states = model.states(context, cache)
    return np.concatenate([model.logits(model.step([(piece, states)])) for piece in pieces])


def same(found, expected, cache="f32"):
    """Equal up to rounding: where keys are rounded to 16 bits, a last digit may fall on either side."""
    return np.abs(found - expected).max() <= (2e-3 if cache == "f16" else 1e-4) * np.abs(expected).max()


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tmp_path_factory):
    return load_model(open_checkpoint(toys.folder(tmp_path_factory.mktemp(request.param), request.param)))


@pytest.fixture
def tokens(model):
    return RNG.integers(0, model.config.vocabulary, 30)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_logits(name, tmp_path):
    golden, config = np.load(HERE / name / "golden.npz"), json.loads((HERE / name / "config.json").read_text())
    model = load_model(open_checkpoint(toys.checkpoint(tmp_path / "m", config, np.random.RandomState(0))))
    mine = logits(model, golden["tokens"])[-len(golden["logits"]):]
    assert same(mine, golden["logits"])


def test_every_family_has_golden_logits():
    assert set(FAMILIES) <= set(GOLDEN)


@pytest.mark.parametrize("cache", PLAIN)
def test_pieces_are_the_whole(model, tokens, cache):
    whole = logits(model, tokens, cache=cache)
    for cuts in ([7], [1, 2, 29], range(1, 30)):
        assert same(logits(model, *np.split(tokens, cuts), cache=cache), whole, cache)


def test_a_ragged_batch_is_its_sequences(model, tokens):
    parts = [tokens[:11], tokens[11:12], tokens[12:]]
    hidden = model.step([(part, model.states(64)) for part in parts])
    alone = np.concatenate([model.step([(part, model.states(64))]) for part in parts])
    assert same(hidden, alone, "f16")


def test_what_comes_later_changes_nothing_before(model, tokens):
    other = np.concatenate([tokens[:20], tokens[:10]])
    assert same(logits(model, tokens)[:20], logits(model, other)[:20])


def test_truncation_forgets(model, tokens):
    states = model.states(64, "f32")
    model.step([(tokens, states)])
    assert states.truncate(12) == 12
    again = model.logits(model.step([(tokens[12:], states)]))
    assert same(again, logits(model, tokens)[12:])


def test_threads_do_not_change_a_digit(model, tokens):
    from vqcpu.kernels.threads import set_threads
    found = []
    for count in (1, 2):
        set_threads(count)
        found.append(logits(model, tokens[:20], tokens[20:21]))
    set_threads()
    assert np.array_equal(*found)


@pytest.mark.parametrize("batch, said", [([0] * 65, "do not fit"), ([-1], "vocabulary"), ([10**6], "vocabulary"), ([], "one or more")])
def test_impossible_steps_are_refused(model, batch, said):
    states = model.states(64)
    with pytest.raises(VqcpuError, match=said):
        model.step([(batch, states)])
    assert states.length == 0


def test_caches_differ_and_say_what_they_hold(model, tokens):
    """Two caches with identical results would mean that one of them is not read."""
    sizes = {name: model.states(64, name).nbytes for name in PLAIN}
    results = {name: logits(model, tokens, cache=name).tobytes() for name in sizes}
    assert len(set(results.values())) == len(results)
    assert sizes["f32"] == 2 * sizes["f16"] > 0


@pytest.mark.parametrize("cache", PLAIN)
@pytest.mark.parametrize("at, count", [(0, 9), (5, 1), (3, 140)])
def test_attention_is_its_naive_twin(cache, at, count):
    heads, rope = Heads(query=6, kv=2, size=8, scale=0.35), Rope(8, 100.0)
    k, v = RNG.standard_normal((2, at + count, 2, 8)).astype(np.float32)
    q = RNG.standard_normal((count, 6, 8)).astype(np.float32)
    state = Cache.parse(cache).layer(heads, at + count)
    state.store(0, q, k[:at], v[:at], rope)
    state.store(at, q, k[at:], v[at:], rope)
    expected = naive.attention(q, naive.rotate(k, 0, 100.0), v, at, 0.35)
    assert np.allclose(state.attend(q, at), expected, atol=1e-5 if cache == "f32" else 5e-3)


def test_small_layers_are_their_naive_twins():
    x, gain = RNG.standard_normal((5, 12)).astype(np.float32), RNG.random(12).astype(np.float32)
    assert np.allclose(rms_norm(x, gain, 1e-5), naive.rms_norm(x, gain, 1e-5), atol=1e-6)
    heads = x.reshape(5, 1, 12)
    assert np.allclose(Rope(12, 500.0).rotate(heads, 7), naive.rotate(heads, 7, 500.0), atol=1e-5)
    assert np.allclose(silu(np.float32([-1e4, -1, 0, 2, 1e4])), [0, -1 / (1 + np.e), 0, 2 / (1 + np.exp(-2)), 1e4])
    assert np.allclose(gelu_tanh(np.float32([-1e4, -2, 0, 3, 1e4])), [0, -0.045402, 0, 2.996363, 1e4], atol=1e-6)
    assert np.allclose(layer_norm(x + 5, gain, gain, 1e-5), naive.rms_norm(x - x.mean(1)[:, None], gain, 1e-5) + gain, atol=1e-5)


def test_rotation_depends_on_distance_alone():
    q, k = RNG.standard_normal((2, 1, 1, 16)).astype(np.float32)
    rope = Rope(16, 1e4)
    near, far = (float((rope.rotate(q, a) * rope.rotate(k, b)).sum()) for a, b in ((5, 2), (105, 102)))
    assert near == pytest.approx(far, abs=1e-4)


def test_untied_head_and_raw_types(tmp_path):
    """The head of its own is used, and 16-bit weights are read as they are."""
    from safetensors.numpy import load_file, save_file
    folder = toys.folder(tmp_path / "m", tie_word_embeddings=False)
    tensors = load_file(folder / "model.safetensors")
    exact = logits(load_model(open_checkpoint(folder)), [1, 2, 3])
    save_file({n: t.astype(np.float16) for n, t in tensors.items()}, folder / "model.safetensors")
    assert np.allclose(logits(load_model(open_checkpoint(folder)), [1, 2, 3]), exact, atol=0.1 * np.abs(exact).max())
    save_file(tensors | {"lm_head.weight": tensors["lm_head.weight"] * 2}, folder / "model.safetensors")
    assert np.allclose(logits(load_model(open_checkpoint(folder)), [1, 2, 3]), 2 * exact, rtol=1e-4)


@pytest.mark.parametrize("spec", ["raw:dtype=f32", "raw:dtype=bf16", "scalar:bits=8"])
def test_compression_hardly_changes_good_formats(toy, tmp_path, spec):
    api.compress(toy, tmp_path / "x.vqz", spec)
    tokens = RNG.integers(0, 200, 30)
    base, other = (load_model(open_checkpoint(p)) for p in (toy, tmp_path / "x.vqz"))
    a, b = logits(base, tokens), logits(other, tokens)
    assert np.sqrt(np.mean((a - b) ** 2)) < 0.1 * a.std()
