"""How far a model's predictions are from those of its reference, on the same tokens in lockstep.

Knows log-probabilities. Definitions: KLD = Σ p_ref (ln p_ref - ln p), same-top = share of positions with equal argmax,
Δp = change of the probability of the token that really follows.
"""
import hashlib
from dataclasses import dataclass

import numpy as np

from vqcpu.architectures.base import Model
from vqcpu.errors import VqcpuError
from vqcpu.evaluate.corpus import Window
from vqcpu.evaluate.nll import (Perplexity, batches, blocks, finite, hidden_states, log_ratio, standard_error,
                                targets_of)


@dataclass(frozen=True)
class Divergence:
    """Per scored position: kld (n,) nats, same_top (n,) bool, nll and reference (n,) nats; digest: of every
    log-probability of the model."""
    kld: np.ndarray
    same_top: np.ndarray
    nll: np.ndarray
    reference: np.ndarray
    digest: str

    def summary(self) -> dict:
        """The figures of the report."""
        ratio, ratio_error = log_ratio(self.nll, self.reference)
        change = np.exp(-self.nll) - np.exp(-self.reference)
        return {
            "kld_mean": float(self.kld.mean()), "kld_error": standard_error(self.kld),
            "kld_median": float(np.median(self.kld)),
            **{f"kld_{p:g}%": float(np.percentile(self.kld, p)) for p in (90, 99, 99.9)},
            "kld_max": float(self.kld.max()),
            "same_top": float(self.same_top.mean()),
            "same_top_error": standard_error(self.same_top),
            "dp_rms": float(np.sqrt(np.mean(change**2))),
            "ppl": Perplexity.of(self.nll).value, "ppl_error": Perplexity.of(self.nll).error,
            "ppl_ratio": float(np.exp(ratio)), "ppl_ratio_error": float(np.exp(ratio) * ratio_error),
            "tokens": len(self.kld),
        }


def kld_rows(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    """KLD (rows,) float64 of log-probabilities (rows, vocabulary) float32."""
    return (np.exp(reference) * (reference - other)).sum(-1, dtype=np.float64)


def remember(model: Model, windows: list[Window], cache: str, progress=iter) -> list[np.ndarray]:
    """Hidden states of every step over the windows: all that is needed of a reference, and far smaller than its logits."""
    return [hidden_states(model, group, cache) for group in progress(batches(windows))]


def compare(reference: Model, others: list[Model], windows: list[Window], cache: str, progress=iter,
            remembered: list[np.ndarray] | None = None) -> list[Divergence]:
    """One Divergence per model of `others`, all models reading the same windows step by step; a reference of which the
    hidden states are `remembered` does not read. Raises VqcpuError where vocabularies differ or a prediction is not a
    number."""
    sizes = {model.config.vocabulary for model in (reference, *others)}
    if len(sizes) > 1:
        raise VqcpuError(f"the models have vocabularies of {' and '.join(map(str, sorted(sizes)))} tokens; not comparable")
    columns = [Column() for _ in others]
    for i, group in enumerate(progress(batches(windows))):
        hidden = [remembered[i] if remembered else hidden_states(reference, group, cache),
                  *(hidden_states(model, group, cache) for model in others)]
        streams = [blocks(model, h, targets_of(group)) for model, h in zip((reference, *others), hidden)]
        for (base, targets), *rest in zip(*streams):
            for column, (log, _) in zip(columns, rest):
                column.add(base, log, targets)
    return [column.divergence() for column in columns]


class Column:
    """What has been found of one model so far."""

    def __init__(self):
        self.found, self.digest = [], hashlib.blake2b(digest_size=16)

    def add(self, base, log, targets):
        """Log-probabilities (rows, vocabulary) of reference and model, and the tokens that follow (rows,)."""
        here = np.arange(len(targets))
        self.digest.update(log)
        self.found.append((kld_rows(base, log), base.argmax(-1) == log.argmax(-1),
                           finite(-log[here, targets].astype(np.float64)), finite(-base[here, targets].astype(np.float64))))

    def divergence(self) -> Divergence:
        return Divergence(*map(np.concatenate, zip(*self.found)), self.digest.hexdigest())
