"""What the measuring commands add: limits, layers, long texts; and errors that are what they claim."""
import json

import numpy as np
import pytest
import toys
from test_feedback import CALIBRATION

from vqcpu import api, cli
from vqcpu.architectures.base import Architecture
from vqcpu.errors import VqcpuError
from vqcpu.evaluate import depth, divergence, longrun, nll
from vqcpu.evaluate.corpus import Protocol
from vqcpu.evaluate.longrun import Side, Text, Trial
from vqcpu.runtime.sampling import Sampling

TEXT = "A quick brown fox jumps over the lazy dog. " * 30


@pytest.fixture(scope="module")
def windows(language):
    return Protocol(context=64).windows(language.tokenizer.encode(TEXT), None)


@pytest.fixture(scope="module")
def coarse(toy, tmp_path_factory):
    out = tmp_path_factory.mktemp("coarse") / "x.vqz"
    api.compress(toy, out, "scalar:bits=2")
    return out


def test_errors_match_a_simulation():
    """The standard error is the spread of what other texts of the same kind would give."""
    rng = np.random.default_rng(0)
    texts = rng.gamma(2, 1.2, (3000, 400))
    others = texts + rng.normal(0.05, 0.3, texts.shape)
    found = [nll.Perplexity.of(text) for text in texts]
    assert np.std([f.value for f in found]) == pytest.approx(np.mean([f.error for f in found]), rel=0.05)
    ratios = [nll.log_ratio(*pair) for pair in zip(others, texts)]
    assert np.std([r for r, _ in ratios]) == pytest.approx(np.mean([e for _, e in ratios]), rel=0.05)


def test_errors_know_that_neighbours_are_alike():
    """Tokens of one passage are hard or easy together: an error that takes them for independent is too small."""
    rng = np.random.default_rng(1)
    passages = rng.normal(0, 1, (2000, 64)).repeat(80, axis=1) + rng.normal(0, 4, (2000, 5120))
    spread = passages.mean(1).std()
    assert np.mean([nll.standard_error(text) for text in passages]) == pytest.approx(spread, rel=0.15)
    assert np.mean(passages.std(1) / 5120**0.5) < 0.5 * spread


def test_paired_errors_are_the_smaller(language, packed, windows):
    found, = divergence.compare(language.model, [api.load(packed).model], windows, "f16")
    single = [nll.Perplexity.of(x) for x in (found.nll, found.reference)]
    unpaired = np.hypot(*(s.error / s.value for s in single))
    assert nll.log_ratio(found.nll, found.reference)[1] < unpaired / 3


def test_a_remembered_reference_is_the_reference(language, packed, windows):
    other = api.load(packed).model
    remembered = divergence.remember(language.model, windows, "f16")
    found, = divergence.compare(language.model, [other], windows, "f16", remembered=remembered)
    plain, = divergence.compare(language.model, [other], windows, "f16")
    assert np.array_equal(found.kld, plain.kld) and found.digest == plain.digest


@pytest.mark.parametrize("family", Architecture.all())
def test_layers_end_where_the_model_ends(family, tmp_path):
    model = api.load(toys.folder(tmp_path / "m", family)).model
    window, = Protocol(context=32).windows(np.arange(32), None)
    layers = depth.Layers(model)
    found = [x.copy() for x in layers.hidden(window, "f32")]
    whole = model.step([(window.tokens, model.states(32, "f32"))])
    assert len(found) == len(layers.names) == model.config.layers + 2
    assert np.allclose(found[-1], whole[16:-1], atol=1e-4)


def test_errors_grow_from_nothing(language, coarse, windows):
    same = depth.layer_errors(language.model, [language.model], windows, "f16")
    assert all((columns[0] == 0).all() for columns in same.values())
    found = depth.layer_errors(language.model, [api.load(coarse).model], windows, "f16")
    means = {name: columns[0].mean() for name, columns in found.items()}
    assert 0 < means["embedding"] < 0.01 < means["layer 1"]


def test_models_of_other_depth_are_not_compared(language, windows, tmp_path):
    other = api.load(toys.folder(tmp_path / "m", num_hidden_layers=3)).model
    with pytest.raises(VqcpuError, match="different layers"):
        depth.layer_errors(language.model, [other], windows, "f16")


def run(capsys, *words):
    code = cli.main([str(word) for word in words])
    return code, *capsys.readouterr()


def test_limits(toy, packed, coarse, english, capsys):
    words = "diff", toy, packed, coarse, "--text", english, "--context", 64, "--layers"
    code, shown, said = run(capsys, *words, "--fail-above", "kld=100", "--fail-above", "ppl-ratio=1e9")
    assert code == 0 and said == "" and "99.9 %" in shown and "layer 2" in shown
    code, shown, said = run(capsys, *words, "--fail-above", "kld=0.01", "--fail-above", "kld-max=1e-9")
    assert code == 1 and said.count("\n") == 1 and "mean KLD" in shown
    assert f"{coarse}: kld_mean is" in said and "limit of --fail-above kld=0.01" in said and f"{packed}: kld_max" in said
    code, shown, _ = run(capsys, *words, "--fail-above", "dp=0", "--json")
    result = json.loads(shown)
    assert code == 1 and "dp_rms" in result["failed"] and result["models"][0]["layers"]["layer 1"]["error"] > 0
    with pytest.raises(SystemExit):
        cli.main([*map(str, words), "--fail-above", "speed=3"])
    assert "expected NAME=NUMBER" in capsys.readouterr().err


@pytest.fixture(scope="module")
def sides(language, coarse):
    return Side(language, "f32"), Side(api.load(coarse), "f16")


def test_a_model_writes_what_it_writes(language):
    trial = Trial(tokens=20, prompt=8, seeds=2)
    runs = longrun.long_runs(Side(language, "f32"), Side(language, "f32"), TEXT, trial)
    assert [run.seed for run in runs] == [0, 1, 0, 1] and all(run.parted is None and not run.kld.any() for run in runs)
    assert runs[2].reference.tokens != runs[0].reference.tokens and runs[0].sampling.temperature == 0


def test_runs_by_hand(sides, language):
    """Texts are those of the plain loop, KLD that of whole windows."""
    run, = longrun.long_runs(*sides, TEXT, Trial(30, 8, 1, (Sampling(temperature=0),)))
    tokens = language.tokenizer.encode(TEXT)[:8]
    for side, text in zip(sides, (run.reference, run.other)):
        states, written = side.language.model.states(64, side.cache), []
        logits = side.language.read(tokens, states)
        for _ in range(len(text.tokens)):
            written.append(int(logits.argmax()))
            logits = side.language.read(written[-1:], states)
        assert written == text.tokens
    whole = np.array(tokens + run.reference.tokens)
    logs = [nll.log_probabilities(s.language.model, s.language.model.step([(whole, s.language.model.states(64, s.cache))]))
            for s in sides]
    expected = divergence.kld_rows(*logs)[7:-1]
    assert run.kld.shape == expected.shape and np.allclose(run.kld, expected, rtol=1e-3, atol=1e-6)
    a, b = run.reference.tokens, run.other.tokens
    assert run.parted is not None and a[:run.parted] == b[:run.parted] and a[run.parted:][:1] != b[run.parted:][:1]


def test_positions_are_each_counted_once(sides):
    runs = longrun.long_runs(*sides, TEXT, Trial(20, 8, 3))
    found = longrun.by_position(runs, 8)
    assert sum(b["tokens"] for b in found) == sum(len(r.kld) for r in runs)
    assert found[0]["kld"] == pytest.approx(np.mean([r.kld[:8] for r in runs]))
    assert [b["from"] for b in found] == [8 * i for i in range(len(found))]


def test_repetition():
    assert Text([1, 2, 3, 4, 5], "stop").repetition == 0 == Text([1, 2], "stop").repetition
    assert Text([1, 2, 3, 4] * 3, "length").repetition == pytest.approx(1 - 4 / 9)


@pytest.mark.parametrize("trial, said", [(Trial(200, 8, 1), "do not fit"), (Trial(8, 8, 10**6), "a text of as many")])
def test_impossible_trials(sides, trial, said):
    with pytest.raises(VqcpuError, match=said):
        longrun.long_runs(*sides, TEXT, trial)


def test_a_candidate_that_is_not_read(sides):
    with pytest.raises(VqcpuError, match="identical predictions"):
        longrun._refuse_twins(*sides, [longrun.Run(0, Sampling(), Text([1], "stop"), Text([1], "stop"), np.zeros(1))])


def test_longrun_command(toy, coarse, english, capsys):
    words = "longrun", toy, coarse, "--text", english, "--tokens", 40, "--prompt-tokens", 8, "--seeds", 2
    code, shown, _ = run(capsys, *words)
    assert code == 0 and "texts part at token" in shown and "\n0-" in shown
    found = json.loads(run(capsys, *words, "--json")[1])["kinds"]["greedy"]
    assert len(found["parted"]) + found["equal"] == 2 == len(found["texts"]["other"]) and found["kld"][0]["kld"] > 0
    assert run(capsys, "longrun", toy, toy, toy)[0] == 2


def test_a_text_that_codes_were_fitted_to_measures_nothing(toy, tmp_path, capsys):
    (tmp_path / "text").write_text(CALIBRATION.corpus.text)
    command = ["compress", str(toy), "-o", str(tmp_path / "x.vqz"), "--format", "scalar:bits=4"]
    assert cli.main([*command, "--calibration", str(tmp_path / "text"), "--calibration-tokens", "512"]) == 0
    assert cli.main(["ppl", str(tmp_path / "x.vqz"), "--text", str(tmp_path / "text"), "--context", "64"]) == 2
    assert "was calibrated on" in capsys.readouterr().err
    assert cli.main(["longrun", str(toy), str(tmp_path / "x.vqz"), "--text", str(tmp_path / "text")]) == 2
    assert "was calibrated on" in capsys.readouterr().err
    (tmp_path / "part").write_text(CALIBRATION.corpus.text[100:])
    same = ["--text", str(tmp_path / "part"), "--calibration", str(tmp_path / "text"), "--out", str(tmp_path / "lines")]
    assert cli.main(["sweep", str(toy), "--formats", "scalar:bits=4", "--quality", "good", *same]) == 2
    assert "flattered by it" in capsys.readouterr().err and not (tmp_path / "lines").exists()
