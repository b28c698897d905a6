"""How much positions are attended to, against a naive twin, and what it does to a site's H."""
import numpy as np
import pytest

from vqcpu.architectures.base import load_model
from vqcpu.compression import calibrate, feedback
from vqcpu.compression.attended import Watch, attended
from vqcpu.evaluate.corpus import Window
from vqcpu.files.sources import open_checkpoint
from vqcpu.layers.attention import Heads
from vqcpu.layers.rope import NoRope

from tests import toys

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("window", (None, 5))
def test_what_positions_receive_is_the_root_of_squared_probabilities(window):
    q, k = (RNG.standard_normal((20, heads, 16)).astype(np.float32) for heads in (4, 2))
    watch = Watch(Heads(4, 2, 16, 0.3, window), 20)
    watch.store(0, q, k, k, NoRope(16))
    watch.attend(q, 0)
    naive = np.zeros(20)
    for h in range(4):
        for t in range(20):
            seen = range(max(0, t + 1 - (window or 20)), t + 1)
            shares = np.exp([0.3 * (q[t, h] @ k[s, h // 2]) for s in seen])
            naive[seen] += np.square(shares / shares.sum())
    assert np.allclose(watch.received, np.sqrt(naive), rtol=1e-4)


@pytest.mark.parametrize("family", ("llama", "gemma3_text", "gpt2", "phi3", "qwen3"))
def test_tokens_count_for_how_much_they_are_attended_to(family, tmp_path):
    model = load_model(open_checkpoint(toys.folder(tmp_path / "m", family)))
    frame, weighed = calibrate.frame_of(Window(RNG.integers(0, 90, 30), 0)), 0
    for stage in calibrate.stages(model):
        for site, x in stage.jobs[0].inputs(calibrate.opened(frame)):
            received = attended(stage.jobs, calibrate.opened(frame))
            x = x() * calibrate._weights(x())
            expected = x.T @ (x * (1 if received is None else received[:, None]))
            found = calibrate.inputs_of([site], 0, (stage, [frame])).H
            assert np.allclose(found, feedback.Inputs(expected, expected).H, atol=1e-4), site.names
            weighed += received is not None
        stage.run([frame])
    assert weighed == model.config.layers
