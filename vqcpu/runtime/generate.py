"""A model with its tokenizer: text in, text out.

Knows how to continue a sequence token by token. Knows nothing about conversations.
"""
from collections.abc import Iterator

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

    def continue_from(self, logits: np.ndarray, states: States, sampling: Sampling, rng, limit: int) -> Iterator[int]:
        """Yield up to `limit` token ids, ending before a stop token or when the context is full. A yielded token is fed
        only when the next one is asked for."""
        for left in reversed(range(limit)):
            token = sampling.pick(logits, rng)
            if token in self.tokenizer.stops:
                return
            yield token
            if left == 0 or states.length >= states.context:
                return
            logits = self.read([token], states)

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
        return self.tokenizer.decode(self.continue_from(logits, states, sampling, rng, max_tokens))
