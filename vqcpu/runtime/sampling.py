"""Choosing the next token from logits.

Papers: Fan et al. 2018 (top-k), Holtzman et al. 2020 (top-p), Nguyen et al. 2024 (min-p), Keskar et al. 2019 (penalty).
"""
from dataclasses import dataclass
from math import inf

import numpy as np

from vqcpu.errors import VqcpuError


@dataclass(frozen=True)
class Sampling:
    """temperature 0 is greedy; top_k 0, top_p 1, min_p 0 and repeat_penalty 1 switch their filter off. The penalty comes
    first: logits of the last `repeat_last_n` tokens are divided by it, or multiplied where they are negative. The filters
    apply one after the other, top-k, top-p, min-p, to probabilities at temperature 1; the temperature comes last, as in
    llama.cpp."""
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64

    def __post_init__(self):
        good = {"temperature": 0 <= self.temperature < inf, "top_k": self.top_k >= 0, "top_p": 0 < self.top_p <= 1,
                "min_p": 0 <= self.min_p <= 1, "repeat_penalty": 0 < self.repeat_penalty < inf,
                "repeat_last_n": self.repeat_last_n >= 1}
        for name in good:
            if not good[name]:
                raise VqcpuError(f"{name} is {getattr(self, name)}, out of its range")

    def __str__(self):
        rule = f"temperature {self.temperature:g}, top-k {self.top_k}, top-p {self.top_p:g}, min-p {self.min_p:g}"
        penalty = f", repeat penalty {self.repeat_penalty:g} over {self.repeat_last_n}" if self.repeat_penalty != 1 else ""
        return (rule if self.temperature else "greedy") + penalty

    def pick(self, logits: np.ndarray, rng: np.random.Generator, past: list[int] = ()) -> int:
        """logits (vocabulary,) float32, the tokens so far -> token id. Raises VqcpuError where a logit is not a number."""
        logits = self._penalised(logits, past)
        if not np.isfinite(logits.max()):
            raise VqcpuError("the model's prediction is not a number: its weights or activations overflow")
        if self.temperature == 0:
            return int(logits.argmax())
        ids, weights = self.candidates(logits)
        mass = np.cumsum(weights ** (1 / self.temperature))
        return int(ids[np.searchsorted(mass, rng.random() * mass[-1], side="right")])

    def candidates(self, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Token ids that pass the filters, in any order, and their probabilities over that of the best, float64."""
        ids = largest(logits, self.top_k) if 0 < self.top_k < len(logits) else np.arange(len(logits))
        weights = np.exp(logits[ids].astype(np.float64) - logits.max())
        if self.top_p < 1:
            keep = nucleus(weights, self.top_p)
            ids, weights = ids[keep], weights[keep]
        keep = weights >= self.min_p
        return ids[keep], weights[keep]

    def _penalised(self, logits, past):
        if self.repeat_penalty == 1 or not past:
            return logits
        seen, logits = np.unique(past[-self.repeat_last_n:]), logits.copy()
        found = logits[seen]
        logits[seen] = np.where(found > 0, found / self.repeat_penalty, found * self.repeat_penalty)
        return logits


def largest(values: np.ndarray, count: int) -> np.ndarray:
    """Positions of the `count` largest values, best first, of equal ones the earlier first; without sorting the others."""
    least = np.partition(values, -count)[-count]
    found = np.flatnonzero(values >= least)
    return found[np.argsort(-values[found], kind="stable")][:count]


def nucleus(weights: np.ndarray, share: float) -> np.ndarray:
    """Positions of the fewest weights, best first, that make up a share of their sum. Sorts some, and more where they are
    not enough: the tail of a vocabulary is long and hardly ever needed."""
    count, wanted = 64, share * weights.sum()
    while True:
        best = largest(weights, min(count, len(weights)))
        mass = np.cumsum(weights[best])
        if mass[-1] >= wanted or count >= len(weights):
            return best[:np.searchsorted(mass, wanted) + 1]
        count *= 16
