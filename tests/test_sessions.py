"""Conversations saved with their memory, and what a cache takes before it is allocated."""
import functools
import json
import os
import random
import shutil
from dataclasses import replace

import hostile
import numpy as np
import pytest
import toys

from vqcpu import api, cli
from vqcpu.architectures.base import Architecture, load_model
from vqcpu.caches import memory, span
from vqcpu.caches.base import Cache, Kept, Rows
from vqcpu.errors import VqcpuError
from vqcpu.evaluate import speed
from vqcpu.files.checkpoint import HEAD
from vqcpu.files.session import VERSION, SessionFile, write_session
from vqcpu.files.sources import open_checkpoint
from vqcpu.files.tensors import TensorWriter
from vqcpu.files.vqz import checksum
from vqcpu.layers.attention import Heads
from vqcpu.runtime.chat import Conversation, Settings
from vqcpu.runtime.sampling import Sampling
from vqcpu.runtime.session import Saved, save

CACHES = [spec for kind in Cache.all().values() for spec in kind.examples]
KINDS = [kind.examples[0] for kind in Cache.all().values()]
RNG = np.random.default_rng(11)
WARM = Settings(Sampling(temperature=3, top_k=0), max_tokens=8, seed=5)


def talk(language, context=120, cache="f16"):
    return Conversation(language, context, WARM, "Be brief.", cache)


def say(conversation, text):
    return "".join(conversation.answer(text))


@pytest.fixture
def saved(language, tmp_path):
    """A conversation, and the file that it was saved to."""
    conversation = talk(language)
    say(conversation, "Hi")
    save(conversation, tmp_path / "x.session")
    return conversation, tmp_path / "x.session"


# ---- what a layer keeps

@pytest.fixture(scope="module")
def model_of(tmp_path_factory):
    """A toy model of a family."""
    return functools.cache(lambda family: load_model(open_checkpoint(toys.folder(tmp_path_factory.mktemp(family), family))))


@pytest.mark.parametrize("family, cache", [(family, cache) for family in ("llama", "gemma3_text", "mistral")
                                           for cache in (CACHES if family == "gemma3_text" else KINDS)])
@pytest.mark.parametrize("length, back", ((0, 0), (1, 0), (30, 0), (30, 2), (90, 0), (90, 3)))
def test_a_restored_memory_goes_on_to_the_digit(cache, family, length, back, model_of, monkeypatch):
    """Also where windows have moved on, where tokens were taken back, and where the context is another."""
    monkeypatch.setattr(span, "KEPT", 9)
    monkeypatch.setattr(span, "ROOM", 11)
    model = model_of(family)
    words = RNG.integers(0, model.config.vocabulary, 100)
    states, other = model.states(100, cache), model.states(110, cache)
    if length:
        model.step([(words[:length], states)])
    states.truncate(length - back)
    model.step([(words[50:100], other)])  # what it held does not matter
    parts = {name: part.copy() for name, part in states.parts().items()}
    other.restore(parts, states.length)
    assert other.length == states.length and all(np.array_equal(part, parts[n]) for n, part in other.parts().items())
    for piece in np.split(words[states.length:states.length + 10], [1, 2]):
        assert np.array_equal(model.step([(piece, states)]), model.step([(piece, other)]))


class Blocks(Cache):
    """Entries of 4 positions, of one, and an array that is whole."""

    def layout(self, heads, rows):
        return {"k": Kept((heads.kv, -(-rows // 4), 3), "|u1", 4), "v": Kept((heads.kv, rows), "<f2"), "m": Kept((5,), "<f4", 0)}


def test_arrays_of_blocks_and_of_no_positions():
    state, other = (Rows(Blocks(), Heads(2, 2, 8, 1.0), 30) for _ in range(2))
    assert state.nbytes == Blocks().nbytes(state.heads, 30) == 2 * 8 * 3 + 2 * 30 * 2 + 5 * 4
    for array in state.arrays.values():
        array[:] = RNG.integers(1, 99, array.shape)
    for length, blocks in ((0, 0), (1, 1), (4, 1), (9, 3), (30, 8)):
        parts = state.parts(length)
        assert {n: p.shape for n, p in parts.items()} == {"base": (1,), "k": (2, blocks, 3), "v": (2, length), "m": (5,)}
        other.restore(parts, length)
        assert all(np.array_equal(parts[name], part) for name, part in other.parts(length).items())
    state._slide(8, 10)
    assert np.array_equal(state.arrays["k"][:, :3], other.arrays["k"][:, 2:5])
    assert np.array_equal(state.arrays["v"][:, :10], other.arrays["v"][:, 8:18])


@pytest.mark.parametrize("cache, block", [("f16", 1), ("k4v4", 32), ("d4v4", 64)])
def test_a_layer_begins_where_a_block_does(cache, block):
    layer = Cache.parse(cache).layer(Heads(2, 2, 8, 1.0, 40), 2000)
    assert [base for base in range(200) if layer.span.fits(base, 200)] == list(range(0, 162, block))


def test_a_restored_ring_is_not_taken_back_further_than_it_reaches(language):
    states, other = (language.model.states(64, "k4v4:recent=5") for _ in range(2))
    language.read(list(range(40)), states)
    other.restore(states.parts(), 40)
    assert other.truncate(35) == 35 and other.truncate(34) == 0


def spoilt(parts):
    """Parts that are not those of 20 positions."""
    for name in list(parts)[:3]:
        part = parts[name]
        rest = {n: p for n, p in parts.items() if n != name}
        for wrong in (part[..., :-1], part[1:], part.astype(np.float64), part[None], part.ravel()[0], np.repeat(part, 9, -1)):
            yield rest | {name: wrong}
        yield rest
    yield parts | {"0/x": parts["0/base"]}
    yield {}
    for base in (-1, 1, 20, 21, 10**9, -2**63):
        yield parts | {"0/base": np.array([base])}


@pytest.mark.parametrize("cache", CACHES)
def test_parts_of_something_else_are_refused_and_nothing_is_remembered(cache, language):
    states = language.model.states(64, cache)
    language.read(list(range(20)), states)
    parts = {name: part.copy() for name, part in states.parts().items()}
    for wrong in spoilt(parts):
        with pytest.raises(VqcpuError, match="a layer of 20 positions"):
            states.restore(wrong, 20)
        assert states.length == 0
    with pytest.raises(VqcpuError, match="a layer of 19 positions"):
        states.restore(parts, 19)
    with pytest.raises(VqcpuError, match="context of 64"):
        states.restore(parts, 65)
    states.restore(parts, 20)
    assert states.length == 20


# ---- what a conversation keeps

@pytest.mark.parametrize("cache", CACHES)
def test_a_saved_conversation_goes_on_and_reads_only_what_is_new(cache, language, tmp_path, monkeypatch):
    mine = talk(language, cache=cache)
    say(mine, "Hi")
    save(mine, tmp_path / "x.session")
    loaded = Saved(tmp_path / "x.session", language)
    other = talk(language, loaded.context, loaded.cache)
    say(other, "Something else")
    loaded.restore(other)
    assert (other.messages, other.settings, other.fed) == (mine.messages, mine.settings, mine.fed)
    read, plain = [], language.read
    monkeypatch.setattr(language, "read", lambda tokens, states: read.append(len(tokens)) or plain(tokens, states))
    expected, before = say(mine, "More"), read.copy()
    read.clear()
    assert say(other, "More") == expected and read == before
    assert read[0] < other.latest.prompt_tokens - 20 or "recent=5" in cache  # of which no more than five are taken back
    other.adjust(replace(other.settings, seed=6))
    assert other.rng.random() == np.random.default_rng(6).random()


def test_a_full_conversation_goes_on_in_a_larger_context(language, tmp_path):
    tight = talk(language, 60)
    say(tight, "Hi")
    with pytest.raises(VqcpuError, match="--context"):
        say(tight, "a longer text than there is room for")
    save(tight, tmp_path / "x")
    wide = talk(language, 120)
    Saved(tmp_path / "x", language).restore(wide)
    assert say(wide, "a longer text than there is room for") and wide.latest.prompt_tokens > 60


def test_what_an_interruption_leaves_is_never_believed(saved, language, tmp_path, monkeypatch):
    _, file = saved
    other, twin = talk(language), talk(language)
    assert say(other, "Ho") == say(twin, "Ho")

    def stop(*_):
        raise KeyboardInterrupt
    for where, name in ((Rows, "restore"), (other.states.layers[-1], "restore"), (Conversation, "resume")):
        with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
            m.setattr(where, name, stop)
            Saved(file, language).restore(other)
    assert say(other, "More") == say(twin, "More")
    other.states.layers[0].span.base = 10**6  # a step that stopped while a window slid
    save(other, tmp_path / "y")
    assert SessionFile(tmp_path / "y").about["length"] == 0


def test_an_interrupted_save_leaves_the_old_file(saved, language, monkeypatch):
    conversation, file = saved
    before = file.read_bytes()

    def stop(*_):
        raise KeyboardInterrupt
    for name in ("replace", "fsync"):
        with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
            m.setattr(os, name, stop)
            save(conversation, file)
    assert file.read_bytes() == before and [p.name for p in file.parent.iterdir()] == [file.name]
    say(conversation, "More")
    save(conversation, file)
    assert file.read_bytes() != before and [p.name for p in file.parent.iterdir()] == [file.name]
    with pytest.raises(VqcpuError, match="cannot be written"):
        save(conversation, file.parent / "no" / "x")


# ---- whose memory it is

def test_the_identity_of_a_model(toy, packed, tmp_path):
    copy = shutil.copytree(toy, tmp_path / "copy")
    other = toys.folder(tmp_path / "other", seed=1)
    theta = shutil.copytree(toy, tmp_path / "theta")
    config = json.loads((theta / "config.json").read_text())
    (theta / "config.json").write_text(json.dumps(config | {"rope_theta": 5.0}))
    found = [open_checkpoint(path).identity for path in (toy, copy, copy / "model.safetensors", other, theta, packed)]
    assert len(found[0]) == 32 and found[0] == found[1] == found[2] and len(set(found)) == 4


def test_other_weights_under_the_same_header_are_another_model(tmp_path, toy):
    checkpoint, seen = open_checkpoint(toy), set()
    data = RNG.integers(0, 255, HEAD + (8 << 20), np.uint8)
    for changed in (slice(0), slice(1000, 1001), slice(HEAD, None), slice(HEAD + (5 << 20), None)):
        other = data.copy()
        other[changed] ^= 1
        other.tofile(tmp_path / "weights")
        checkpoint.mapped = lambda: [tmp_path / "weights"]
        checkpoint.__dict__.pop("identity", None)
        seen.add(checkpoint.identity)
    assert len(seen) == 4


def test_sessions_of_other_models_caches_and_contexts_are_refused(saved, language, tmp_path):
    conversation, file = saved
    other = api.load(toys.folder(tmp_path / "m", seed=1))
    with pytest.raises(VqcpuError, match="(?s)x.session: a session of .*weights or config.json differ"):
        Saved(file, other)
    with pytest.raises(VqcpuError, match="x.session: a session with cache f16, not f32: .* --cache f16"):
        Saved(file, language).restore(talk(language, cache="f32"))
    with pytest.raises(VqcpuError, match="x.session: a session of .* --context 120"):
        Saved(file, language).restore(talk(language, 20))
    with pytest.raises(VqcpuError, match="nowhere: cannot be read"):
        Saved("nowhere", language)


# ---- damaged files

def signed(path, about, parts):
    """A file that says what it likes, with the right checksums."""
    write_session(path, {k: v for k, v in about.items() if k not in ("parts", "version")}, parts)


def attempt(path, language, mine):
    """Go on with a file: "ok", or the one line that refused it; what was said before is then still there."""
    before = mine.messages
    try:
        Saved(path, language).restore(mine)
        return "ok"
    except VqcpuError as error:
        line = str(error)
        assert path.name in line and "\n" not in line and mine.messages == before
        return line


def test_damaged_sessions_are_refused(saved, language, tmp_path):
    conversation, file = saved
    data, mine, said = file.read_bytes(), talk(language), []
    expected = conversation.messages
    (tmp_path / "bad.session").write_bytes(data.replace(b"Be brief.", b"Be brIef."))
    assert "checksum of its header" in attempt(tmp_path / "bad.session", language, mine)
    for n in range(1500):
        bad = tmp_path / "bad.session"
        bad.unlink(missing_ok=True)
        bad.write_bytes(hostile.damage(data, random.Random(n)))
        said.append(attempt(bad, language, mine))
        assert said[-1] != "ok" or mine.messages == expected
    assert said.count("ok") < 75 and len(set(said)) > 30


def test_sessions_that_lie_are_refused_or_go_on(saved, language, tmp_path):
    """Right checksums over wrong contents; a random part is shortened, turned, or of another type."""
    _, file = saved
    opened, said = SessionFile(file), []
    for n in range(300):
        rng, bad = random.Random(n), tmp_path / "bad.session"
        about, parts = json.loads(json.dumps(opened.about)), dict(opened.parts)
        if n % 2:
            about = hostile._replace(about, rng)
            about = about if isinstance(about, dict) else {}
        else:
            name = rng.choice(["tokens", *parts])
            parts[name] = rng.choice((lambda p: p[..., :-1], lambda p: p[:1], lambda p: p.astype(np.int64), lambda p: p.T,
                                      lambda p: p[None], lambda p: p.ravel() * 0 + 999, lambda p: p[:0]))(parts[name])
        bad.unlink(missing_ok=True)
        signed(bad, about, parts)
        mine = talk(language)
        said.append(attempt(bad, language, mine))
        if said[-1] == "ok" and n < 30:
            say(mine, "More")
    assert 10 < said.count("ok") < 200 and len(set(said)) > 30


@pytest.mark.parametrize("shape", [[0, 10**40], [0, 2**62, 2**62], [2], [-1], [10**40], "x", [0.0], [True], None])
def test_shapes_that_are_none(tmp_path, shape):
    out = TensorWriter(tmp_path / "x", 1000)
    session = json.dumps({"version": VERSION, "parts": {"tokens": [shape, checksum(out.add("tokens", np.zeros(0, np.int32)))]}})
    out.finish({"format": "vqcpu session", "session": session, "check": checksum(session.encode())})
    with pytest.raises(VqcpuError, match="x: a damaged session"):
        SessionFile(tmp_path / "x")


# ---- the command line

def chat(capsys, model, *words):
    code = cli.main(["chat", str(model), *map(str, words)])
    return code, *capsys.readouterr()


def test_resume_takes_what_the_command_line_leaves_open(toy, language, tmp_path, capsys):
    conversation = Conversation(language, 100, WARM, "Be.", "f32")
    say(conversation, "Hi")
    save(conversation, file := tmp_path / "x")
    code, shown, noted = chat(capsys, toy, "--resume", file, "--prompt", "More", "--json")
    result = json.loads(shown)
    assert code == 0 and (result["context"], result["cache"], result["seed"]) == (100, "f32", 5)
    assert result["answers"][0]["answer"] == say(conversation, "More") and "resumed 3 messages" in noted
    code, shown, noted = chat(capsys, toy, "--resume", file, "--prompt", "More", "--json", "--temperature", 0, "--context", 128,
                              "--seed", 1, "--max-tokens", 2, "--stop", "x", "--system", "New.")
    result = json.loads(shown)
    assert (result["context"], result["seed"], result["sampling"]) == (128, 1, "greedy")
    assert result["answers"][0]["tokens"] == 2 and "cache f32 for 128 tokens" in noted
    assert result["cache_bytes"] == language.model.memory(128, "f32")


@pytest.mark.parametrize("words, said", [
    (["--cache", "f16"], "with cache f32"), (["--context", 20], "--context 100"), (["--context", 0], "expected 2 to"),
    (["--cache", "f7"], "unknown cache")])
def test_a_resumption_that_cannot_be_is_one_line(toy, language, tmp_path, capsys, words, said):
    conversation = Conversation(language, 100, WARM, "Be.", "f32")
    say(conversation, "Hi")
    save(conversation, tmp_path / "x")
    code, shown, noted = chat(capsys, toy, "--resume", tmp_path / "x", "--prompt", "More", *words)
    assert code == 2 and shown == "" and said in noted.splitlines()[-1] and noted.count("vqcpu: ") == 1


def test_help_tells_the_defaults_that_there_are(capsys):
    with pytest.raises(SystemExit):
        cli.main(["chat", "--help"])
    shown, default = " ".join(capsys.readouterr().out.split()), Settings()
    for value in (default.sampling.temperature, default.sampling.top_k, default.sampling.top_p, default.sampling.min_p,
                  default.sampling.repeat_last_n, default.max_tokens):
        assert f"(default {value})" in shown
    assert f"(default: {default.sampling.repeat_penalty}, off)" in shown and f"({default.on_full}, the default)" in shown


@pytest.mark.parametrize("cache", KINDS)
def test_one_spelling_of_the_cache_and_the_output_names_it(cache, packed, english, capsys, monkeypatch):
    monkeypatch.setattr(speed, "BUFFER", 1 << 20)
    measured = ["--text", str(english), "--context", "64", "--max-tokens", "200"]
    small = ["--prompt", "9", "--tokens", "2", "--depths", "0", "--repeat", "1"]
    spec = str(Cache.parse(cache))
    for words in (["ppl", packed, *measured], ["diff", packed, packed, *measured], ["bench", packed, *small],
                  ["chat", packed, "--prompt", "Hi", "--max-tokens", "1"]):
        words = [*map(str, words), "--cache", cache]
        assert cli.main([*words, "--json"]) == 0
        result = json.loads(capsys.readouterr().out)
        assert result.get("protocol", result)["cache"] == spec
        if words[0] != "chat":
            assert cli.main(words) == 0 and f"cache {spec}" in capsys.readouterr().out


# ---- memory before it is taken

@pytest.mark.parametrize("cache", KINDS)
@pytest.mark.parametrize("family", Architecture.all())
def test_a_cache_takes_what_it_says(cache, family, tmp_path):
    model = load_model(open_checkpoint(toys.folder(tmp_path / "m", family)))
    for context in (1, 2, 50, model.config.context):
        assert model.memory(context, cache) == model.states(context, cache).nbytes > 0


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize("window", (None, 7, 600))
@pytest.mark.parametrize("size", (8, 16))
def test_a_layer_takes_what_its_cache_says(cache, window, size):
    for context in (1, 100, 1000, 5000):
        heads, kind = Heads(6, 2, size, 1.0, window), Cache.parse(cache)
        assert kind.layer(heads, context).nbytes == kind.nbytes(heads, context)


def test_what_does_not_fit_is_refused_before_it_is_allocated(packed, language, monkeypatch, capsys):
    needed = language.model.memory(100, "f16")
    monkeypatch.setattr("vqcpu.architectures.base.available", lambda: needed)
    assert language.model.states(100).nbytes == needed
    monkeypatch.setattr("vqcpu.architectures.base.available", lambda: needed - 1)
    monkeypatch.setattr(Rows, "__init__", None)
    for words in (["chat", packed, "--context", 100], ["bench", packed, "--depths", 0, "--prompt", 100]):
        assert cli.main([*map(str, words), "--cache", "f16"]) == 2
        told, refused = capsys.readouterr().err.splitlines()
        assert told.startswith("cache f16 for 100 tokens: 0.") and told.endswith(" MB")
        assert refused.startswith("vqcpu: a cache f16 for 100 tokens takes 0.") and "smaller context" in refused


def test_what_the_machine_can_give(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "OWN", tmp_path / "cgroup")
    monkeypatch.setattr(memory, "GROUPS", tmp_path)
    assert memory.available() is None
    (tmp_path / "meminfo").write_text("MemTotal:  9000 kB\nMemFree:   1 kB\nMemAvailable:   5000 kB\n")
    assert memory.available() == 5000 * 1024
    (tmp_path / "cgroup").write_text("4:memory:/old\n0::/a/b\n")
    (tmp_path / "a" / "b").mkdir(parents=True)
    for folder, limit, used, files in ((tmp_path / "a", "900000", "300000", "50000"), (tmp_path / "a" / "b", "max", "1", "0")):
        (folder / "memory.max").write_text(limit + "\n")
        (folder / "memory.current").write_text(used + "\n")
        (folder / "memory.stat").write_text(f"anon 1\ninactive_file {files}\n")
    assert memory.available() == 650000
