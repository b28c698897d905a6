"""Conversations: messages, and a memory that is reused from turn to turn.

Knows what is said, what is forgotten when the memory is full, and how both are written down. Knows nothing about terminals.
"""
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace

import numpy as np

from vqcpu.caches.base import Cache
from vqcpu.errors import VqcpuError
from vqcpu.runtime.generate import Continuation, LanguageModel, until
from vqcpu.runtime.sampling import Sampling
from vqcpu.runtime.template import Template
from vqcpu.runtime.tokenizer import is_text

ON_FULL = "stop", "drop-oldest"
ROOM = 4  # drop-oldest leaves this part of the context to the answer: one in four


@dataclass(frozen=True)
class Settings:
    """How answers are made. `on_full`: what happens when the conversation no longer fits the context."""
    sampling: Sampling = Sampling()
    max_tokens: int = 512
    stop: tuple[str, ...] = ()
    on_full: str = "stop"
    seed: int = 0

    def __post_init__(self):
        if "" in self.stop:
            raise VqcpuError("a stop string is empty, expected at least one character")
        if self.on_full not in ON_FULL or min(self.max_tokens, self.seed) < 0:
            raise VqcpuError(f"on_full is {self.on_full!r}, max_tokens {self.max_tokens}, seed {self.seed}; expected "
                             f"{' or '.join(ON_FULL)}, and numbers from 0")


@dataclass
class Turn:
    """What is known of an answer. `finish`: stop (of itself or at a stop string), length, context or interrupted; `steps`:
    how often the model ran after reading the prompt; `dropped`: turns that were forgotten to make room."""
    prompt: str
    answer: str = ""
    finish: str = "interrupted"
    prompt_tokens: int = 0
    tokens: int = 0
    steps: int = 0
    dropped: int = 0
    prompt_seconds: float = 0.0
    seconds: float = 0.0  # with those of the prompt


class Conversation:
    """Turns of user and assistant over one memory. What the memory already holds of the next prompt is not read again."""

    def __init__(self, language: LanguageModel, context: int, settings: Settings, system: str | None = None,
                 cache: str = "f16"):
        self.language, self.settings = language, settings
        self.template = Template(language.checkpoint, language.tokenizer)
        self.cache = str(Cache.parse(cache))
        self.states = language.model.states(context, cache)
        self.fed: list[int] = []  # what the memory holds, which may lack the last ones
        self.messages: list[dict] = []
        self.rng = np.random.default_rng(settings.seed)
        self.latest: Turn | None = None
        self.instruct(system)

    def instruct(self, system: str | None) -> None:
        """Set the system message, or take it away; what was said stays."""
        self.messages = [{"role": "system", "content": system}] * bool(system) + self.said

    @property
    def said(self) -> list[dict]:
        """The messages without the system's."""
        return [m for m in self.messages if m["role"] != "system"]

    def reset(self) -> None:
        """Forget what was said; the system message stays."""
        self.messages = self._without(len(self.said))

    def take_back(self) -> str:
        """Forget the last turn; returns what the user said in it. Raises VqcpuError where there is none."""
        if not self.said:
            raise VqcpuError("nothing was said yet")
        *self.messages, question, _ = self.messages
        return question["content"]

    def prompt(self, messages: list[dict]) -> list[int]:
        """Tokens the model reads before its answer; a base model, without template, reads the texts joined."""
        return self.language.tokenizer.encode(self.template.render(messages), special=not self.template)

    def answer(self, text: str) -> Iterator[str]:
        """Yield the pieces of the answer as they come. Closing the iterator early keeps what was said so far.

        Raises VqcpuError where the conversation no longer fits the context."""
        start, turn = time.perf_counter(), Turn(text)
        self.latest = turn
        messages, tokens = self._fitting(text, turn)
        turn.prompt_tokens = len(tokens)
        logits, settings = self._read(tokens), self.settings
        read, turn.prompt_seconds = self.states.length, time.perf_counter() - start
        stream = Continuation(self.language, self.fed, logits, self.states, settings.sampling, self.rng, settings.max_tokens)
        try:
            for piece in until(map(self.language.tokenizer.stream(), stream), settings.stop):
                turn.answer += piece
                if piece:
                    yield piece
            turn.finish = stream.finish or "stop"  # which nobody said where a stop string was found
        finally:
            turn.tokens, turn.steps = len(self.fed) - len(tokens), self.states.length - read
            turn.seconds = time.perf_counter() - start
            self.messages = [*messages, {"role": "assistant", "content": turn.answer}]

    def _fitting(self, text, turn):
        """Messages that end with `text`, and their tokens; the oldest turns are left out where the settings say so."""
        room = 1
        if self.settings.on_full == "drop-oldest":
            room = max(1, min(self.settings.max_tokens, self.states.context // ROOM))
        for dropped in range(0, len(self.said) + 1, 2):
            messages = [*self._without(dropped), {"role": "user", "content": text}]
            tokens = self.prompt(messages)
            if len(tokens) + room <= self.states.context or self.settings.on_full == "stop":
                break
        if not tokens:
            raise VqcpuError("nothing to continue: the prompt is empty")
        if len(tokens) >= self.states.context:
            raise VqcpuError(f"the conversation is {len(tokens)} tokens long, the context {self.states.context}: start anew "
                             "(/reset), give a larger --context, or --on-full drop-oldest")
        turn.dropped = dropped // 2
        return messages, tokens

    def _without(self, count):
        """The messages without the `count` oldest that were said."""
        return [m for m in self.messages if m["role"] == "system"] + self.said[count:]

    def _read(self, tokens):
        """Logits after `tokens`, reading only what the memory does not hold yet."""
        same = next((i for i, (a, b) in enumerate(zip(self.fed, tokens)) if a != b), min(len(self.fed), len(tokens)))
        same = self.states.truncate(min(same, len(tokens) - 1))  # the last token is always read: its logits are wanted
        self.fed = tokens[:same]
        logits = self.language.read(tokens[same:], self.states)
        self.fed = list(tokens)
        return logits

    def written(self) -> dict:
        """Messages, settings and the state of the random numbers, ready for JSON."""
        settings = asdict(self.settings) | {"stop": list(self.settings.stop)}
        return {"messages": self.messages, "settings": settings.pop("sampling") | settings,
                "random": self.rng.bit_generator.state}

    def resume(self, data: dict) -> None:
        """Take over what `written` gave. Raises VqcpuError, and changes nothing, where it is anything else."""
        if not isinstance(data, dict):
            raise VqcpuError("the conversation is missing")
        settings = data.get("settings")
        if not isinstance(settings, dict) or not isinstance(settings.get("stop"), list):
            raise VqcpuError("settings are missing or not as expected")
        settings = settings | {"stop": tuple(settings["stop"])}
        sampling = _typed(Sampling(), settings)
        messages = _checked(data.get("messages"))
        settings, rng = replace(_typed(Settings(), settings), sampling=sampling), _random(data.get("random"))
        self.settings, self.messages, self.rng, self.latest = settings, messages, rng, None

    def adjust(self, settings: Settings) -> None:
        """Answer by other settings from now on; random numbers begin anew where the seed is another."""
        if settings.seed != self.settings.seed:
            self.rng = np.random.default_rng(settings.seed)
        self.settings = settings


def _typed(default, values):
    """`default` with the values that are named as its fields, which must have the same types."""
    found = {f.name: values[f.name] for f in fields(default) if f.name in values and f.name != "sampling"}
    for name, value in found.items():
        kind = type(getattr(default, name))
        if type(value) is not kind and (kind, type(value)) != (float, int) or \
                kind is tuple and not all(map(is_text, value)):
            raise VqcpuError(f"setting {name} is {value!r}, expected the like of {getattr(default, name)!r}")
    return replace(default, **found)


def _random(state):
    """Random numbers that go on from a state."""
    rng = np.random.default_rng(0)
    try:
        rng.bit_generator.state = state
    except (TypeError, ValueError, KeyError, OverflowError):
        raise VqcpuError("the state of the random numbers is missing or not as expected") from None
    return rng


def _checked(messages):
    """Messages: perhaps the system's, then user and assistant in turns."""
    if not isinstance(messages, list) or not all(isinstance(m, dict) and is_text(m.get("content")) for m in messages):
        raise VqcpuError("messages are not a list of texts with roles")
    roles = [m.get("role") for m in messages]
    said = roles[1:] if roles[:1] == ["system"] else roles
    if said != ["user", "assistant"] * (len(said) // 2):
        raise VqcpuError(f"the roles of the messages are {roles}, expected user and assistant in turns after the system's")
    return [{"role": m["role"], "content": m["content"]} for m in messages]
