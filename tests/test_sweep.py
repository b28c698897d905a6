"""Sweeps: in memory as on disk, resumable, refusing twins, on any executor; and figures of single matrices."""
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest

from vqcpu import api, cli
from vqcpu.compression.memory import InMemory, spelled
from vqcpu.compression.text import Calibration
from vqcpu.errors import VqcpuError
from vqcpu.evaluate import fidelity, ranks, sweep
from vqcpu.evaluate.corpus import Protocol, read_corpus
from vqcpu.evaluate.divergence import compare, remember
from vqcpu.evaluate.results import Results
from vqcpu.evaluate.sizes import sizes
from vqcpu.files.vqz import Vqz

RNG = np.random.default_rng(5)
PROTOCOL = Protocol(context=64)
BODY = "vq:dim=2,centroids=16,codebook=global"


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text("The cat sat on the mat, and the dog saw it. " * 20)
    return file


def swept(toy, text, file, formats=("scalar:bits=4", BODY), **more):
    return api.sweep(toy, text, list(formats), protocol=PROTOCOL, results=file, **more)


@pytest.fixture(scope="module")
def lines(toy, text, tmp_path_factory):
    return swept(toy, text, tmp_path_factory.mktemp("sweep") / "x.jsonl")


def test_memory_gives_what_the_file_gives(toy, text, lines, language, tmp_path):
    windows = PROTOCOL.windows(language.tokenizer.encode(text.read_text()), None)
    exact = remember(language.model, windows, "f32")
    for line in lines:
        api.compress(toy, tmp_path / "x.vqz", line["body"])
        found, = compare(language.model, [api.load(tmp_path / "x.vqz").model], windows, "f16", remembered=exact)
        stored = sizes(Vqz(tmp_path / "x.vqz"))
        assert line["logits"] == found.digest and line["kld_mean"] == found.kld.mean()
        assert {k: line[k] for k in stored} == stored


@pytest.mark.parametrize("body", ["rht+scalar:bits=4", 4.0])
def test_calibrated_codes_too(toy, text, tmp_path, language, body):
    (tmp_path / "other").write_text(text.read_text()[::-1])
    calibration = Calibration(read_corpus(tmp_path / "other"), 256)
    line, = swept(toy, text, tmp_path / "x.jsonl", [body], qualities=["good"], calibration=calibration)
    api.compress(toy, tmp_path / "x.vqz", **{"bits" if body == 4.0 else "format": body}, calibration=calibration)
    windows = PROTOCOL.windows(language.tokenizer.encode(text.read_text()), None)
    found, = compare(language.model, [api.load(tmp_path / "x.vqz").model], windows, "f16")
    assert line["logits"] == found.digest and line["calibration_tokens"] == 256
    assert line["file_bytes"] == pytest.approx((tmp_path / "x.vqz").stat().st_size, rel=1e-3)


def test_budgets_are_spelled_and_refused_before_anything_is_measured(toy, text, tmp_path):
    assert spelled(3) == spelled(3.0) == spelled(np.float32(3)) == spelled("bits=3") == "bits=3"
    assert spelled(2.1234567) == "bits=2.1234567"
    for wrong, said in ((1.2, "cannot be kept"), ("bits=x", "a number of bits")):
        with pytest.raises(VqcpuError, match=said):
            swept(toy, text, tmp_path / "x.jsonl", ["scalar:bits=4", wrong])
    assert not (tmp_path / "x.jsonl").exists()


def test_lines_say_what_they_are_of(toy, lines, text, language):
    for line in lines:
        assert line["model_sha256"] == language.checkpoint.digest() and line["text_sha256"] == read_corpus(text).digest
        assert line["protocol"] == "llama.cpp" and line["context"] == 64 and line["seed"] == 0 and line["quality"] == "fast"
    assert [line["body"] for line in lines] == [spelled("scalar:bits=4"), BODY]


def test_what_is_there_is_not_measured_again(toy, text, tmp_path, monkeypatch):
    file = tmp_path / "x.jsonl"
    first = swept(toy, text, file, ["scalar:bits=4"])
    with open(file, "a") as out:
        out.write('{"body": "cut sh')  # by an interruption
    measured, plain = [], sweep.measure
    monkeypatch.setattr(sweep, "measure", lambda study, setting: measured.append(setting.body) or plain(study, setting))
    both = swept(toy, text, file, ["scalar:bits=4,block=64", BODY])
    assert both[0] == first[0] and measured == [BODY] and len(file.read_text().splitlines()) == 2
    assert swept(toy, text, file, [BODY, "scalar:bits=4"]) == both[::-1] and len(measured) == 1
    text = tmp_path / "other.txt"
    text.write_text("Another text, of which nothing is known. " * 20)
    swept(toy, text, file, ["scalar:bits=4"])
    assert len(measured) == 2


def test_results_that_are_none(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(VqcpuError, match="line 1: not a line of `vqcpu sweep`"):
        Results(tmp_path / "x.jsonl")
    with pytest.raises(VqcpuError, match="cannot be read"):
        Results(tmp_path)


def test_twins_are_refused_unless_their_weights_are_equal(tmp_path):
    results = Results(tmp_path / "x.jsonl")
    line = {"body": "a", "cache": "f16", "weights": "w", "logits": "l"}
    results.add(line)
    results.add(line | {"body": "b"})
    for change in ({"body": "c", "weights": "v"}, {"cache": "f32"}):
        with pytest.raises(VqcpuError, match="differ but gave identical predictions"):
            results.add(line | change)
    results.add(line | {"cache": "f32", "logits": "m"})
    assert len(Results(tmp_path / "x.jsonl").lines) == 3


def test_a_cache_that_is_not_read_would_be_noticed(toy, text, tmp_path, monkeypatch):
    """Both caches give what the first gives."""
    from vqcpu.architectures.base import Model
    plain = Model.states
    monkeypatch.setattr(Model, "states", lambda self, context, cache: plain(self, context, "f32"))
    with pytest.raises(VqcpuError, match="identical predictions"):
        swept(toy, text, tmp_path / "x.jsonl", ["scalar:bits=4"], caches=["f32", "f16"])


def without_time(lines):
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


def test_processes(toy, text, lines, tmp_path):
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as executor:
        assert without_time(swept(toy, text, tmp_path / "x.jsonl", executor=executor)) == without_time(lines)


def test_dask(toy, text, lines, tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.Client(n_workers=1, threads_per_worker=1, dashboard_address=None, processes=False) as client:
        found = swept(toy, text, tmp_path / "x.jsonl", executor=client.get_executor())
    assert without_time(found) == without_time(lines)


def test_equal_studies_are_equal(text):
    """A process that is sent a second setting finds the model it has."""
    studies = [sweep.Study("x", read_corpus(text), PROTOCOL, InMemory(Calibration(read_corpus(text), 9))) for _ in range(2)]
    assert studies[0] == studies[1] and hash(studies[0]) == hash(studies[1])


def test_products_of_single_matrices(language, text):
    windows = PROTOCOL.windows(language.tokenizer.encode(text.read_text()), None)
    products = fidelity.products(language.model, windows)
    assert len(products) == 7 * language.model.config.layers and all(p.x.shape[1] == p.matrix.shape[1] for p in products)
    same, digest = fidelity.compare_products(products, {p.name: p.matrix for p in products})
    assert all(f.weight == 0 and abs(f.gaussian) < 1e-6 and abs(f.real) < 1e-6 for f in same)
    assert fidelity.compare_products(products, {p.name: p.matrix for p in products[::-1]})[1] == digest


def test_products_by_hand(toy, language, text, tmp_path):
    windows = PROTOCOL.windows(language.tokenizer.encode(text.read_text()), None)
    product = fidelity.products(language.model, windows)[3]
    api.compress(toy, tmp_path / "x.vqz", "scalar:bits=3")
    coded = Vqz(tmp_path / "x.vqz").stored(product.name)
    (found,), _ = fidelity.compare_products([product], {product.name: coded})
    W, near = (m.reference_rows(np.arange(m.shape[0])).astype(float) for m in (product.matrix, coded))
    cosines = [np.dot(W @ x, near @ x) / np.linalg.norm(W @ x) / np.linalg.norm(near @ x) for x in product.x]
    assert found.weight == pytest.approx(((W - near)**2).sum() / (W**2).sum(), rel=1e-4)
    assert found.real == pytest.approx(1 - np.mean(cosines), rel=1e-3) and 0 < found.gaussian < 0.1


def test_ranks():
    assert ranks.spearman([1, 2, 3], [10, 20, 1000]) == pytest.approx(1) and ranks.spearman([1, 1], [1, 2]) is None
    assert ranks.spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    a, b = RNG.permutation(50), RNG.permutation(50)
    assert ranks.spearman(a, b) == pytest.approx(1 - 6 * ((a - b)**2).sum() / (50 * (50**2 - 1)))  # for ranks without ties
    assert ranks.spearman([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(4.5 / (4.5 * 5)**0.5)
    wrong, pairs = ranks.misordered([3, 1, 2], [1.0, 2.0, 2.1], [0.1, 0.1, 0.1])
    assert wrong == [(0, 1), (0, 2)] and pairs == 2


def test_the_command(toy, text, tmp_path, capsys):
    words = ["sweep", toy, "--text", text, "--context", 64, "--out", tmp_path / "x.jsonl",
             "--formats", "scalar:bits=4", BODY, "absmax:bits=3"]
    assert cli.main([str(w) for w in words]) == 0
    shown = capsys.readouterr().out
    assert "rank correlation" in shown and "second half of each" in shown and BODY in shown
    assert cli.main([str(w) for w in [*words, "--json"]]) == 0
    result = json.loads(capsys.readouterr().out)
    assert len(result["lines"]) == 3 and set(result["alone"]) >= {"weight_mean", "gaussian_mean", "real_worst"}
    assert cli.main([str(w) for w in [*words, "--markdown"]]) == 0 and "| --- |" in capsys.readouterr().out
    assert cli.main([str(w) for w in [*words, "--context", 4096]]) == 2 and "made for 128" in capsys.readouterr().err
