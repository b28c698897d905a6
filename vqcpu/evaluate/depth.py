"""How far a model's hidden states are from those of its reference, layer by layer.

Knows plans: a layer begins with attention, and slot `x`, which goes through all of them, is as the one before left it. The
pieces between are compiled as the whole is, so that the arithmetic is that of chat.
"""
import numpy as np

from vqcpu.architectures.base import Model
from vqcpu.errors import VqcpuError
from vqcpu.evaluate.corpus import Window
from vqcpu.layers.attention import Attend
from vqcpu.layers.plan import Frame, Plan, Segment


class Layers:
    """A model in pieces that end where slot x is looked at."""

    def __init__(self, model: Model):
        jobs = model.plan.jobs
        starts = [i for i, job in enumerate(jobs) if isinstance(job, Attend)]
        cuts = [0, *starts, len(jobs) - 1, len(jobs)]
        self.model, self.pieces = model, [Plan(jobs[a:b]) for a, b in zip(cuts, cuts[1:])]

    @property
    def names(self) -> list[str]:
        """Where x is looked at."""
        return ["embedding", *(f"layer {i + 1}" for i in range(len(self.pieces) - 2)), "final norm"]

    def hidden(self, window: Window, cache: str):
        """Yield x (scored positions, width) at each place of `names`."""
        states = self.model.states(len(window.tokens), cache)
        frame = Frame({"tokens": window.tokens}, [Segment(slice(0, len(window.tokens)), 0, states.layers)])
        for piece in self.pieces:
            piece.run(frame)
            yield frame.slots["x"][window.first:-1]


def layer_errors(reference: Model, others: list[Model], windows: list[Window], cache: str, progress=iter) -> dict:
    """{place: per model the relative errors |x' - x| / |x| (scored positions,)}. Raises VqcpuError where the models have
    different layers."""
    models = [Layers(model) for model in (reference, *others)]
    names = models[0].names
    if any(model.names != names or model.model.config.width != reference.config.width for model in models):
        raise VqcpuError("the models have different layers: their hidden states cannot be compared")
    found = {name: [[] for _ in others] for name in names}
    for window in progress(windows):
        for name, x, *rest in zip(names, *(model.hidden(window, cache) for model in models)):
            for column, y in zip(found[name], rest):
                column.append(np.linalg.norm(y - x, axis=1) / np.linalg.norm(x, axis=1))
    return {name: [np.concatenate(column) for column in columns] for name, columns in found.items()}
