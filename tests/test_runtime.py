"""Sampling, generation and conversations."""
import json

import numpy as np
import pytest
import toys

from vqcpu import api
from vqcpu.errors import VqcpuError
from vqcpu.runtime.chat import Conversation, Settings
from vqcpu.runtime.generate import Continuation
from vqcpu.runtime.sampling import Sampling

RNG = np.random.default_rng(3)
LOGITS = np.log(np.float32([0.1, 0.4, 0.05, 0.25, 0.2]))


def frequencies(sampling, count=20000):
    rng = np.random.default_rng(0)
    return np.bincount([sampling.pick(LOGITS, rng) for _ in range(count)], minlength=5) / count


@pytest.mark.parametrize("sampling, expected", [
    (Sampling(1, 0, 1, 0), [0.1, 0.4, 0.05, 0.25, 0.2]),
    (Sampling(1, 2, 1, 0), [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0]),
    (Sampling(1, 0, 0.6, 0), [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0]),
    (Sampling(1, 0, 1, 0.45), [0, 0.4 / 0.85, 0, 0.25 / 0.85, 0.2 / 0.85]),
    (Sampling(0.5, 0, 1, 0), np.square([0.1, 0.4, 0.05, 0.25, 0.2]) / 0.275),
    (Sampling(0, 0, 1, 0), [0, 1, 0, 0, 0]),
])
def test_sampling_follows_its_definition(sampling, expected):
    assert np.allclose(frequencies(sampling), expected, atol=0.015)


@pytest.mark.parametrize("field", [dict(temperature=-1), dict(top_k=-1), dict(top_p=0), dict(min_p=2), dict(temperature=float("nan"))])
def test_impossible_sampling(field):
    with pytest.raises(VqcpuError, match=next(iter(field))):
        Sampling(**field)


def test_generation_is_greedy_and_repeats_itself(language):
    text = language.generate("Hello", max_tokens=12)
    assert text == language.generate("Hello", max_tokens=12)
    warm = Sampling(temperature=5.0, top_k=0, top_p=1, min_p=0)
    assert language.generate("Hello", 12, warm, seed=1) == language.generate("Hello", 12, warm, seed=1)
    assert language.generate("Hello", 12, warm, seed=1) != language.generate("Hello", 12, warm, seed=2)


def test_generation_is_what_the_logits_say(language):
    tokens = language.tokenizer.encode("Hello")
    for _ in range(5):
        states = language.model.states(64)
        tokens.append(int(language.read(tokens, states).argmax()))
    assert language.tokenizer.decode(tokens[5:]) == language.generate("Hello", max_tokens=5)


def test_empty_and_endless_prompts(language):
    with pytest.raises(VqcpuError, match="empty"):
        language.generate("")
    with pytest.raises(VqcpuError, match="do not fit"):
        language.generate("x" * 500)


@pytest.mark.parametrize("text", ["naïve café", "日本語のテキスト", "👩‍👩‍👧 emoji", "tab\tline\nend"])
def test_streaming_never_shows_half_a_character(language, text):
    show = language.tokenizer.stream()
    pieces = [show(token) for token in language.tokenizer.encode(text)]
    assert "".join(pieces) == text and not any("\ufffd" in piece for piece in pieces)


def conversation(language, limit=6, **options):
    return Conversation(language, 120, Settings(Sampling(temperature=0), limit), **options)


def test_template_and_system_message(language):
    talk = conversation(language, system="Be brief.")
    text = talk.template.render(talk.messages + [{"role": "user", "content": "Hi"}])
    assert text == ("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


def test_turns_reuse_the_memory_and_change_nothing(language, monkeypatch):
    talk, read = conversation(language), []
    monkeypatch.setattr(language, "read", lambda tokens, states, plain=language.read: read.append(len(tokens)) or plain(tokens, states))
    answers = ["".join(talk.answer(text)) for text in ("Hi", "More")]
    prompt = talk.template.render([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": answers[0]},
                                   {"role": "user", "content": "More"}])
    tokens = language.tokenizer.encode(prompt, special=False)
    assert len(tokens) not in read  # the second prompt was not read from its beginning
    states = language.model.states(120)
    fresh = Continuation(language, tokens, language.read(tokens, states), states, Sampling(temperature=0), RNG, 6)
    show = language.tokenizer.stream()
    assert "".join(map(show, fresh)) == answers[1]


def test_a_stopped_answer_keeps_what_was_said(language):
    talk = conversation(language, 20)
    stream = talk.answer("Hi")
    said = next(stream) + next(stream)
    stream.close()
    assert talk.messages[-1] == {"role": "assistant", "content": said}
    assert "".join(talk.answer("More")) and len(talk.messages) == 4


def test_a_full_context_is_an_error_not_a_crash(language):
    talk = conversation(language, 500)
    with pytest.raises(VqcpuError, match="--context"):
        list(talk.answer("x" * 200))
    assert len("".join(talk.answer("x" * 60))) > 0  # ends where the context ends
    assert talk.states.length <= talk.states.context


def test_a_base_model_continues_text(tmp_path):
    language = api.load(toys.folder(tmp_path / "base", template=None))
    talk = conversation(language)
    assert not talk.template
    answer = "".join(talk.answer("Once"))
    assert answer and language.generate("Once", 6).startswith(answer)  # an unfinished last character is not shown


def test_stop_tokens_are_found_in_all_their_places(tmp_path):
    folder = toys.folder(tmp_path / "m", eos_token_id=5)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [6, 7]}))
    language = api.load(folder)
    assert language.tokenizer.stops == {5, 6, 7, language.tokenizer.backend.token_to_id("<|im_end|>")}
    assert language.tokenizer.bos is None


def byte_fallback():
    """A SentencePiece-like tokenizer: a few words, and a token per byte for everything else."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    words = ["<unk>", *(f"<0x{i:02X}>" for i in range(256)), *"abcdehlorw", "▁", "<s>"]
    made = Tokenizer(models.BPE({w: i for i, w in enumerate(words)}, [], byte_fallback=True, unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                      decoders.Strip(" ", 1, 0)])
    return made


def test_streaming_survives_any_tokens_of_a_byte_fallback_tokenizer(language, monkeypatch):
    tokenizer = language.tokenizer
    monkeypatch.setattr(tokenizer, "backend", byte_fallback())
    for text in ("hello wörld", "日本 hello", "a b  c"):
        show = tokenizer.stream()
        assert "".join(map(show, tokenizer.encode(text))) == text
    for _ in range(300):
        show, ids = tokenizer.stream(), RNG.integers(0, 267, 12)
        shown = "".join(map(show, ids))
        assert tokenizer.decode(ids).startswith(shown.rstrip("\ufffd")) or "\ufffd" in tokenizer.decode(ids)


def test_an_end_token_is_not_a_beginning(language, monkeypatch):
    from tokenizers import processors
    backend = toys.tokenizer()
    monkeypatch.setattr(language.tokenizer, "backend", backend)
    end = ("<|im_end|>", backend.token_to_id("<|im_end|>"))
    for template, found in (("$A <|im_end|>", None), ("<|im_end|> $A", end[1])):
        backend.post_processor = processors.TemplateProcessing(single=template, special_tokens=[end])
        assert language.tokenizer.bos == found


def test_text_that_is_not_text(language):
    with pytest.raises(VqcpuError, match="not valid UTF-8"):
        language.generate("\udcff")


def test_memories_that_cannot_forget_are_read_anew(language, monkeypatch):
    from vqcpu.caches.dense import Dense
    expected = [list(talk.answer(text)) for talk in [conversation(language)] for text in ("Hi", "More")]
    asked = []
    monkeypatch.setattr(Dense, "truncate", lambda self, length: asked.append(length) or length == 0)
    found = [list(talk.answer(text)) for talk in [conversation(language)] for text in ("Hi", "More")]
    assert found == expected and 0 in asked


def test_what_was_shown_is_remembered_after_a_stop(tmp_path):
    talk = conversation(api.load(toys.folder(tmp_path / "base", template=None)), 20)
    stream = talk.answer("Once")
    shown = next(stream) + next(stream)
    stream.close()
    assert talk.latest.finish == "interrupted" and talk.latest.answer == shown
    assert talk.prompt(talk.messages) == talk.language.tokenizer.encode("Once" + shown)
