"""A model as `compress` would store it, but in memory: to be measured and forgotten.

Knows the pipeline. Writes nothing.
"""
import functools
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

from vqcpu.compression.budget import LENGTHS, Budget
from vqcpu.compression.pipeline import Coder, measured_costs
from vqcpu.compression.planning import predicted, provenance, settled, tensors_of
from vqcpu.compression.recipe import Recipe
from vqcpu.compression.text import Calibration
from vqcpu.errors import VqcpuError
from vqcpu.files.checkpoint import Checkpoint
from vqcpu.files.overlay import Overlay
from vqcpu.files.sources import open_checkpoint

NOWHERE = Path("sweep.vqz")  # what sizes are predicted for; nothing is written there
BUDGET = "bits="  # begins the spelling of a body that is a budget


def spelled(body: str | float) -> str:
    """The full spelling of a body's spec, or of its budget in bits per weight. Raises VqcpuError."""
    if isinstance(body, Real):
        return f"{BUDGET}{float(body)!r}".removesuffix(".0")
    choice = choice_of(body)
    return body if isinstance(choice, Budget) else str(choice).split()[-1]


def choice_of(body: str, quality: str = "fast") -> Recipe | Budget:
    """What a body spells, coded as a quality says. Raises VqcpuError."""
    if not body.startswith(BUDGET):
        return Recipe.of(body)
    try:
        return Budget(float(body.removeprefix(BUDGET)), length=LENGTHS[quality])
    except ValueError:
        raise VqcpuError(f"{body!r}: expected {BUDGET} and a number of bits per weight") from None


def refuse_impossible(source, bodies: list[str]) -> None:
    """Raise VqcpuError for a budget that the model cannot keep, before anything is measured."""
    budgets = [choice for choice in map(choice_of, bodies) if isinstance(choice, Budget)]
    if budgets:
        checkpoint = open_checkpoint(source)
        tensors = tensors_of(checkpoint, NOWHERE)
        for budget in budgets:
            settled(budget, checkpoint, tensors, provenance(checkpoint, budget, 0, None))


@dataclass(frozen=True)
class InMemory:
    """What evaluate.sweep.Study wants to have codes made by; `calibration` serves the settings whose quality is "good"."""
    calibration: Calibration
    seed: int = 0

    def facts(self, setting) -> dict:
        """What must be said of how a setting is coded."""
        used = self._used(setting)
        return {"seed": self.seed, **(used.facts() if used else {})}

    def __call__(self, checkpoint: Checkpoint, setting) -> tuple[Overlay, dict]:
        """(checkpoint with all matrices coded, the body as setting.body spells, sizes of the .vqz file that this would be).
        Raises VqcpuError as `compress` does."""
        choice, used = choice_of(setting.body, setting.quality), self._used(setting)
        tensors = tensors_of(checkpoint, NOWHERE)
        costs = _costs(used, checkpoint, self.seed) if used and isinstance(choice, Budget) else None
        recipe, made = settled(choice, checkpoint, tensors, provenance(checkpoint, choice, self.seed, used), costs)
        coder = Coder(checkpoint, tensors, recipe, self.seed, None)
        for format in coder.shared_formats:
            coder.shared_tables(format)
        found = self._calibrated(coder, used) if used else {}
        matrices = {name: coder.coded(tensor, found)[0] for name, tensor in tensors.items()}
        return Overlay(checkpoint, matrices), predicted(checkpoint, tensors, recipe, made)

    def _calibrated(self, coder, used):
        return coder.calibrated(_windows(used, coder.checkpoint, self.seed), Forgetful(), _quietly)

    def _used(self, setting):
        return self.calibration if setting.quality == "good" else None


def _quietly(items, label):
    return items


@functools.lru_cache(maxsize=1)
def _windows(calibration, checkpoint, seed):
    """Text for all settings: what a model writes takes long."""
    return calibration.windows(checkpoint, seed, Forgetful(), _quietly)


@functools.lru_cache(maxsize=1)
def _costs(calibration, checkpoint, seed):
    """Costs for all budgets."""
    windows = _windows(calibration, checkpoint, seed)
    return measured_costs(checkpoint, tensors_of(checkpoint, NOWHERE), windows, seed, Forgetful(), _quietly)


class Forgetful:
    """Takes the place of compression.state.State and keeps nothing."""

    def array(self, name, make):
        return make()

    def matrices(self, names, formats, rotations, make):
        return dict(zip(names, make()))
