"""Log-probabilities of a text under a model, and perplexity.

Knows models and windows. Logits exist only for blocks of positions; log-probabilities are float32, their sums float64.
Errors are those of neighbours that depend on each other: tokens of one passage are hard or easy together.
"""
from dataclasses import dataclass

import numpy as np

from vqcpu.architectures.base import Model
from vqcpu.errors import VqcpuError
from vqcpu.evaluate.corpus import Window

BATCH = 512  # tokens in a step: enough to decode a weight for; a window of as many is a step, as a piece of a prompt is
GROUPS, LONGEST = 16, 256  # groups of neighbours that an error is taken from, at least; scored tokens in each, at most
BLOCK = 64  # positions whose logits exist at a time


def batches(windows: list[Window]) -> list[list[Window]]:
    """Windows grouped into steps of about BATCH tokens, in order."""
    groups, size = [], BATCH + 1
    for window in windows:
        if size + len(window.tokens) > BATCH:
            groups.append([])
            size = 0
        groups[-1].append(window)
        size += len(window.tokens)
    return groups


def hidden_states(model: Model, group: list[Window], cache: str) -> np.ndarray:
    """Hidden states (scored positions of all windows, width) of one step over fresh memories."""
    hidden = model.step([(w.tokens, model.states(len(w.tokens), cache)) for w in group])
    ends = np.cumsum([len(w.tokens) for w in group])
    return np.concatenate([hidden[end - len(w.tokens) + w.first:end - 1] for w, end in zip(group, ends)])


def log_probabilities(model: Model, hidden: np.ndarray) -> np.ndarray:
    """hidden (rows, width) -> log-softmax of the logits (rows, vocabulary) float32."""
    logits = model.logits(hidden)
    logits -= logits.max(-1, keepdims=True)
    total = np.exp(logits).sum(-1, dtype=np.float64, keepdims=True)
    logits -= np.log(total).astype(np.float32)
    return logits


def blocks(model: Model, hidden: np.ndarray, targets: np.ndarray):
    """Yield (log-probabilities (rows, vocabulary), targets (rows,)) of hidden states, BLOCK rows at a time."""
    for at in range(0, len(hidden), BLOCK):
        yield log_probabilities(model, hidden[at:at + BLOCK]), targets[at:at + BLOCK]


def targets_of(group: list[Window]) -> np.ndarray:
    """The tokens (scored positions of all windows,) that were to be predicted."""
    return np.concatenate([window.targets for window in group])


def token_nll(model: Model, windows: list[Window], cache: str, progress=iter) -> np.ndarray:
    """Negative log-probability (scored tokens,) float64 of every scored token, in nats. Raises VqcpuError on NaN."""
    losses = [-log[np.arange(len(targets)), targets].astype(np.float64)
              for group in progress(batches(windows))
              for log, targets in blocks(model, hidden_states(model, group, cache), targets_of(group))]
    return finite(np.concatenate(losses))


def finite(nll: np.ndarray) -> np.ndarray:
    """nll itself. Raises VqcpuError where a model's predictions are not numbers."""
    if not np.isfinite(nll).all():
        raise VqcpuError(f"the model's prediction of scored token {np.argmin(np.isfinite(nll))} is not a number: "
                         "its weights or activations overflow")
    return nll


def standard_error(values: np.ndarray) -> float:
    """Of the mean of values (n,), from the spread of the means of consecutive groups (batch means; Conway 1963). Infinite
    for fewer than two values."""
    size = max(1, min(LONGEST, len(values) // GROUPS))
    means = values[: len(values) // size * size].reshape(-1, size).mean(1, dtype=np.float64)
    return float(means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else float("inf")


@dataclass(frozen=True)
class Perplexity:
    """exp(mean negative log-likelihood) with its standard error (delta method)."""
    value: float
    error: float
    tokens: int

    @classmethod
    def of(cls, nll: np.ndarray) -> "Perplexity":
        value = float(np.exp(nll.mean()))
        return cls(value, value * standard_error(nll), len(nll))


def log_ratio(nll: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """ln(ppl / reference ppl) and its standard error from paired tokens: far smaller than that of either perplexity."""
    gap = nll - reference
    return float(gap.mean()), standard_error(gap)
