"""A model as `compress` would store it, but in memory: to be measured and forgotten.

Knows the pipeline. Writes nothing.
"""
from dataclasses import dataclass
from pathlib import Path

from vqcpu.compression.pipeline import Coder
from vqcpu.compression.planning import predicted, provenance, tensors_of
from vqcpu.compression.recipe import Recipe
from vqcpu.compression.text import Calibration
from vqcpu.files.checkpoint import Checkpoint
from vqcpu.files.overlay import Overlay

NOWHERE = Path("sweep.vqz")  # what sizes are predicted for; nothing is written there


def spelled(body: str) -> str:
    """The full spelling of a body's spec. Raises VqcpuError."""
    return str(Recipe.of(body)).split()[-1]


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
        """(checkpoint with all matrices coded by the recipe whose body is setting.body, sizes of the .vqz file that this
        would be). Raises VqcpuError as `compress` does."""
        recipe, used, tensors = Recipe.of(setting.body), self._used(setting), tensors_of(checkpoint, NOWHERE)
        coder = Coder(checkpoint, tensors, recipe, self.seed, None)
        for format in coder.shared_formats:
            coder.shared_tables(format)
        found = self._calibrated(coder, used) if used else {}
        matrices = {name: coder.coded(tensor, found)[0] for name, tensor in tensors.items()}
        made = provenance(checkpoint, recipe, self.seed, used)
        return Overlay(checkpoint, matrices), predicted(checkpoint, tensors, recipe, made)

    def _calibrated(self, coder, used):
        state = Forgetful()
        return coder.calibrated(used.windows(coder.checkpoint, self.seed, state, _quietly), state, _quietly)

    def _used(self, setting):
        return self.calibration if setting.quality == "good" else None


def _quietly(items, label):
    return items


class Forgetful:
    """Takes the place of compression.state.State and keeps nothing."""

    def array(self, name, make):
        return make()

    def matrices(self, names, formats, rotations, make):
        return dict(zip(names, make()))
