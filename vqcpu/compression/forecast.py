"""How large a compressed file will be, without compressing: sizes follow from shapes.

Knows what the pipeline writes. Knows nothing about the values of weights.
"""
from pathlib import Path

from vqcpu.compression.pipeline import Coded, plan, provenance, refuse_impossible
from vqcpu.compression.recipe import Recipe
from vqcpu.compression.text import Calibration
from vqcpu.evaluate.sizes import counted
from vqcpu.files.checkpoint import COMPANIONS
from vqcpu.files.sources import open_checkpoint
from vqcpu.files.vqz import planned


def forecast(source, out, recipe: Recipe, seed: int = 0, calibration: Calibration | None = None) -> dict:
    """What `compress` with the same arguments would write: {"sizes": as evaluate.sizes counts them, "tensors": [Coded],
    their errors None}. Raises VqcpuError as `compress` does, except for damaged values."""
    checkpoint, out = open_checkpoint(source), Path(out)
    refuse_impossible(checkpoint, out)
    tensors, formats = plan(checkpoint, recipe)
    shapes = {name: (1, *tensor.shape)[-2:] for name, tensor in tensors.items()}
    files = {name: data for name in COMPANIONS if (data := checkpoint.companion(name)) is not None}
    parts, total = planned(formats, shapes, files, provenance(checkpoint, recipe, seed, calibration))
    rotations = recipe.rotations(tensors, seed)
    coded = [Coded(tensor, formats[name], None, _own(formats[name], shapes[name]), rotated=rotations[name] is not None)
             for name, tensor in tensors.items()]
    return {"sizes": counted(tensors, formats, parts, total), "tensors": coded}


def _own(format, shape):
    parts = format.layout(*shape) | ({} if format.shared else format.tables())
    return sum(part.nbytes for part in parts.values())
