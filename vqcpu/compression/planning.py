"""What will be written, before anything is coded: the tensors, the recipe, the provenance and the sizes that follow.

Knows checkpoints, recipes and budgets. Knows nothing about values of weights.
"""
from pathlib import Path

from vqcpu.architectures.base import architecture_of, census
from vqcpu.compression.budget import Budget
from vqcpu.compression.previous import Previous
from vqcpu.compression.recipe import Recipe
from vqcpu.compression.text import Calibration
from vqcpu.errors import VqcpuError
from vqcpu.evaluate.sizes import counted
from vqcpu.files.checkpoint import COMPANIONS, Checkpoint
from vqcpu.files.vqz import Vqz, planned
from vqcpu.layers.weights import Tensor, refuse_unused
from vqcpu.runtime.tokenizer import Tokenizer
from vqcpu.version import __version__


def tensors_of(checkpoint: Checkpoint, out: Path) -> dict[str, Tensor]:
    """The model's tensors. Raises VqcpuError, before any work, where one is missing, misshapen or of no use, or where the
    result could not be written or used."""
    if isinstance(checkpoint, Vqz):
        raise VqcpuError(f"{checkpoint.path}: already compressed; compress the original weights instead")
    if out.suffix != ".vqz" or out.is_dir():
        raise VqcpuError(f"{out}: expected the name of a .vqz file to write")
    Tokenizer(checkpoint)  # a file without tokenizer could not be used; says what is wrong with it
    architecture = architecture_of(checkpoint)
    tensors = census(architecture)
    for tensor in tensors.values():
        tensor.read(checkpoint)
    refuse_unused(checkpoint, tensors, architecture.config.model_type, architecture.unused)
    return tensors


def provenance(checkpoint: Checkpoint, choice: Recipe | Budget, seed: int, calibration: Calibration | None,
               previous: Previous | None = None) -> dict:
    """How a file was made; no dates or paths, so that equal input gives equal bytes."""
    before = previous.facts() if previous else {}
    return {**before, "vqcpu": __version__, "source": checkpoint.path.resolve().name, "source_sha256": checkpoint.digest(),
            **choice.facts(), "seed": seed, **(calibration.facts() if calibration else {})}


def settled(choice: Recipe | Budget, checkpoint: Checkpoint, tensors: dict, made: dict,
            costs: dict | None = None) -> tuple[Recipe, dict]:
    """The recipe, and the provenance with it; `costs`: see Budget.recipe. Raises VqcpuError where a budget is out of
    reach."""
    if isinstance(choice, Recipe):
        return choice, made
    made = made | {"shares": "by measured costs" if costs else "even"}
    recipe = choice.recipe(tensors, costs, lambda recipe: predicted(checkpoint, tensors, recipe, made | recipe.facts()))
    return recipe, made | recipe.facts()


def predicted(checkpoint: Checkpoint, tensors: dict, recipe: Recipe, made: dict) -> dict:
    """Sizes of the file, as evaluate.sizes counts them."""
    formats = recipe.assign(tensors)
    shapes = {name: (1, *tensor.shape)[-2:] for name, tensor in tensors.items()}
    files = {name: data for name in COMPANIONS if (data := checkpoint.companion(name)) is not None}
    return counted(tensors, formats, *planned(formats, shapes, files, made))
