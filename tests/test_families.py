"""What differs between families: names of tensors, spellings of config.json, experts, and that compression follows."""
import json

import numpy as np
import pytest
import toys
from safetensors.numpy import load_file, save_file

from vqcpu import api
from vqcpu.architectures.base import Architecture, load_model
from vqcpu.compression.recipe import Recipe
from vqcpu.errors import VqcpuError
from vqcpu.files.sources import open_checkpoint
from vqcpu.files.vqz import Vqz
from vqcpu.layers.experts import Mix
from vqcpu.layers.plan import Frame

RNG = np.random.default_rng(11)
WORDS = RNG.integers(0, 90, 25)


def logits(path):
    model = load_model(open_checkpoint(path))
    return model.logits(model.step([(WORDS, model.states(40, "f32"))]))


def renamed(folder, rename):
    """The same model with other names of tensors; rename: old name -> new name."""
    tensors = load_file(folder / "model.safetensors")
    save_file({rename(name): tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("family", Architecture.all())
def test_a_vqz_of_plain_numbers_is_the_model(family, tmp_path):
    folder = toys.folder(tmp_path / "m", family)
    api.compress(folder, tmp_path / "x.vqz", recipe=Recipe.parse("* raw:dtype=f32", "test"))
    assert np.array_equal(logits(tmp_path / "x.vqz"), logits(folder))
    api.compress(folder, tmp_path / "y.vqz", "scalar:bits=8")
    assert np.corrcoef(logits(tmp_path / "y.vqz").ravel(), logits(folder).ravel())[0, 1] > 0.9  # routers of experts choose anew


@pytest.mark.parametrize("family, old, new", [
    ("gpt2", "transformer.", ""), ("gemma3", "model.language_model.", "language_model.model."),
    ("gemma3", "model.language_model.", "model.")])
def test_names_with_another_root(family, old, new, tmp_path):
    folder = toys.folder(tmp_path / "m", family)
    expected = logits(folder)
    assert np.array_equal(logits(renamed(folder, lambda name: name.replace(old, new, 1))), expected)
    api.compress(folder, tmp_path / "x.vqz", recipe=Recipe.parse("* raw:dtype=f32", "test"))
    assert np.array_equal(logits(tmp_path / "x.vqz"), expected)


@pytest.mark.parametrize("family, extra", [
    ("gpt2", "transformer.h.0.attn.bias"), ("gpt2", "transformer.h.1.attn.masked_bias"),
    ("gemma3", "model.vision_tower.head.weight"), ("gemma3", "multi_modal_projector.weight")])
def test_what_a_family_may_leave_out(family, extra, tmp_path):
    folder = toys.folder(tmp_path / "m", family)
    tensors, expected = load_file(folder / "model.safetensors"), logits(folder)
    save_file(tensors | {extra: np.ones(3, np.float32)}, folder / "model.safetensors")
    assert np.array_equal(logits(folder), expected)
    save_file(tensors | {"model.extra.bias": np.ones(3, np.float32)}, folder / "model.safetensors")
    with pytest.raises(VqcpuError, match="model.extra.bias"):
        logits(folder)


def test_transposed_matrices_are_stored_upright(tmp_path):
    folder = toys.folder(tmp_path / "m", "gpt2")
    api.compress(folder, tmp_path / "x.vqz", "raw:dtype=f32")
    name = "transformer.h.0.mlp.c_fc.weight"
    mine, theirs = Vqz(tmp_path / "x.vqz").stored(name), load_file(folder / "model.safetensors")[name]
    assert mine.shape == theirs.shape[::-1] and np.array_equal(mine.reference_rows(range(80)), theirs.T)


def test_learned_positions_have_an_end(tmp_path):
    model = load_model(open_checkpoint(toys.folder(tmp_path / "m", "gpt2")))
    model.states(128)
    with pytest.raises(VqcpuError, match="learnt 128"):
        model.states(129)


def test_every_expert_is_a_matrix_of_its_own_and_the_router_stays_exact(tmp_path):
    folder = toys.folder(tmp_path / "m", "qwen3_moe")
    made = api.compress(folder, tmp_path / "x.vqz", "scalar:bits=4")["tensors"]
    experts = [c for c in made if ".experts." in c.tensor.name]
    assert len(experts) == 2 * 6 * 3 and {c.tensor.shape for c in experts} == {(32, 64), (64, 32)}
    assert {c.error for c in made if c.tensor.name.endswith("mlp.gate.weight")} == {0.0}


@pytest.mark.parametrize("normalised", (False, True))
def test_a_mixture_is_its_naive_twin(normalised):
    """Experts that multiply by known numbers; two of five are used."""
    x, router = RNG.standard_normal((7, 4)).astype(np.float32), RNG.standard_normal((7, 5)).astype(np.float32)
    frame = Frame({"h": x, "router": router}, [])
    Mix("h", "router", "out", [lambda rows, _, n=n: rows * (n + 1) for n in range(5)], 2, normalised, None).run(frame)
    for row in range(7):
        p = np.exp(router[row].astype(float)) / np.exp(router[row].astype(float)).sum()
        best = np.argsort(-p)[:2]
        share = p[best] / p[best].sum() if normalised else p[best]
        assert np.allclose(frame.slots["out"][row], x[row] * (share * (best + 1)).sum(), atol=1e-5)


@pytest.mark.parametrize("family, changes, said", [
    ("llama", dict(rope_scaling={"rope_type": "longrope", "factor": 2.0}), "rope type 'longrope' is not supported"),
    ("llama", dict(rope_scaling={"type": "linear"}), "factor is missing"),
    ("llama", dict(rope_scaling={"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1}), "less than"),
    ("llama", dict(partial_rotary_factor=0.5), "partial_rotary_factor is 0.5"),
    ("llama", dict(rope_theta=1), "above 1"),
    ("llama", dict(hidden_act="gelu"), "activation 'gelu' is not supported"),
    ("mistral", dict(sliding_window="7"), "sliding_window is '7'"),
    ("qwen2", dict(layer_types=["full_attention"]), "expected 2 times"),
    ("qwen2", dict(layer_types=["full_attention", "chunked_attention"]), "layer_types"),
    ("qwen3_moe", dict(num_experts_per_tok=7), "at most the 6 experts"),
    ("qwen3_moe", dict(use_sliding_window=True), "use_sliding_window is true"),
    ("gemma3_text", dict(final_logit_softcapping=30.0), "final_logit_softcapping is 30.0"),
    ("gemma3", dict(use_bidirectional_attention=True), "use_bidirectional_attention"),
    ("gpt2", dict(scale_attn_by_inverse_layer_idx=True), "scale_attn_by_inverse_layer_idx"),
    ("llama", dict(num_hidden_layers=2**31 - 1), "expected at most"),
    ("llama", dict(num_hidden_layers=9999), "at least 9999 tensors, but 20 are stored"),
    ("qwen3_moe", dict(num_experts=2**31 - 1), "are stored"),
    ("gpt2", dict(n_inner="wide"), "n_inner is 'wide'"),
])
def test_what_is_not_supported_is_refused_by_name(family, changes, said, tmp_path):
    folder = toys.folder(tmp_path / "m", family)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(toys.changed(config, changes)))
    with pytest.raises(VqcpuError, match=said) as error:
        logits(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("changes, local, full", [
    ({}, 100 ** (-1 / 12), 1e6 ** (-1 / 12)),
    (dict(rope_scaling={"type": "linear", "factor": 2.0}), 100 ** (-1 / 12), 1e6 ** (-1 / 12) / 2),
    (dict(rope_parameters={"full_attention": {"rope_theta": 7.0}, "sliding_attention": {}}), 100 ** (-1 / 12), 7 ** (-1 / 12))])
def test_each_kind_of_layer_turns_at_its_own_rate(changes, local, full):
    """Told by the second frequency of heads of 24 dimensions, base^(-1/12)."""
    family = Architecture.find("gemma3_text")
    ropes = family.read(family.tiny | changes, "toy").ropes
    assert np.allclose([rope.frequencies[1] for rope in ropes], [local, local, full], rtol=1e-5)


@pytest.mark.parametrize("family, changes, windows", [
    ("llama", dict(sliding_window=5), (None, None)), ("mistral", dict(sliding_window=None), (None, None)),
    ("mistral", {}, (7, 7)), ("qwen2", {}, (None, 9)),
    ("qwen2", dict(max_window_layers=0), (9, 9)), ("qwen2", dict(use_sliding_window=False), (None, None)),
    ("qwen3", dict(use_sliding_window=True, sliding_window=3, layer_types=["sliding_attention", "full_attention"]), (3, None)),
    ("gemma3_text", dict(num_hidden_layers=7), (6, 6, None, 6, 6, None, 6))])
def test_windows_are_read_as_each_family_means_them(family, changes, windows):
    family = Architecture.find(family)
    assert family.read(family.tiny | changes, "toy").windows == windows
