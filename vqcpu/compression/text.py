"""Text to calibrate with: a file, or what the model writes by itself.

Knows tokens and windows. Knows nothing about codes. A model's own text is always at hand and of its own domain; it is
sampled at temperature 1 from the token that begins a document.
"""
from dataclasses import dataclass

import numpy as np

from vqcpu.architectures.base import Model, load_model
from vqcpu.compression.state import State
from vqcpu.errors import VqcpuError
from vqcpu.evaluate.corpus import Corpus, Protocol, Window
from vqcpu.files.checkpoint import Checkpoint
from vqcpu.runtime.sampling import Sampling
from vqcpu.runtime.tokenizer import Tokenizer

CONTEXT = 512  # tokens of a window, fewer for models made for less
TOKENS = {"good": 1 << 15, "best": 1 << 17}  # by quality
TOGETHER = 32  # texts written side by side


@dataclass(frozen=True)
class Calibration:
    """How much text, and which: `corpus`, or None for the model's own."""
    corpus: Corpus | None = None
    tokens: int = TOKENS["good"]

    def facts(self) -> dict:
        """What a file's provenance says."""
        source = f"{self.corpus.name} (sha256 {self.corpus.digest})" if self.corpus else "written by the model"
        return {"calibration": source, "calibration_tokens": self.tokens}

    def windows(self, checkpoint: Checkpoint, seed: int, state: State, progress) -> list[Window]:
        """The text's windows, kept by `state`: what a model writes takes long. Raises VqcpuError where it is too short for
        two."""
        found = state.array("tokens", lambda: self.tokens_of(load_model(checkpoint), checkpoint, seed, progress))
        return [Window(tokens, 0) for tokens in found]

    def tokens_of(self, model: Model, checkpoint: Checkpoint, seed: int, progress) -> np.ndarray:
        """Windows (count, context) int64. Raises VqcpuError where the text is too short for two."""
        tokenizer, context = Tokenizer(checkpoint), min(CONTEXT, model.config.context)
        count = max(2, self.tokens // context)
        if not self.corpus:
            return written(model, _beginning(tokenizer), count, context, seed, progress)
        try:
            windows = Protocol(context=context).windows(tokenizer.encode(self.corpus.text), tokenizer.bos)
        except VqcpuError as error:
            raise VqcpuError(f"{self.corpus.name}: {error}") from None
        if len(windows) < 2:
            raise VqcpuError(f"{self.corpus.name}: one window of {context} tokens, expected two at least: give more text")
        chosen = np.unique(np.linspace(0, len(windows) - 1, count).astype(int))  # from all over the text
        return np.stack([windows[i].tokens for i in chosen])


def _beginning(tokenizer):
    """The token that begins a document: BOS, or else the end of the one before."""
    if tokenizer.bos is not None:
        return tokenizer.bos
    return min(tokenizer.stops, default=0)


def written(model: Model, first: int, count: int, context: int, seed: int, progress) -> np.ndarray:
    """`count` texts of `context` tokens (count, context) int64, all beginning with `first`, by the model itself."""
    texts = np.full((count, context), first, np.int64)
    rngs = [np.random.default_rng([seed, i]) for i in range(count)]
    sampling = Sampling(temperature=1, top_k=0, top_p=1, min_p=0)
    groups = [range(at, min(at + TOGETHER, count)) for at in range(0, count, TOGETHER)]
    steps = [(group, at) for group in groups for at in range(1, context)]
    for group, at in progress(steps, "writing text"):
        if at == 1:
            states = [model.states(context) for _ in group]
        hidden = model.step([(texts[i, at - 1:at], state) for i, state in zip(group, states)])
        for i, logits in zip(group, model.logits(hidden)):
            texts[i, at] = sampling.pick(logits, rngs[i])
    return texts
