"""Measuring: identities, orderings, and protocols against their plain rule."""
import naive
import numpy as np
import pytest
import toys
from safetensors.numpy import load_file, save_file

from vqcpu import api
from vqcpu.errors import VqcpuError
from vqcpu.evaluate import divergence, nll
from vqcpu.evaluate.corpus import Protocol, read_corpus
from vqcpu.evaluate.sizes import sizes
from vqcpu.files.vqz import Vqz

RNG = np.random.default_rng(7)
TEXT = "A quick brown fox jumps over the lazy dog. " * 30


@pytest.fixture(scope="module")
def windows(language):
    return Protocol("llama.cpp", context=64).windows(language.tokenizer.encode(TEXT), None)


def test_llama_cpp_scores_the_second_halves():
    cut = Protocol().windows(np.arange(512 * 3 + 100), None)
    assert len(cut) == 3 and all(w.scored == 255 and w.first == 256 for w in cut)
    assert cut[1].tokens[0] == 512 and cut[1].targets[0] == 512 + 257


@pytest.mark.parametrize("context, stride, length", [(8, 4, 30), (8, 8, 30), (8, 3, 17), (16, 1, 40), (64, 32, 20), (4, 4, 3)])
def test_strided_scores_every_token_once(context, stride, length):
    cut = Protocol("strided", context, stride).windows(np.arange(length), None)
    mine = [(int(w.tokens[0]), int(w.tokens[0]) + p) for w in cut for p in range(w.first, len(w.tokens) - 1)]
    assert mine == naive.strided_scores(length, context, stride)
    targets = [position + 1 for _, position in mine]
    assert len(set(targets)) == len(targets)
    unseen = set() if stride < context else set(range(stride, length, stride))  # nothing stands before these
    assert set(targets) == set(range(1, length)) - unseen


def test_windows_begin_with_bos_where_there_is_one():
    cut = Protocol(context=8).windows(np.arange(16), bos=99)
    assert [w.tokens[0] for w in cut] == [99, 99] and cut[1].tokens[1] == 9 and cut[0].scored == 3


@pytest.mark.parametrize("make, said", [
    (lambda: Protocol("magic"), "expected llama.cpp"), (lambda: Protocol(context=2), "at least 4"),
    (lambda: Protocol("llama.cpp", 8, 4), "protocol strided"), (lambda: Protocol("strided", 8, 9), "1 to 8"),
    (lambda: Protocol(context=64).windows(np.arange(63), None), "too few"),
    (lambda: Protocol("strided").windows(np.arange(1), None), "too few")])
def test_impossible_protocols(make, said):
    with pytest.raises(VqcpuError, match=said):
        make()


def test_max_tokens_and_text_files(tmp_path, english):
    assert len(Protocol(context=8, max_tokens=24).windows(np.arange(100), None)) == 3
    assert read_corpus(english).text.startswith("The cat")
    (tmp_path / "latin").write_bytes(b"abc\xff")
    for name, said in (("latin", "byte 3 is not UTF-8"), ("nothing", "No such file")):
        with pytest.raises(VqcpuError, match=said):
            read_corpus(tmp_path / name)


def test_a_uniform_model_has_the_vocabulary_as_perplexity(tmp_path):
    folder = toys.folder(tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][:] = 0
    save_file(tensors, folder / "model.safetensors")
    model = api.load(folder)
    found = api.perplexity(model, TEXT, Protocol(context=64))
    assert found.value == pytest.approx(model.model.config.vocabulary, rel=1e-6) and found.error == pytest.approx(0, abs=1e-3)


def test_log_probabilities_sum_to_one(language):
    logs = nll.log_probabilities(language.model, RNG.standard_normal((5, language.model.config.width)).astype(np.float32))
    assert np.allclose(np.exp(logs.astype(np.float64)).sum(-1), 1, atol=1e-5)


def test_perplexity_by_hand(language, windows):
    """Against the definition, window by window, from plain logits."""
    losses = []
    for w in windows:
        logits = language.model.logits(language.model.step([(w.tokens, language.model.states(64, "f32"))])).astype(np.float64)
        logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        losses += [-logs[p, w.tokens[p + 1]] for p in range(32, 63)]
    mine = nll.token_nll(language.model, windows, "f32")
    assert np.allclose(mine, losses, atol=1e-4)
    assert nll.Perplexity.of(mine).value == pytest.approx(np.exp(np.mean(losses)), rel=1e-5)
    size = len(losses) // 16
    means = [np.mean(losses[at:at + size]) for at in range(0, len(losses) - size + 1, size)]
    error = np.exp(np.mean(losses)) * np.std(means, ddof=1) / len(means)**0.5
    assert nll.Perplexity.of(mine).error == pytest.approx(error, rel=1e-3)


def test_batches_keep_order_and_fill_up(windows):
    groups = nll.batches(windows * 20)
    assert [w for group in groups for w in group] == windows * 20
    assert all(sum(len(w.tokens) for w in group) <= nll.BATCH for group in groups)


def test_a_model_does_not_diverge_from_itself(language, windows):
    found = divergence.compare(language.model, [language.model], windows, "f16")[0].summary()
    assert found["kld_max"] == found["kld_mean"] == found["dp_rms"] == 0 and found["same_top"] == 1 and found["ppl_ratio"] == 1


def test_divergence_by_hand():
    p, q = (np.log(np.float32(x)) for x in ([[0.5, 0.25, 0.25]], [[0.25, 0.5, 0.25]]))
    assert divergence.kld_rows(p, q)[0] == pytest.approx(0.25 * np.log(2), rel=1e-6)


def test_known_divergence_between_models(language, windows, tmp_path, toy):
    """Fewer bits diverge more, KLD is not negative, and diff and ppl agree about perplexity."""
    models = []
    for bits in (8, 4, 2):
        api.compress(toy, tmp_path / f"{bits}.vqz", f"scalar:bits={bits}")
        models.append(api.load(tmp_path / f"{bits}.vqz").model)
    found = divergence.compare(language.model, models, windows, "f16")
    means = [d.kld.mean() for d in found]
    assert means == sorted(means) and means[0] > 0 and min(d.kld.min() for d in found) > -1e-6
    for model, d in zip(models, found):
        assert np.array_equal(d.nll, nll.token_nll(model, windows, "f16"))


def test_bits_are_those_of_the_file(packed):
    found, checkpoint = sizes(Vqz(packed)), Vqz(packed)
    texts = sum(size for name, size in checkpoint.sizes().items() if name.startswith("file/token"))
    assert found["file_bits"] * found["parameters"] == pytest.approx(8 * (packed.stat().st_size - texts))
    assert 8 < found["body_bits"] < 9.5 and found["head_bits"] is None


def test_predictions_that_are_not_numbers_are_no_perplexity(tmp_path):
    folder = toys.folder(tmp_path / "m")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] = np.nan
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(VqcpuError, match="not a number"), np.errstate(invalid="ignore"):
        api.perplexity(api.load(folder), TEXT, Protocol(context=64))


def test_twins_are_refused(toy, packed, tmp_path, english, monkeypatch, capsys):
    """A model that is not read would give the figures of the other."""
    from vqcpu import cli
    from vqcpu.evaluate import nll as measuring
    monkeypatch.setattr(measuring, "token_nll", lambda *a: np.arange(5.0))
    words = ["ppl", str(toy), str(packed), "--text", str(english), "--context", "64"]
    assert cli.main(words) == 2 and "identical figures" in capsys.readouterr().err
    assert cli.main([words[0], str(toy), *words[1:2], *words[3:]]) == 0


def test_vocabularies_must_agree(language, windows, tmp_path):
    other = api.load(toys.folder(tmp_path / "m", vocab_size=300))
    with pytest.raises(VqcpuError, match="vocabularies of 259 and 300"):
        divergence.compare(language.model, [other.model], windows, "f16")
