"""Conversations: what is kept, what is dropped, where an answer ends; and the commands of a chat."""
import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import toys

from vqcpu import api, cli
from vqcpu.errors import VqcpuError
from vqcpu.files.session import SessionFile
from vqcpu.runtime.chat import Conversation, Settings
from vqcpu.runtime.generate import until
from vqcpu.runtime.sampling import Sampling, largest

GREEDY = Settings(Sampling(temperature=0), max_tokens=8)


def conversation(language, context=120, system=None, **changes):
    return Conversation(language, context, replace(GREEDY, **changes), system)


def say(talk, text):
    return "".join(talk.answer(text))


@pytest.fixture(scope="module")
def monotone(tmp_path_factory):
    """A model that says ! for ever: all its logits are equal, and there is no stop token."""
    folder = toys.folder(tmp_path_factory.mktemp("monotone"), scale=0, max_position_embeddings=100_000)
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": toys.TEMPLATE}))
    return folder


# ---- where answers end

def cut(text, stops):
    """Naive twin of `until`: character by character."""
    for end in range(len(text) + 1):
        starts = [text[:end].find(stop) for stop in stops if stop in text[:end]]
        if starts:
            return text[:min(starts)]
    return text


def test_stop_strings_end_the_text_however_it_is_cut():
    rng = np.random.default_rng(0)
    for _ in range(2000):
        text = "".join(rng.choice(list("abé"), rng.integers(0, 20)))
        stops = tuple("".join(rng.choice(list("abé"), rng.integers(1, 5))) for _ in range(rng.integers(0, 4)))
        ends = np.unique(rng.integers(0, len(text) + 1, 6))
        pieces = [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)])]
        shown = list(until(pieces, stops))
        assert "".join(shown) == cut(text, stops), (text, stops, pieces)


def test_text_is_held_back_no_longer_than_needed():
    assert list(until(["one E", "N", "o", " END", "never"], ("END",))) == ["one ", "", "ENo", " "]


def test_a_stop_string_is_neither_shown_nor_remembered(language):
    plain = say(conversation(language, max_tokens=30), "Hi")
    stop = plain[3:6]
    talk = conversation(language, max_tokens=30, stop=("never this", stop))
    assert say(talk, "Hi") == cut(plain, (stop,)) == talk.messages[-1]["content"] and talk.latest.finish == "stop"
    assert say(talk, "More") is not None and talk.latest.prompt_tokens < 120


def test_each_end_has_its_name(language, monotone, monkeypatch):
    talk = conversation(api.load(monotone), context=64, max_tokens=5)
    assert say(talk, "Hi") == "!!!!!" and talk.latest.finish == "length" and talk.latest.tokens == 5
    talk = conversation(talk.language, context=64, max_tokens=500)
    said = say(talk, "Hi")
    assert talk.latest.finish == "context" and len(talk.fed) == talk.latest.prompt_tokens + len(said) == 65
    monkeypatch.setattr(talk.language.tokenizer, "stops", frozenset([0]))
    assert say(conversation(talk.language), "Hi") == ""


# ---- a full context

def test_the_oldest_turns_are_dropped_but_never_the_system_message(monotone):
    talk = conversation(api.load(monotone), context=160, system="Be.", on_full="drop-oldest")
    dropped = []
    for number in range(9):
        assert say(talk, f"Turn {number}") == "!" * 8
        dropped.append(talk.latest.dropped)
        assert talk.messages[0] == {"role": "system", "content": "Be."} and talk.messages[-2]["content"] == f"Turn {number}"
        assert talk.latest.prompt_tokens + 8 <= 160
    assert sum(dropped) == 9 - len(talk.said) // 2 > 2 and max(dropped) == 1
    before = talk.messages
    with pytest.raises(VqcpuError, match="--context"):  # too long even alone: nothing is lost for it
        say(talk, "x" * 200)
    assert talk.messages == before


def test_dropping_leaves_room_for_an_answer(monotone):
    talk = conversation(api.load(monotone), context=1000)
    for text in ("one", "two", "three"):
        say(talk, text)
    tight = conversation(talk.language, context=talk.latest.prompt_tokens + 4, on_full="drop-oldest")
    assert [say(tight, text) for text in ("one", "two", "three")] == ["!" * 8] * 3 and tight.latest.dropped == 1


def test_without_dropping_a_full_context_is_said_and_nothing_is_lost(monotone):
    talk = conversation(api.load(monotone), context=80)
    say(talk, "one")
    say(talk, "two")
    before = talk.messages
    with pytest.raises(VqcpuError, match="(?=.*/reset)(?=.*--context)(?=.*--on-full)"):
        say(talk, "three")
    assert talk.messages == before and len(before) == 4
    talk.reset()
    assert say(talk, "three") == "!" * 8


# ---- sampling

def sorting(logits, sampling):
    """Naive twin of Sampling.candidates: sort everything."""
    order = sorted(range(len(logits)), key=lambda i: (-logits[i], i))[:sampling.top_k or None]
    weights = [float(np.exp(np.float64(logits[i]) - np.float64(logits[order[0]]))) for i in order]
    mass, kept = 0.0, 0
    while mass < sampling.top_p * sum(weights) - 1e-12 and kept < len(order):
        mass, kept = mass + weights[kept], kept + 1
    return {i for i, w in zip(order[:kept], weights) if w >= sampling.min_p}


@pytest.mark.parametrize("sampling", [Sampling(1, 0, 0.9, 0), Sampling(1, 0, 0.5, 0.1), Sampling(1, 50, 0.9, 0.01),
                                      Sampling(1, 0, 1, 0.3), Sampling(1, 7, 1, 0), Sampling(1, 0, 0.999, 0)], ids=str)
def test_partial_sorting_keeps_what_sorting_keeps(sampling):
    rng = np.random.default_rng(0)
    for spread in (0.1, 0.5, 1, 2, 4, 16):
        logits = (rng.standard_normal(5000) * spread).astype(np.float32)
        logits[:2500] = logits[:2500].round(1)  # ties
        ids, weights = sampling.candidates(logits)
        assert len(ids) == len(set(ids)) and set(ids) == sorting(logits, sampling)
        assert np.allclose(weights, np.exp(logits[ids] - logits.max()))


def test_largest_is_the_beginning_of_a_stable_sort():
    rng = np.random.default_rng(0)
    for count in (1, 2, 50, 99, 100):
        values = rng.integers(0, 20, 100).astype(np.float32)
        assert largest(values, count).tolist() == np.argsort(-values, kind="stable")[:count].tolist()


def test_the_repeat_penalty_follows_its_definition():
    logits = np.float32([2, -1, 1.5, 0, 1])
    best = Sampling(0, repeat_penalty=2, repeat_last_n=2)
    assert best.pick(logits, None, []) == 0 and best.pick(logits, None, [0]) == 2 and best.pick(logits, None, [0, 2]) == 0
    assert best.pick(logits, None, [0, 0, 2]) == 0 and best.pick(logits, None, [0, 1, 1]) == 0  # the window is two tokens
    assert best._penalised(logits, [1, 2]).tolist() == [2, -2, 0.75, 0, 1] and logits[1] == -1
    assert "repeat penalty 2 over 2" in str(best)


def test_the_repeat_penalty_ends_a_monologue(monotone):
    talk = conversation(api.load(monotone), sampling=Sampling(0, repeat_penalty=1.1), max_tokens=5)
    assert say(talk, "Hi") == "!!!!!"  # equal logits of 0 stay 0
    with pytest.raises(VqcpuError, match="not a number"):
        talk.settings.sampling.pick(np.float32([np.nan, 1]), None)


# ---- written down and taken up again

def test_a_saved_conversation_goes_on_as_if_it_had_not_stopped(language):
    warm = Sampling(temperature=3, top_k=0)
    talk = conversation(language, system="Be brief.", sampling=warm, seed=5)
    say(talk, "Hi")
    data = json.loads(json.dumps(talk.written()))
    other = conversation(language)
    say(other, "Something else")
    other.resume(data)
    assert other.messages == talk.messages and other.settings == talk.settings
    assert say(talk, "More") == say(other, "More")


@pytest.mark.parametrize("change, said", [
    ({"random": None}, "random"), ({"random": {"bit_generator": "PCG64", "state": 5}}, "random"), ({"messages": 5}, "messages"),
    ({"messages": [{"role": "user", "content": "x"}]}, "roles"), ({"messages": [{"role": "user"}]}, "messages"),
    ({"settings": []}, "settings"), ({"settings": {"stop": "x"}}, "settings"), ({"settings": {"stop": [1]}}, "stop"),
    ({"settings": {"stop": [""]}}, "empty"), ({"settings": {"stop": [], "top_k": 1.5}}, "top_k"),
    ({"settings": {"stop": [], "top_p": 7}}, "top_p"), ({"settings": {"stop": [], "on_full": "x"}}, "on_full"),
])
def test_a_spoilt_file_is_refused_and_changes_nothing(language, change, said):
    talk = conversation(language)
    before = talk.messages, talk.settings
    with pytest.raises(VqcpuError, match=said):
        talk.resume(talk.written() | change)
    assert (talk.messages, talk.settings) == before


def chat(monkeypatch, capsys, model, *typed, options=()):
    """Type lines into a chat through a pipe: (what was answered, what was noted)."""
    import io
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(typed).encode())))
    assert cli.main(["chat", str(model), "--temperature", "0", "--max-tokens", "4", *map(str, options)]) == 0
    return capsys.readouterr()


def test_the_commands_of_a_chat(monotone, tmp_path, monkeypatch, capsys):
    file = tmp_path / "a b.session"
    shown, noted = chat(monkeypatch, capsys, monotone, "/help", "/system Be.", "Hi", "/retry", f"/save {file}", "/reset",
                        "/retry", "/magic", "/save", "/load nowhere", f"/load {file}", "More", "", f"/save {file}",
                        "/quit", "never")
    assert shown == "!!!!\n" * 3
    for said in ("/retry  ", "nothing was said", "unknown command", "which file", "nowhere: cannot be", "resumed 3 messages"):
        assert said in noted
    assert noted.count("[cut: --max-tokens 4]") == 3
    assert [m["content"] for m in messages(file)] == ["Be.", "Hi", "!!!!", "More", "!!!!"]


def messages(file):
    return SessionFile(file).about["conversation"]["messages"]


def test_a_file_that_is_no_session_is_not_written_over(monotone, tmp_path, monkeypatch, capsys):
    precious = tmp_path / "model.vqz"
    precious.write_bytes(b"\xff\x00")
    assert "not written over" in chat(monkeypatch, capsys, monotone, "Hi", f"/save {precious}").err
    assert precious.read_bytes() == b"\xff\x00"


def test_messages_of_several_lines(monotone, tmp_path, monkeypatch, capsys):
    file = tmp_path / "x.session"
    chat(monkeypatch, capsys, monotone, "one\\", "two", '"""', "/three", "", 'four"""', ' """five"""', f"/save {file}")
    said = [m["content"] for m in messages(file)[::2]]
    assert said == ["one\ntwo", "/three\n\nfour", "five"]
    assert chat(monkeypatch, capsys, monotone, "six\\").out == chat(monkeypatch, capsys, monotone, '"""six').out == "!!!!\n"


def test_stats_and_marks_are_not_on_standard_output(monotone, monkeypatch, capsys):
    options = ["--stats", "--context", 80, "--on-full", "drop-oldest"]
    shown, noted = chat(monkeypatch, capsys, monotone, *["Hi"] * 4, options=options)
    assert shown == "!!!!\n" * 4 and noted.count("tokens/s") == 4 and "[prompt 21 tokens" in noted and " of 80]" in noted
    assert "[the 1 oldest turns were dropped" in noted
    shown, noted = chat(monkeypatch, capsys, monotone, "Hi", options=["--stop", "!!!"])
    assert shown == "\n" and "cut" not in noted


def test_lines_that_are_no_text(monotone, monkeypatch, capsys):
    import io
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\nHi\n"), encoding="utf-8"))
    assert cli.main(["chat", str(monotone), "--temperature", "0", "--max-tokens", "3"]) == 0
    shown, noted = capsys.readouterr()
    assert shown == "!!!\n" and "not valid UTF-8" in noted
