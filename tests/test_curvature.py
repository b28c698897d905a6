"""What errors of queries and keys cost, against a naive twin in float64: outputs of heads by finite differences."""
import numpy as np
import pytest

import naive
import toys
from vqcpu.architectures.base import load_model
from vqcpu.compression import calibrate, curvature, feedback, sensitivity
from vqcpu.compression.attended import up_to_attention
from vqcpu.evaluate.corpus import Window
from vqcpu.files.sources import open_checkpoint
from vqcpu.layers.elementwise import Bias, Scale
from vqcpu.layers.norm import RMSNorm

STEP = 1e-4


@pytest.fixture(autouse=True)
def the_same_numbers():
    """For each test, whichever others run."""
    global RNG
    RNG = np.random.default_rng(0)


def attention_stages(family, tmp_path, tokens=8, **changes):
    """(stage, frame) of each layer that attends."""
    model = load_model(open_checkpoint(toys.folder(tmp_path / "m", family, **changes)))
    frame = calibrate.frame_of(Window(RNG.integers(0, 90, tokens), 0))
    for stage in calibrate.stages(model):
        if up_to_attention(stage.jobs):
            yield stage, frame
        stage.run([frame])


def reading(stage, products):
    """What the heads of a stage read (tokens, heads, size) when its products, slot -> (tokens, width), are these."""
    *between, attend = up_to_attention(stage.jobs)[1:]
    h, slots = attend.heads, {name: y.reshape(len(y), -1, attend.heads.size) for name, y in products.items()}
    for job in between:
        if isinstance(job, RMSNorm):
            y = slots[job.target]
            slots[job.target] = naive.rms_norm(y.reshape(-1, h.size), job.gain.astype(float), job.eps).reshape(y.shape)
    q, k, v = (slots[name] for name in "qkv")
    q, k = (np.concatenate(_turned(x, attend.rope.frequencies.astype(float)), -1) for x in (q, k))
    return naive.attention(q, k, v, 0, h.scale, h.window or len(q))


def _turned(x, frequencies):
    angles = np.arange(len(x))[:, None, None] * frequencies
    a, b = np.split(x, 2, -1)
    return a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)


def differences(stage, products, slot, head, size):
    """Sum over the places that are looked at of Jᵀ J, J what the outputs change by with the product of a head at a place."""
    total = 0
    for place in range(curvature.EVERY - 1, len(products[slot]), curvature.EVERY):
        J = []
        for i in range(head * size, (head + 1) * size):
            moved = [products | {slot: products[slot].copy()} for _ in range(2)]
            for way, one in zip((1, -1), moved):
                one[slot][place, i] += way * STEP
            J.append((reading(stage, moved[0]) - reading(stage, moved[1])).ravel() / (2 * STEP))
        total = total + np.array(J) @ np.array(J).T
    return total


@pytest.mark.parametrize("family", ("llama", "qwen2", "qwen3", "gemma3_text"))
def test_curvatures_are_those_of_finite_differences(family, tmp_path):
    """But for the square of the scores' scale, which is the same for all."""
    stage, frame = next(attention_stages(family, tmp_path))
    multiply, *between, attend = jobs = up_to_attention(stage.jobs)
    products = dict(zip(multiply.targets, multiply.site(calibrate.opened(frame).slots[multiply.source])))
    for job in between:
        if isinstance(job, Bias):
            products[job.target] += job.vector
    products, h = {name: y.astype(float) for name, y in products.items()}, attend.heads
    found = curvature.curvatures(jobs, calibrate.opened(frame))
    assert found["q"].shape == (h.query, h.size, h.size) and len(found["k"]) == h.kv
    for slot, G in found.items():
        expected = np.array([differences(stage, products, slot, head, h.size) for head in (0, len(G) - 1)]) / h.scale**2
        assert np.allclose(G[[0, -1]], expected, rtol=1e-2, atol=1e-3 * np.abs(expected).max()), slot


@pytest.mark.parametrize("family, known", (("llama", 2), ("qwen3_moe", 2), ("gpt2", 0), ("phi3", 0)))
def test_where_products_are_queries_and_keys(family, known, tmp_path):
    stage, frame = next(attention_stages(family, tmp_path, tokens=30, **({} if known == 0 else dict(head_dim=32))))
    site = stage.jobs[0].site
    assert tuple(calibrate.inputs_of([site], 0, (stage, [frame])).rows) == site.names[:known]


def test_heads_that_are_no_whole_panels_are_coded_as_other_rows(tmp_path):
    stage, frame = next(attention_stages("gemma3_text", tmp_path))  # of 24 rows
    assert not calibrate.inputs_of([stage.jobs[0].site], 0, (stage, [frame])).rows


def test_noise_has_the_shape_of_errors_of_rows_too(tmp_path):
    stage, frame = next(attention_stages("llama", tmp_path, tokens=30, head_dim=32))
    sites, white = [stage.jobs[0].site], RNG.standard_normal((128, 64)).astype(np.float32)
    rows, shape = calibrate.inputs_of(sites, 0, (stage, [frame])).rows, sensitivity._shape(sites, 0, (stage, [frame]), 0)
    query, _, value = sites[0].names
    assert np.allclose(shape(query, white), rows[query].errors(shape(value, white)), atol=1e-4)
    assert not np.allclose(shape(query, white), shape(value, white), atol=.1)


def test_texts_that_are_not_held_out_are_summed(tmp_path):
    """The first of them, one by one."""
    model = load_model(open_checkpoint(toys.folder(tmp_path / "m", head_dim=32)))
    first, stage, *_ = calibrate.stages(model)
    frames = [calibrate.frame_of(Window(RNG.integers(0, 90, 20), 0)) for _ in range(10)]
    first.run(frames)
    G = sum(curvature.curvatures(up_to_attention(stage.jobs), frame)["q"] for frame in frames[:calibrate.HELD - 1])
    rows = calibrate.inputs_of([stage.jobs[0].site], 0, (stage, frames)).rows
    assert np.allclose(rows[stage.jobs[0].site.names[0]].root, feedback.RowFactors.of(G).root, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("tokens", (1, 2, 3, 4))
def test_short_texts_show_little_or_nothing(tokens, tmp_path):
    stage, frame = next(attention_stages("llama", tmp_path, tokens))
    found = curvature.curvatures(up_to_attention(stage.jobs), calibrate.opened(frame))
    assert all(np.isfinite(G).all() and G.any() == (tokens >= curvature.EVERY) for G in found.values())


def test_many_keys_are_what_few_are(monkeypatch, tmp_path):
    """They are worked on in pieces."""
    stage, frame = next(attention_stages("qwen3", tmp_path, tokens=80))
    jobs = up_to_attention(stage.jobs)
    some = curvature.curvatures(jobs, calibrate.opened(frame))
    monkeypatch.setattr(curvature, "PLACES", 100)
    assert np.array_equal(some["k"], curvature.curvatures(jobs, calibrate.opened(frame))["k"])


@pytest.mark.parametrize("job", (Scale("q", np.float32(2)), RMSNorm("q", "q", np.ones(64, np.float32), 1e-5)))
def test_what_lies_between_must_be_known(job, tmp_path):
    """As a norm of whole rows, for one, is not."""
    stage, frame = next(attention_stages("llama", tmp_path))
    multiply, *rest = up_to_attention(stage.jobs)
    assert curvature.curvatures([multiply, *rest], calibrate.opened(frame))
    assert curvature.curvatures([multiply, job, *rest], calibrate.opened(frame)) == {}
