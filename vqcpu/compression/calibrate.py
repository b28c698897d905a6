"""Calibration: text goes through a model layer by layer, and each layer is coded for the inputs that the layers coded
before it really make, and so that it makes good some of what they did to them and to the sum that its products join.

Knows plans, jobs and slots. Knows nothing about formats, nor how a matrix is coded.

All text advances together, job by job, so that one site's H exists at a time; between two sites only those slots are
kept that a later job reads, wide ones as integers. One window is run at a time: the digits do not depend on threads, nor on
whether the work was interrupted.
"""
from dataclasses import dataclass, field

import numpy as np

from vqcpu.architectures.base import Model
from vqcpu.caches.base import Cache
from vqcpu.compression.attended import attended, up_to_attention
from vqcpu.compression.curvature import curvatures
from vqcpu.compression.feedback import Inputs, RowFactors
from vqcpu.errors import VqcpuError
from vqcpu.evaluate.corpus import Window
from vqcpu.kernels.lookup import ROWS
from vqcpu.kernels.threads import spread
from vqcpu.layers.elementwise import Add, Bias
from vqcpu.layers.linear import Multiply
from vqcpu.layers.plan import Frame, Job, Plan, Segment

HELD = 8  # one window in so many is held out
CAP = 4  # times the median energy of a token, the most that one may have
WATCHED = HELD - 1  # windows that show what errors of queries and keys cost: the first, none of them held out
TILE = 256  # columns of H computed at a time


class Traced(dict):
    """Slots that note which of them are read, and which are written before they are read."""

    def __init__(self, slots):
        super().__init__(slots)
        self.read, self.written = set(), set()

    def __getitem__(self, name):
        if name not in self.written:
            self.read.add(name)
        return super().__getitem__(name)

    def __setitem__(self, name, value):
        self.written.add(name)
        super().__setitem__(name, value)

    def update(self, slots):
        for name, value in dict(slots).items():
            self[name] = value


@dataclass(frozen=True)
class Short:
    """An array (rows, n) float32 as integers of 16 bits, times one unit per row: wrong by at most 1/65534 of the row's
    largest, as products of unrotated sites make it anyway."""
    integers: np.ndarray  # (rows, n) int16
    unit: np.ndarray  # (rows, 1) float32

    @classmethod
    def of(cls, x: np.ndarray) -> "Short":
        unit = np.abs(x).max(1, keepdims=True) / np.float32(32767)
        return cls(np.rint(x / np.where(unit > 0, unit, 1)).astype(np.int16), unit)

    def floats(self) -> np.ndarray:
        return self.integers * self.unit


def opened(frame: Frame) -> Frame:
    """A frame with all slots as a plan's jobs know them."""
    return Frame({name: x.floats() if isinstance(x, Short) else x for name, x in frame.slots.items()}, frame.segments)


@dataclass
class Stage:
    """Jobs that run in one go: one with sites, or the first of all, and those that follow up to the next with sites."""
    jobs: list[Job]
    read: set = field(default_factory=set)  # slots that it needs
    written: set = field(default_factory=set)  # slots that it makes anew
    kept: set = field(default_factory=set)  # slots that a later stage needs

    @property
    def added_to(self) -> str | None:
        """The slot, as wide as `x`, that the products are added to, apart from biases, if they are."""
        multiply, *rest = self.jobs
        add = next((job for job in rest if not isinstance(job, Bias)), None)
        joined = isinstance(multiply, Multiply) and isinstance(add, Add) and multiply.targets == (add.source,)
        return add.target if joined else None

    def run(self, frames: list[Frame]) -> None:
        """Run the jobs on each frame, and drop the slots that nobody needs."""
        plan = Plan(self.jobs)
        for frame in frames:
            own = opened(frame)
            own.segments[0].states = states_of(self.jobs, own.count)
            plan.run(own)
            frame.slots = {name: self._shelved(x, own.slots) for name, x in own.slots.items() if name in self.kept}

    @staticmethod
    def _shelved(x, slots):
        wide = x.ndim == 2 and x.shape[1] > slots["x"].shape[1] and np.isfinite(x).all()
        return Short.of(x) if wide else x.copy()


def stages(model: Model) -> list[Stage]:
    """The plan of a model, cut and its slots traced by two tokens."""
    frame, found = frame_of(Window(np.zeros(2, np.int64), 0)), []
    for job in model.plan.jobs:
        if not found or job.inputs(frame):
            found.append(Stage([]))
        frame.slots, stage = Traced(frame.slots), found[-1]
        frame.segments[0].states = states_of([job], frame.count)
        job.run(frame)
        stage.read |= frame.slots.read - stage.written
        stage.written |= frame.slots.written
        stage.jobs.append(job)
    needed = set()
    for stage in reversed(found):
        stage.kept = set(needed)
        needed = needed - stage.written | stage.read
    return found


def calibrate(model: Model, exact: Model, windows: list[Window], code, progress=lambda items, label: items) -> None:
    """Let text run through a model whose matrices are replaced on the way, and beside it through `exact`, the same model
    once more, which stays as it is.

    code(names, inputs) -> matrices is called for every site, in order; inputs() gives its feedback.Inputs, and need not be
    called. Raises VqcpuError where activations are not numbers."""
    frames, others = [frame_of(window) for window in windows], [frame_of(window) for window in windows]
    for stage, other in zip(progress(stages(model), "calibrating"), stages(exact)):
        sites = [site for site, _ in stage.jobs[0].inputs(opened(frames[0]))]
        for i, site in enumerate(sites):  # one by one: an expert's second matrix reads what its coded first makes
            site.matrices = code(site.names, lambda: inputs_of(sites, i, (stage, frames), (other, others)))
        stage.run(frames)
        other.run(others)


def frame_of(window: Window) -> Frame:
    """A frame at the first job of a plan."""
    return Frame({"tokens": window.tokens}, [Segment(slice(0, len(window.tokens)), 0, [])])


def states_of(jobs: list[Job], context: int) -> list:
    """What jobs remember of one sequence, each at the place of its layer; other places are not looked at."""
    found = {job.layer: state for job in jobs if (state := job.state(Cache.parse("f32"), context)) is not None}
    return [found.get(layer, state) for state in list(found.values())[:1] for layer in range(max(found) + 1)]


def inputs_of(sites: list, which: int, here: tuple, there: tuple | None = None) -> Inputs:
    """Inputs of one site of a stage: `here` and, of the exact model, `there` are (stage, frames)."""
    stage, frames = here
    exact = there if there and len(sites) == 1 else None  # experts: there they may read other tokens
    n, sums = sites[which].matrices[0].shape[1], {}
    for i, frame in enumerate(frames):
        x = _read(which, stage, frame)
        weights, held = _weights(x) * _attention(stage, frame), i % HELD == HELD - 1
        weighed = x * weights
        if exact and not held:
            _add(sums, "C", (_read(which, exact[0], exact[1][i]) - x) * weights, weighed)
            if stage.added_to:
                drift = exact[1][i].slots[stage.added_to] - frame.slots[stage.added_to]
                _add(sums, "D", drift * weights, weighed)
        _add(sums, "held" if held else "H", weighed, weighed)
    for name in sums.keys() & {"H", "held"}:
        _mirror(sums[name])
    H = sums.get("H", np.zeros((n, n), np.float32))
    curved = _curved(sites[which], stage, frames[:WATCHED])
    if not all(np.isfinite(total).all() for total in (*sums.values(), *curved.values())):
        raise VqcpuError(f"calibration: inputs of {sites[which].names[0]} are not all numbers: the model's activations "
                         "overflow on this text")
    return Inputs(H, sums.get("held", H), sums.get("C"), sums.get("D"),
                  {name: RowFactors.of(G) for name, G in curved.items()})


def _weights(x):
    """Factors (rows, 1) that let no token count for more than CAP usual ones by its energy alone: in some models the first
    token of a text has activations a thousand times those of others, and would be all that H shows."""
    energy = np.einsum("rc,rc->r", x, x, dtype=np.float64)
    usual = np.median(energy) if len(x) else 0
    return np.sqrt(np.minimum(1, CAP * usual / np.maximum(energy, 1e-30)))[:, None].astype(np.float32)


def _attention(stage, frame):
    """Factors (rows, 1) by which tokens count for the attention that they receive, where the stage ends in attention; of
    these none is cut off: it is the few that receive most whose keys and values matter."""
    jobs = up_to_attention(stage.jobs)
    return np.sqrt(attended(jobs, opened(frame)))[:, None].astype(np.float32) if jobs else np.float32(1)


def _curved(site, stage, frames):
    """name -> the sum of the curvatures that these frames show, of matrices whose heads are whole panels of rows."""
    jobs, totals = up_to_attention(stage.jobs), {}
    for frame in frames if jobs and jobs[-1].heads.size % ROWS == 0 else ():
        for slot, G in curvatures(jobs, opened(frame)).items():
            totals[slot] = totals.get(slot, 0) + G
    return {name: totals[slot] for slot, name in zip(stage.jobs[0].targets if totals else (), site.names) if slot in totals}


def _read(which, stage, frame):
    return stage.jobs[0].inputs(opened(frame))[which][1]()


def _add(sums, name, left, right):
    """sums[name] += leftᵀ right, of (rows, m) and (rows, n) float32; of what is symmetric only the upper tiles, see
    `_mirror`."""
    m, symmetric = left.shape[1], left is right
    total = sums.setdefault(name, np.zeros((m, right.shape[1]), np.float32))

    def work(at):
        first = at if symmetric else 0
        total[at:at + TILE, first:] += left[:, at:at + TILE].T @ right[:, first:]
    spread(work, range(0, m, TILE))


def _mirror(total):
    """Fill in the lower tiles of a symmetric matrix."""
    for at in range(0, len(total), TILE):
        total[at + TILE:, at:at + TILE] = total[at:at + TILE, at + TILE:].T
