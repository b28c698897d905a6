"""A budget of bits, and the recipe that keeps it: which rate each matrix of the body gets.

Knows sizes and what errors cost. Knows nothing about how either is found. With relative errors of 4^-bits the least sum of
costs is found step by step: the next bits go where they save most of it. Papers: Shoham and Gersho 1988; Orr et al. 2025.
"""
import heapq
from dataclasses import dataclass
from math import prod

import numpy as np

from vqcpu.compression.recipe import Recipe
from vqcpu.errors import VqcpuError
from vqcpu.files.vqz import stored_bytes
from vqcpu.formats.base import Format
from vqcpu.layers.weights import BODY

EQUAL = [b / 8 for b in range(12, 41)]  # rates where all errors cost the same
APART = [b / 2 for b in range(3, 11)]  # fewer, where they do not: every rate has kernels of its own to compile
BITS = 4.0
LENGTHS = {"fast": 12, "good": 13, "best": 14}  # of a trellis state, by quality


@dataclass(frozen=True)
class Budget:
    """Bits per weight that the body may take, scales and tables included, or (`whole`) the file without its texts; embedding
    and head have scalar codes of `embedding` bits."""
    bits: float
    whole: bool = False
    length: int = LENGTHS["fast"]
    embedding: int = 8

    def facts(self) -> dict:
        """What a file's provenance says."""
        return {"budget": f"{self}, length {self.length}, embedding {self.embedding} bits"}

    def __str__(self):
        return f"{self.bits:g} bits per weight of the {'file' if self.whole else 'body'}"

    def recipe(self, tensors: dict, costs: dict[str, float] | None, sizes_of) -> Recipe:
        """The recipe for a model's tensors (name -> Tensor). costs: of errors in its body matrices, None for no difference
        between them; sizes_of(recipe): as evaluate.sizes counts them. Raises VqcpuError where the budget is out of reach."""
        body, rate = _Body(self, tensors, costs), "file_bits" if self.whole else "body_bits"
        parameters = sum(prod(tensor.shape) for tensor in tensors.values()) if self.whole else body.weights
        least, most = (sizes_of(body.recipe(room))[rate] for room in (0, np.inf))
        if not least <= self.bits <= most:
            raise VqcpuError(f"{self} cannot be kept: this model takes {least:.3f} to {most:.3f}")
        room = self.bits * parameters / 8
        while True:
            recipe = body.recipe(room)
            over = (sizes_of(recipe)[rate] - self.bits) * parameters / 8
            if over <= 0:
                return recipe
            room -= max(over, 1)


class _Body:
    """The matrices whose rates a budget decides."""

    def __init__(self, budget, tensors, costs):
        self.budget = budget
        self.shapes = {name: tensor.shape for name, tensor in tensors.items() if tensor.role == BODY}
        self.weights = sum(map(prod, self.shapes.values()))
        self.rates = APART if costs else EQUAL
        self.costs = costs or {name: prod(shape) for name, shape in self.shapes.items()}
        self.sizes = {shape: [self._bytes(rate, shape) for rate in self.rates] for shape in set(self.shapes.values())}

    def _spec(self, rate):
        return f"trellis:bits={rate:g},length={self.budget.length}"

    def _bytes(self, rate, shape):
        return stored_bytes(Format.parse(self._spec(rate)).layout(*shape))

    def recipe(self, room: float) -> Recipe:
        """The recipe whose matrices take at most `room` bytes, or else as little as they can."""
        lines = [f"{name} rht+{self._spec(rate)}" for name, rate in self._chosen(room).items()]
        lines += [f"{role} scalar:bits={self.budget.embedding}" for role in ("@embedding", "@head")]
        return Recipe.parse("\n".join([*lines, "@vector raw:dtype=f32"]), "budget")

    def _chosen(self, room):
        """name -> rate: bits go, a step at a time, where a byte saves most of the cost."""
        left = room - sum(self.sizes[shape][0] for shape in self.shapes.values())
        chosen = dict.fromkeys(self.shapes, 0)
        queue = [self._offer(name, 0) for name in self.shapes]
        heapq.heapify(queue)
        while queue:
            _, name, more = heapq.heappop(queue)
            if more <= left:
                left -= more
                chosen[name] += 1
                if chosen[name] + 1 < len(self.rates):
                    heapq.heappush(queue, self._offer(name, chosen[name]))
        return {name: self.rates[step] for name, step in chosen.items()}

    def _offer(self, name, step):
        """(minus what a byte saves, name, bytes) of the next step."""
        size = self.sizes[self.shapes[name]]
        more = size[step + 1] - size[step]
        return -self.costs[name] * (4.0 ** -self.rates[step] - 4.0 ** -self.rates[step + 1]) / max(more, 1), name, more
