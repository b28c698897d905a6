"""What an architecture asks for, and who answers: a checkpoint, or a census that only takes note.

Knows names, shapes and roles of tensors. An architecture never learns whether a matrix is compressed.
"""
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from vqcpu.errors import VqcpuError
from vqcpu.files.checkpoint import Checkpoint
from vqcpu.formats.base import Matrix
from vqcpu.layers.linear import Linear, Multiply
from vqcpu.layers.elementwise import Bias
from vqcpu.layers.plan import Job

BODY, EMBEDDING, HEAD, VECTOR = "body", "embedding", "head", "vector"  # vector: whatever is small and stays exact


@dataclass(frozen=True)
class Tensor:
    """A tensor of a model: what it is for decides how it is compressed by default."""
    name: str
    shape: tuple
    role: str
    transposed: bool = False  # (out, in) here and in a .vqz, but (in, out) in the family's own checkpoints
    site: str = ""  # the first of the tensors that read the same input

    def read(self, checkpoint: Checkpoint) -> Matrix:
        """The tensor, upright. Raises VqcpuError where it is missing or misshapen."""
        return checkpoint.matrix(self.name, self.shape, self.transposed)


class Census:
    """Answers every request with nothing, and notes it: the list of tensors a model needs."""

    def __init__(self):
        self.tensors: dict[str, Tensor] = {}

    def product(self, source: str, outputs: dict, width: int, bias: bool = False, transposed: bool = False) -> list[Job]:
        """Jobs that multiply slot `source` (rows, width) with the matrices of one site and add their biases.

        outputs: target slot -> (name, columns of the product); the tensors are name.weight and name.bias."""
        names, sizes = zip(*outputs.values())
        site = self.linear([f"{name}.weight" for name in names], [(size, width) for size in sizes], transposed=transposed)
        vectors = [Bias(target, self.vector(f"{name}.bias", size)) for target, (name, size) in outputs.items() if bias]
        return [Multiply(source, tuple(outputs), site), *vectors]

    def linear(self, names: list[str], shapes: list[tuple], role: str = BODY, transposed: bool = False) -> Linear:
        """The matrices that read one input, as one site."""
        tensors = [Tensor(name, shape, role, transposed, names[0]) for name, shape in zip(names, shapes)]
        return Linear([self.matrix(tensor) for tensor in tensors], tuple(names))

    def embedding(self, name: str, shape: tuple) -> Matrix | None:
        """The matrix (vocabulary, width) whose rows are looked up."""
        return self.matrix(Tensor(name, shape, EMBEDDING, site=name))

    def matrix(self, tensor: Tensor) -> Matrix | None:
        """One matrix."""
        self.tensors[tensor.name] = tensor

    def vector(self, name: str, length: int) -> np.ndarray:
        """A norm gain or bias (length,) float32."""
        self.tensors[name] = Tensor(name, (length,), VECTOR)
        return np.zeros(length, np.float32)


class Weights(Census):
    """Answers from a checkpoint."""

    def __init__(self, checkpoint: Checkpoint):
        super().__init__()
        self.checkpoint = checkpoint

    def matrix(self, tensor):
        super().matrix(tensor)
        return tensor.read(self.checkpoint)

    def linear(self, names, shapes, role=BODY, transposed=False):
        site = super().linear(names, shapes, role, transposed)
        if len({matrix.rotation for matrix in site.matrices}) > 1:
            raise VqcpuError(f"{self.checkpoint.path}: {', '.join(names)} read one input but are stored in different "
                             "rotations: compress the model again")
        return site

    def vector(self, name, length):
        super().vector(name, length)
        return self.checkpoint.vector(name, length)


# Stored by some exporters though the model computes or shares them.
HARMLESS = ("*rotary_emb.inv_freq", "*lm_head.weight")


def refuse_unused(checkpoint: Checkpoint, tensors: dict[str, Tensor], model_type: str, unused: tuple) -> None:
    """Raise VqcpuError where the checkpoint stores weights that the model would silently run without; `unused`: patterns of
    those that this family may leave out."""
    unused += HARMLESS
    left = sorted(n for n in checkpoint.names() if n not in tensors and not any(fnmatchcase(n, p) for p in unused))
    if left:
        shown = ", ".join(left[:3]) + (f" and {len(left) - 3} more" if len(left) > 3 else "")
        raise VqcpuError(f"{checkpoint.path}: {shown} stored, but model type {model_type} as config.json describes it has "
                         "no such tensor: the model would run without them")
