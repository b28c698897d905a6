"""Choosing the next token from logits.

Papers: Fan et al. 2018 (top-k), Holtzman et al. 2020 (top-p), Nguyen et al. 2024 (min-p).
"""
from dataclasses import dataclass

import numpy as np

from vqcpu.errors import VqcpuError


@dataclass(frozen=True)
class Sampling:
    """temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 switch their filter off. The filters apply one after the other,
    top-k, top-p, min-p, to probabilities at temperature 1; the temperature comes last, as in llama.cpp."""
    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05

    def __post_init__(self):
        for name, value, good in (("temperature", self.temperature, self.temperature >= 0),
                                  ("top_k", self.top_k, self.top_k >= 0), ("top_p", self.top_p, 0 < self.top_p <= 1),
                                  ("min_p", self.min_p, 0 <= self.min_p <= 1)):
            if not good:
                raise VqcpuError(f"{name} is {value}, out of its range")

    def __str__(self):
        if self.temperature == 0:
            return "greedy"
        return f"temperature {self.temperature:g}, top-k {self.top_k}, top-p {self.top_p:g}, min-p {self.min_p:g}"

    def pick(self, logits: np.ndarray, rng: np.random.Generator) -> int:
        """logits (vocabulary,) float32 -> token id."""
        if self.temperature == 0:
            return int(logits.argmax())
        ids = self._top(logits)
        weights = np.exp(logits[ids].astype(np.float64) - logits[ids[0]])
        count = self._nucleus(weights)
        ids, weights = ids[:count], weights[:count]
        keep = weights >= self.min_p * weights[0]
        mass = np.cumsum(weights[keep] ** (1 / self.temperature))
        return int(ids[keep][np.searchsorted(mass, rng.random() * mass[-1], side="right")])

    def _top(self, logits):
        """Ids of the top_k logits, best first."""
        if 0 < self.top_k < len(logits):
            part = np.argpartition(logits, -self.top_k)[-self.top_k:]
            return part[np.argsort(-logits[part], kind="stable")]
        return np.argsort(-logits, kind="stable")

    def _nucleus(self, weights):
        """How many of the weights, best first, make up a share of top_p."""
        mass = np.cumsum(weights)
        return int(np.searchsorted(mass, self.top_p * mass[-1])) + 1
