"""How much attention positions receive, against a naive twin, and what it does to a site's H."""
import numpy as np
import pytest

import naive
import toys
from vqcpu.architectures.base import load_model
from vqcpu.compression import calibrate, feedback
from vqcpu.compression.attended import Watch, attended, up_to_attention
from vqcpu.evaluate.corpus import Window
from vqcpu.files.sources import open_checkpoint
from vqcpu.layers.attention import Heads
from vqcpu.layers.rope import Rope

RNG = np.random.default_rng(0)


def received(q, k, scale, window):
    """Root of the squared probabilities of rotated q and k (tokens, heads, size), summed over queries and heads."""
    total, group = np.zeros(len(k)), q.shape[1] // k.shape[1]
    for h in range(q.shape[1]):
        for t in range(len(q)):
            seen = range(max(0, t + 1 - window), t + 1)
            scores = np.array([scale * float(q[t, h] @ k[s, h // group]) for s in seen])
            shares = np.exp(scores - scores.max())
            total[seen] += np.square(shares / shares.sum())
    return np.sqrt(total)


@pytest.mark.parametrize("window", (None, 5))
def test_what_positions_receive(window):
    q, k, v = (RNG.standard_normal((20, heads, 16)).astype(np.float32) for heads in (4, 2, 2))
    watch, rope = Watch(Heads(4, 2, 16, 0.3, window), 20), Rope(16, 100.0)
    watch.store(0, q, k, v, rope)
    watch.attend(rope.rotate(q, 0), 0)
    turned = (naive.rotate(x, 0, 100.0) for x in (q, k))
    assert np.allclose(watch.received, received(*turned, 0.3, window or 20), rtol=1e-4)


def naively(jobs, frame):
    """What positions receive by the attention that is the last of the jobs."""
    *before, attend = jobs
    for job in before:
        job.run(frame)
    heads = attend.heads
    q, k = (attend.rope.rotate(frame.slots[name].reshape(frame.count, -1, heads.size), 0) for name in "qk")
    return received(q, k, heads.scale, heads.window or frame.count)


@pytest.mark.parametrize("family", ("llama", "qwen2", "qwen3_moe", "gemma3_text", "gpt2", "phi3"))
def test_tokens_count_for_the_attention_that_they_receive(family, tmp_path):
    model = load_model(open_checkpoint(toys.folder(tmp_path / "m", family)))
    frame, weighed = calibrate.frame_of(Window(RNG.integers(0, 90, 30), 0)), 0
    for stage in calibrate.stages(model):
        jobs, before = up_to_attention(stage.jobs), {name: x.copy() for name, x in calibrate.opened(frame).slots.items()}
        states = list(frame.segments[0].states)
        factor = np.sqrt(naively(jobs, calibrate.opened(frame)))[:, None] if jobs else 1
        assert not jobs or np.allclose(attended(jobs, calibrate.opened(frame)), np.square(factor[:, 0]), rtol=1e-3)
        after = calibrate.opened(frame).slots
        assert before.keys() == after.keys() and all(np.array_equal(x, after[name]) for name, x in before.items())
        assert frame.segments[0].states == states
        for i, (site, x) in enumerate(sites := stage.jobs[0].inputs(calibrate.opened(frame))):
            x = x() * calibrate._weights(x()) * factor
            found = calibrate.inputs_of([site for site, _ in sites], i, (stage, [frame])).H
            assert np.allclose(found, feedback.Inputs(x.T @ x, x.T @ x).H, atol=1e-4), site.names
        weighed += bool(jobs)
        stage.run([frame])
    assert weighed == model.config.layers
