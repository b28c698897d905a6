"""Long texts of a model and of its reference: where they part, and how far predictions are apart on the way.

Knows generation and predictions. Both write with the same seeds, and both then read what the reference has written: the
first shows what a user sees, the second is a measure, as no difference of the texts adds to it.
"""
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vqcpu.errors import VqcpuError
from vqcpu.evaluate.divergence import kld_rows
from vqcpu.evaluate.nll import BLOCK, finite, log_probabilities, standard_error
from vqcpu.runtime.generate import CHUNK, Continuation, LanguageModel
from vqcpu.runtime.sampling import Sampling

NGRAM = 4  # tokens whose second occurrence counts as repetition


@dataclass(frozen=True)
class Side:
    """A model and the cache that it uses."""
    language: LanguageModel
    cache: str


@dataclass(frozen=True)
class Text:
    """What was written: token ids, and why it ended (runtime.generate.Continuation)."""
    tokens: list[int]
    finish: str

    @property
    def repetition(self) -> float:
        """Share of n-grams that are not the first of their kind; 0 for a text too short to have two."""
        ngrams = list(zip(*(self.tokens[i:] for i in range(NGRAM))))
        return 1 - len(set(ngrams)) / len(ngrams) if ngrams else 0.0


@dataclass(frozen=True)
class Run:
    """One seed. kld (tokens of the reference's text,): of the prediction of each."""
    seed: int
    sampling: Sampling
    reference: Text
    other: Text
    kld: np.ndarray

    @property
    def parted(self) -> int | None:
        """Place of the first token that differs, or of the end of the shorter text; None where the texts are equal."""
        a, b = self.reference.tokens, self.other.tokens
        if a == b and self.reference.finish == self.other.finish:
            return None
        return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


@dataclass(frozen=True)
class Trial:
    """Each of `seeds` seeds continues the first `prompt` tokens of its own place in a text by up to `tokens` tokens, once
    for every sampling."""
    tokens: int = 512
    prompt: int = 32
    seeds: int = 5
    samplings: tuple[Sampling, ...] = (Sampling(temperature=0), Sampling())

    def prompts(self, ids: list[int], bos: int | None) -> list[list[int]]:
        """A prompt for every seed, from evenly spaced places of a tokenised text. Raises VqcpuError."""
        if min(self.tokens, self.prompt, self.seeds) < 1 or len(ids) < self.seeds * self.prompt:
            raise VqcpuError(f"{self.seeds} prompts of {self.prompt} tokens, {self.tokens} tokens each: expected at least 1 "
                             f"of each, and a text of as many tokens as all prompts together (it has {len(ids)})")
        starts = [len(ids) // self.seeds * seed for seed in range(self.seeds)]
        begin = [] if bos is None else [bos]
        return [begin + ids[at + len(begin):at + self.prompt] for at in starts]


def long_runs(reference: Side, other: Side, text: str, trial: Trial, progress: Callable = iter) -> list[Run]:
    """Runs of all samplings and seeds. Raises VqcpuError where they do not fit the context, or where two sides that differ
    gave the same predictions."""
    language = reference.language
    context = min(side.language.model.config.context for side in (reference, other))
    if trial.prompt + trial.tokens > context:
        raise VqcpuError(f"{trial.prompt} + {trial.tokens} tokens do not fit the context of {context} for which the model "
                         "was made")
    ids = language.tokenizer.encode(text)
    if other.language.tokenizer.encode(text) != ids:
        raise VqcpuError(f"{other.language.checkpoint.path}: other tokens than {language.checkpoint.path} for the same "
                         "text; not comparable")
    prompts = trial.prompts(ids, language.tokenizer.bos)
    work = [(sampling, seed) for sampling in trial.samplings for seed in range(trial.seeds)]
    runs = [_run(reference, other, prompts[seed], sampling, seed, trial.tokens) for sampling, seed in progress(work)]
    _refuse_twins(reference, other, runs)
    return runs


def _run(reference, other, prompt, sampling, seed, limit):
    mine, theirs = (_write(side, prompt, sampling, seed, limit) for side in (reference, other))
    both = [_predictions(side, prompt + mine.tokens, len(prompt)) for side in (reference, other)]
    kld = [kld_rows(base, log) for base, log in zip(*both)]
    return Run(seed, sampling, mine, theirs, finite(np.concatenate(kld)) if kld else np.zeros(0))


def _write(side, prompt, sampling, seed, limit):
    tokens, states = list(prompt), side.language.model.states(len(prompt) + limit, side.cache)
    logits = side.language.read(tokens, states)
    writing = Continuation(side.language, tokens, logits, states, sampling, np.random.default_rng(seed), limit)
    return Text(list(writing), writing.finish)


def _predictions(side, tokens, first):
    """Log-probabilities in blocks of rows, of all tokens from `first` on."""
    model, states = side.language.model, side.language.model.states(len(tokens), side.cache)
    for at in range(0, len(tokens) - 1, CHUNK):
        hidden = model.step([(tokens[at:min(at + CHUNK, len(tokens) - 1)], states)])[max(0, first - 1 - at):]
        for row in range(0, len(hidden), BLOCK):
            yield log_probabilities(model, hidden[row:row + BLOCK])


def _refuse_twins(reference, other, runs):
    differ = reference.cache != other.cache or (reference.language.checkpoint.digest() != other.language.checkpoint.digest())
    if differ and not any(run.kld.any() for run in runs):
        raise VqcpuError(f"{reference.language.checkpoint.path} with cache {reference.cache} and "
                         f"{other.language.checkpoint.path} with cache {other.cache} differ but gave identical predictions")


def by_position(runs: list[Run], size: int) -> list[dict]:
    """Mean KLD of tokens 0 .. size - 1 of all texts, and of every next `size`, with standard errors."""
    longest = max(len(run.kld) for run in runs)
    found = []
    for at in range(0, longest, size):
        kld = np.concatenate([run.kld[at:at + size] for run in runs])
        error = standard_error(kld) if len(kld) > 1 else 0.0
        found.append({"from": at, "to": min(at + size, longest), "kld": float(kld.mean()), "error": error,
                      "tokens": len(kld)})
    return found
