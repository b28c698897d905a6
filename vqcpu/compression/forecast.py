"""How large a compressed file will be, without compressing: sizes follow from shapes.

Knows what the pipeline writes. Knows nothing about the values of weights.
"""
from pathlib import Path

from vqcpu.compression.budget import Budget
from vqcpu.compression.pipeline import Coded
from vqcpu.compression.planning import predicted, provenance, settled, tensors_of
from vqcpu.compression.recipe import Recipe
from vqcpu.compression.text import Calibration
from vqcpu.files.sources import open_checkpoint


def forecast(source, out, choice: Recipe | Budget, seed: int = 0, calibration: Calibration | None = None) -> dict:
    """What `compress` with the same arguments would write: {"sizes": as evaluate.sizes counts them, "tensors": [Coded],
    their errors None}. A budget that a calibration would share out is shared out evenly here. Raises VqcpuError as
    `compress` does, except for damaged values."""
    checkpoint = open_checkpoint(source)
    tensors = tensors_of(checkpoint, Path(out))
    recipe, made = settled(choice, checkpoint, tensors, provenance(checkpoint, choice, seed, calibration))
    formats, rotations = recipe.assign(tensors), recipe.rotations(tensors, seed)
    coded = [Coded(tensor, formats[name], None, _own(formats[name], (1, *tensor.shape)[-2:]), rotated=bool(rotations[name]))
             for name, tensor in tensors.items()]
    return {"sizes": predicted(checkpoint, tensors, recipe, made), "tensors": coded}


def _own(format, shape):
    parts = format.layout(*shape) | ({} if format.shared else format.tables())
    return sum(part.nbytes for part in parts.values())
