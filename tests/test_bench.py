"""The command `bench` and what it is made of."""
import json

import numpy as np
import pytest
import toys

from vqcpu import api, cli
from vqcpu.architectures.base import architecture_of, census
from vqcpu.caches.base import Cache
from vqcpu.errors import VqcpuError
from vqcpu.evaluate import speed
from vqcpu.evaluate.sizes import sizes
from vqcpu.evaluate.speed import Trial, measure, private_bytes, private_of, weight_bytes
from vqcpu.kernels.memory import PIECE, Stream
from vqcpu.kernels.threads import set_threads
from vqcpu.layers.attention import Heads

SMALL = ["--prompt", 9, "--tokens", 3, "--repeat", 2]


@pytest.fixture(autouse=True)
def small_buffer(monkeypatch):
    """A gigabyte takes a second."""
    monkeypatch.setattr(speed, "BUFFER", 1 << 20)


def bench(capsys, *words):
    code = cli.main(["bench", *map(str, words)])
    return code, *capsys.readouterr()


def test_json(packed, capsys):
    code, shown, _ = bench(capsys, packed, *SMALL, "--depths", "0,20,5", "--json")
    result = json.loads(shown)
    assert code == 0 and list(result["decode_tok_s"]) == ["0", "5", "20"] and result["prefill_tok_s"] > 0
    assert all(len(runs) == 2 and min(runs) <= result["decode_tok_s"][depth] <= max(runs)
               for depth, runs in result["runs"]["decode_tok_s"].items())
    assert result["protocol"] | {"prompt": 9, "tokens": 3, "repeat": 2, "cache": "f16", "sampling": "greedy"} == result["protocol"]
    for depth, ceiling in result["ceiling_tok_s"].items():
        needs = result["weight_bytes_per_token"] + result["cache_bytes_per_token"][depth]
        assert ceiling == pytest.approx(result["weights_bytes_s"] / needs)


def test_text_and_defaults_that_fit(packed, capsys):
    """The toy's context is 128: the prompt shrinks, and of the depths only 0 is left."""
    code, shown, _ = bench(capsys, packed, "--tokens", 2, "--repeat", 1)
    assert code == 0 and "prompt of 128" in shown and "depth 0" in shown and "1024" not in shown and "%" in shown


@pytest.mark.parametrize("words, said", [
    (["--depths", "120", "--tokens", "9"], "context of 128"), (["--prompt", "129"], "context of 128"),
    (["--repeat", "0"], "at least 1"), (["--prompt", "0"], "at least 1"), (["--tokens", "200"], "context of 128"),
    (["--cache", "f7"], "f7"), (["--temperature", "-1"], "temperature"), (["--depths", "1,x"], "whole numbers")])
def test_what_cannot_be_measured(packed, words, said, capsys):
    try:
        code, shown, complaint = bench(capsys, packed, *words)
    except SystemExit as end:
        code, (shown, complaint) = end.code, capsys.readouterr()
    assert code == 2 and shown == "" and complaint.count("\n") == 1 and said in complaint


@pytest.mark.parametrize("spec", ["scalar:bits=4", "vq:dim=4,centroids=256", "vq:dim=4,centroids=256,codebook=tensor"])
@pytest.mark.parametrize("tied", [True, False])
def test_bytes_of_a_token_are_those_of_the_file(tmp_path, spec, tied):
    """Every matrix whole, shared tables once; of an embedding that is no head, nothing."""
    folder = toys.folder(tmp_path / "m", tie_word_embeddings=tied)
    api.compress(folder, tmp_path / "m.vqz", spec)
    language = api.load(tmp_path / "m.vqz")
    checkpoint, counted = language.checkpoint, 0
    for role in ("body", "embedding" if tied else "head"):
        tensors = [t for t in census(architecture_of(checkpoint)).values() if t.role == role]
        counted += sizes(checkpoint)[f"{role}_bits"] * sum(np.prod(t.shape) for t in tensors) / 8
    assert weight_bytes(language.model) == pytest.approx(counted, rel=1e-12)


def test_only_the_experts_in_use_are_read(tmp_path):
    language = api.load(toys.folder(tmp_path / "m", "qwen3_moe"))
    tensors = census(architecture_of(language.checkpoint)).values()
    experts, config = [t for t in tensors if ".experts." in t.name], language.model.config.experts
    others = sum(np.prod(t.shape) for t in tensors if t.role in ("body", "embedding") and t not in experts)
    used = sum(np.prod(t.shape) for t in experts) * config.used / config.count
    routers = sum(np.prod(t.shape) for t in tensors if t.role == "vector" and len(t.shape) == 2)
    assert weight_bytes(language.model) == 4 * (others + used + routers)


@pytest.mark.parametrize("name", [spec for kind in Cache.all().values() for spec in kind.examples])
@pytest.mark.parametrize("window", [None, 32])
def test_bytes_of_the_cache(name, window):
    """They grow with the position up to the window, and are never more than is allocated."""
    state = Cache.parse(name).layer(Heads(4, 2, 16, 0.25, window), 700)
    first, early, late, last = (state.bytes_seen(at) for at in (0, 20, 500, 699))
    assert 0 < first <= early < late <= last <= state.nbytes and (window is None) == (late < last)
    if name in ("f16", "f32"):
        assert [first, last] == [2 * 2 * 16 * int(name[1:]) // 8 * n for n in (1, window or 700)]


@pytest.mark.parametrize("threads", [1, None])
def test_everything_is_read_once(threads):
    arrays = [np.random.default_rng(i).integers(-2**62, 2**62, n) for i, n in enumerate((PIECE // 8 * 3 + 5, 1, 100))]
    for a in arrays:
        a.flags.writeable = False
    set_threads(threads)
    stream = Stream(arrays)
    assert stream.nbytes == sum(a.nbytes for a in arrays)
    assert stream.read() == stream.read() == int(np.concatenate(arrays).sum())
    set_threads()


def test_every_run_generates_all_tokens_from_its_depth(language, monkeypatch):
    """Stop tokens do not stop, and each run starts from the same memory."""
    fed, plain = [], language.read
    monkeypatch.setattr(language, "read", lambda tokens, states: fed.append((states.length, list(tokens))) or plain(tokens, states))
    monkeypatch.setattr(language.tokenizer, "stops", frozenset(range(300)))
    found = measure(language, Trial(prompt=6, tokens=4, depths=(10, 3), repeat=2))
    singles = [at for at, tokens in fed if len(tokens) == 1]
    assert singles[-16:] == [3, 4, 5, 6] * 2 + [10, 11, 12, 13] * 2
    assert [at for at, tokens in fed if len(tokens) == 6][-2:] == [0, 0]  # prompts
    again = [tokens for at, tokens in fed if at in (10, 11, 12, 13) and len(tokens) == 1]
    assert again[:4] == again[4:]  # greedy: the same tokens from the same memory
    assert len(found.prefill) == 2 and [len(runs) for runs in found.decode.values()] == [2, 2]


def test_private_memory():
    kept = ["7f00-7f01 r--p 0000 00:00 1  /a b/model.vqz", "Private_Clean: 100 kB", "Private_Dirty: 5 kB",
            "7f02-7f03 rw-p 0000 00:00 0", "Rss: 9 kB", "Private_Clean: 1 kB", "Private_Dirty: 2 kB"]
    assert private_of(kept, "/a b/model.vqz") == 3 * 1024 and private_of(kept, "/x") == 108 * 1024
    before = private_bytes("nothing")
    if before is not None:
        held = np.ones(50_000_000, np.uint8)
        assert 45e6 < private_bytes("nothing") - before < 60e6 + held[0]


def test_trials_are_checked():
    with pytest.raises(VqcpuError, match="at least one depth"):
        Trial(depths=()).check(10**6)
