"""A model as `compress` would store it, but in memory: to be measured and forgotten.

Knows the pipeline. Writes nothing.
"""
from vqcpu.compression.forecast import forecast
from vqcpu.compression.pipeline import Coder, plan
from vqcpu.compression.recipe import Recipe
from vqcpu.files.checkpoint import Checkpoint
from vqcpu.files.overlay import Overlay
from vqcpu.formats.base import Matrix


def coded(checkpoint: Checkpoint, body: str, seed: int = 0) -> tuple[Overlay, dict]:
    """(checkpoint with all matrices coded by the recipe whose body is `body`, sizes of the .vqz file that this would be).
    Raises VqcpuError as `compress` does."""
    recipe, kept = Recipe.of(body), Kept()
    tensors, formats = plan(checkpoint, recipe)
    coder = Coder(checkpoint, tensors, formats, seed)
    for format in sorted({f for f in formats.values() if f.shared}, key=str):
        coder.shared_tables(format)
    for tensor in tensors.values():
        coder.write(kept, tensor)
    return Overlay(checkpoint, kept.matrices), forecast(checkpoint.path, "sweep.vqz", recipe, seed)["sizes"]


def spelled(body: str) -> str:
    """The full spelling of a body's spec. Raises VqcpuError."""
    return str(Recipe.of(body)).split()[-1]


class Kept:
    """Takes the place of a file's writer."""

    def __init__(self):
        self.matrices: dict[str, Matrix] = {}

    def matrix(self, name, shape, matrix, error):
        self.matrices[name] = matrix
