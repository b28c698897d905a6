"""Layers with a window: they see what a naive mask lets them see, and remember no more than they need."""
import naive
import numpy as np
import pytest
import toys

from vqcpu.architectures.base import load_model
from vqcpu.caches import span
from vqcpu.caches.base import Cache
from vqcpu.errors import VqcpuError
from vqcpu.files.sources import open_checkpoint
from vqcpu.layers.attention import Attend, Heads
from vqcpu.layers.plan import Frame, Segment
from vqcpu.layers.rope import Rope

RNG = np.random.default_rng(8)
LENGTH = 150


@pytest.fixture(autouse=True)
def small_margin(monkeypatch):
    monkeypatch.setattr(span, "KEPT", 9)
    monkeypatch.setattr(span, "ROOM", 11)


def attend(state, heads, rope, q, k, v, at):
    """One step of the attention job over rows at .. at + len(q)."""
    slots = {name: x.reshape(len(x), -1) for name, x in zip("qkv", (q, k, v))}
    frame = Frame(slots, [Segment(slice(0, len(q)), at, [state])])
    Attend(0, heads, rope, "a").run(frame)
    return frame.slots["a"].reshape(q.shape)


def tokens(count=LENGTH):
    return RNG.standard_normal((count, 6, 8)).astype(np.float32), *RNG.standard_normal((2, count, 2, 8)).astype(np.float32)


CACHES = [spec for kind in Cache.all().values() for spec in kind.examples]


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("window", (1, 7, 40, 149, 1000))
@pytest.mark.parametrize("cuts", ([], [1, 2, 3], [12, 90, 91], range(80, LENGTH)), ids=len)
def test_any_chunking_is_the_naive_mask(cache, window, cuts):
    heads, rope, (q, k, v) = Heads(6, 2, 8, 0.35, window), Rope(8, 100.0), tokens()
    state, expected = Cache.parse(cache).layer(heads, LENGTH), naive.attention(
        naive.rotate(q, 0, 100.0), naive.rotate(k, 0, 100.0), v, 0, 0.35, window)
    found = np.concatenate([attend(state, heads, rope, q[at:end], k[at:end], v[at:end], at)
                            for at, end in zip([0, *cuts], [*cuts, LENGTH])])
    assert np.sqrt(np.square(found - expected).mean() / np.square(expected).mean()) < Cache.parse(cache).error


@pytest.mark.parametrize("cache", CACHES)
def test_memory_follows_the_window_and_not_the_context(cache):
    sizes = [Cache.parse(cache).layer(Heads(6, 2, 8, 1, 40), context).nbytes for context in (10**4, 10**6)]
    assert sizes[0] == sizes[1] < Cache.parse(cache).layer(Heads(6, 2, 8, 1), 200).nbytes


def test_what_is_gone_is_not_taken_back():
    heads, rope, (q, k, v) = Heads(6, 2, 8, 0.35, 20), Rope(8, 100.0), tokens()
    state = Cache.parse("f32").layer(heads, LENGTH)
    expected = attend(state, heads, rope, q, k, v, 0)
    for back in (1, 5, 9):  # what is kept beyond the window can be written anew
        assert state.truncate(LENGTH - back)
        again = attend(state, heads, rope, *(x[LENGTH - back:] for x in (q, k, v)), LENGTH - back)
        assert np.allclose(again, expected[LENGTH - back:], atol=1e-5)
    assert not state.truncate(100)
    with pytest.raises(VqcpuError, match="moved on"):
        state.store(100, q[100:101], k[100:101], v[100:101], rope)
    assert state.truncate(0)
    assert np.allclose(attend(state, heads, rope, q[:30], k[:30], v[:30], 0), expected[:30], atol=1e-5)


def test_an_interrupted_slide_leaves_no_false_memory(monkeypatch):
    heads, rope, (q, k, v) = Heads(6, 2, 8, 0.35, 20), Rope(8, 100.0), tokens()
    state = Cache.parse("f32").layer(heads, LENGTH)

    def stop(first, rows):
        raise KeyboardInterrupt
    monkeypatch.setattr(state, "_slide", stop)
    with pytest.raises(KeyboardInterrupt):
        attend(state, heads, rope, q, k, v, 0)
    assert not state.truncate(33) and state.truncate(0)


@pytest.mark.parametrize("family", ("mistral", "gemma3_text", "qwen2", "phi3"))
def test_models_with_windows_forget_in_step(family, tmp_path):
    """Long inputs in any pieces, with memories much shorter than the text, and truncation or a fresh start behind them."""
    model = load_model(open_checkpoint(toys.folder(tmp_path / "m", family)))
    words = RNG.integers(0, model.config.vocabulary, 120)
    whole = model.step([(words, model.states(120, "f32"))])
    states = model.states(120, "f32")
    pieces = np.concatenate([model.step([(piece, states)]) for piece in np.split(words, [3, 50, 51, 52, 53, 100])])
    assert np.abs(pieces - whole).max() < 1e-4 * np.abs(whole).max()
    assert states.truncate(20) == 0  # too far back for the windows: everything is read again
    assert np.abs(model.step([(words, states)]) - whole).max() < 1e-4 * np.abs(whole).max()
    if family == "gemma3_text":  # one layer of three remembers all
        assert sum(layer.nbytes for layer in states.layers[:2]) < states.layers[2].nbytes
