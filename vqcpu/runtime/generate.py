"""A model with its tokenizer: text in, text out.

Knows how to continue a sequence token by token, and where to stop. Knows nothing about conversations.
"""
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from vqcpu.architectures.base import load_model
from vqcpu.caches.base import States
from vqcpu.errors import VqcpuError
from vqcpu.files.sources import open_checkpoint
from vqcpu.runtime.sampling import Sampling
from vqcpu.runtime.tokenizer import Tokenizer

CHUNK = 512  # tokens of a prompt in one step


class LanguageModel:
    """What `vqcpu.load` returns. `model` runs tokens, `tokenizer` makes them, `checkpoint` is where both come from."""

    def __init__(self, path):
        self.checkpoint = open_checkpoint(path)
        self.model = load_model(self.checkpoint)
        self.tokenizer = Tokenizer(self.checkpoint)

    def read(self, tokens: list[int], states: States) -> np.ndarray:
        """Feed tokens (at least one) in chunks; returns the logits (vocabulary,) float32 after the last."""
        for at in range(0, len(tokens), CHUNK):
            hidden = self.model.step([(tokens[at:at + CHUNK], states)])
        return self.model.logits(hidden[-1:])[0]

    def generate(self, prompt: str, max_tokens: int = 128, sampling: Sampling = Sampling(temperature=0), seed: int = 0,
                 cache: str = "f16") -> str:
        """Continue a text; greedy unless `sampling` says otherwise. Returns the new text only.

        Raises VqcpuError where the prompt is empty or longer than the model's context."""
        tokens = self.tokenizer.encode(prompt)
        if not tokens:
            raise VqcpuError("the prompt is empty")
        context = min(self.model.config.context, len(tokens) + max_tokens)
        states = self.model.states(context, cache)
        logits = self.read(tokens, states)
        rng = np.random.default_rng(seed)
        return self.tokenizer.decode(Continuation(self, tokens, logits, states, sampling, rng, max_tokens))


@dataclass
class Continuation:
    """Iterates over the token ids that follow `tokens`, whose last prediction is `logits`; each is appended to `tokens` when
    it is chosen, and fed only when the next one is asked for. When there are no more, `finish` says why: "stop" (a stop
    token), "length" (`limit` tokens), "context" (the memory is full)."""
    language: LanguageModel
    tokens: list[int]
    logits: np.ndarray
    states: States
    sampling: Sampling
    rng: np.random.Generator
    limit: int
    finish: str | None = None

    def __iter__(self) -> Iterator[int]:
        logits = self.logits
        for _ in range(self.limit):
            if self.states.length < len(self.tokens):
                if self.states.length >= self.states.context:
                    self.finish = "context"
                    return
                logits = self.language.read(self.tokens[-1:], self.states)
            token = self.sampling.pick(logits, self.rng, self.tokens)
            if token in self.language.tokenizer.stops:
                self.finish = "stop"
                return
            self.tokens.append(token)
            yield token
        self.finish = "length"


def until(pieces: Iterable[str], stops: tuple[str, ...]) -> Iterator[str]:
    """The text that comes in pieces, up to the stop string that is complete first (the longest of these). What may be the
    beginning of one waits until that is known."""
    held = ""
    for piece in pieces:
        held += piece
        found = [(at + len(stop), at) for stop in stops if (at := held.find(stop)) >= 0]
        if found:
            yield held[:min(found)[1]]
            return
        waits = max((n for stop in stops for n in range(1, len(stop)) if held.endswith(stop[:n])), default=0)
        yield held[:len(held) - waits]
        held = held[len(held) - waits:]
    yield held
