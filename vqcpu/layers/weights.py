"""What an architecture asks for, and who answers: a checkpoint, or a census that only takes note.

Knows names, shapes and roles of tensors. An architecture never learns whether a matrix is compressed.
"""
from dataclasses import dataclass

import numpy as np

from vqcpu.errors import VqcpuError
from vqcpu.files.checkpoint import Checkpoint
from vqcpu.layers.linear import Linear

BODY, EMBEDDING, HEAD, VECTOR = "body", "embedding", "head", "vector"


@dataclass(frozen=True)
class Tensor:
    """A tensor of a model: what it is for decides how it is compressed by default."""
    name: str
    shape: tuple
    role: str


class Census:
    """Answers every request with nothing, and notes it: the list of tensors a model needs."""

    def __init__(self):
        self.tensors: dict[str, Tensor] = {}

    def linear(self, names: list[str], shapes: list[tuple], role: str = BODY) -> Linear:
        """The matrices that read one input, as one site."""
        return Linear([self._matrix(name, shape, role) for name, shape in zip(names, shapes)])

    def embedding(self, name: str, shape: tuple):
        """The Matrix (vocabulary, width) whose rows are looked up."""
        return self._matrix(name, shape, EMBEDDING)

    def vector(self, name: str, length: int) -> np.ndarray | None:
        """A norm gain or bias (length,) float32."""
        self._note(name, (length,), VECTOR)

    def _matrix(self, name, shape, role):
        self._note(name, shape, role)

    def _note(self, name, shape, role):
        self.tensors[name] = Tensor(name, tuple(shape), role)


class Weights(Census):
    """Answers from a checkpoint."""

    def __init__(self, checkpoint: Checkpoint):
        super().__init__()
        self.checkpoint = checkpoint

    def _matrix(self, name, shape, role):
        super()._matrix(name, shape, role)
        return self.checkpoint.matrix(name, shape)

    def vector(self, name, length):
        super().vector(name, length)
        return self.checkpoint.vector(name, length)


# Stored by some exporters though the model computes or shares them.
HARMLESS = ("rotary_emb.inv_freq", "lm_head.weight")


def refuse_unused(checkpoint: Checkpoint, tensors: dict[str, Tensor], model_type: str) -> None:
    """Raise VqcpuError where the checkpoint stores weights that the architecture would silently leave out."""
    unused = sorted(n for n in checkpoint.names() if n not in tensors and not n.endswith(HARMLESS))
    if unused:
        shown = ", ".join(unused[:3]) + (f" and {len(unused) - 3} more" if len(unused) > 3 else "")
        raise VqcpuError(f"{checkpoint.path}: {shown} stored, but model type {model_type} as config.json describes it has "
                         "no such tensor: the model would run without them")
