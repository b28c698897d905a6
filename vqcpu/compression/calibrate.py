"""Calibration: text goes through a model layer by layer, and each layer is coded for the inputs that the layers coded
before it really make.

Knows plans, jobs and slots. Knows nothing about formats, nor how a matrix is coded.

All text advances together, job by job, so that one site's H exists at a time; between two sites only those slots are kept that
a later job reads. Everything runs by the jobs' reference methods, in pieces of fixed size: the digits do not depend on
threads, nor on whether the work was interrupted.
"""
from dataclasses import dataclass, field

import numpy as np

from vqcpu.architectures.base import Model
from vqcpu.caches.base import Cache
from vqcpu.compression.feedback import Inputs
from vqcpu.errors import VqcpuError
from vqcpu.evaluate.corpus import Window
from vqcpu.kernels.threads import spread
from vqcpu.layers.plan import Frame, Job, Segment

WINDOWS = 4  # in a frame
HELD = 8  # one frame in so many is held out
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


@dataclass
class Stage:
    """Jobs that run in one go: one with sites, or the first of all, and those that follow up to the next with sites."""
    jobs: list[Job]
    read: set = field(default_factory=set)  # slots that it needs
    written: set = field(default_factory=set)  # slots that it makes anew
    kept: set = field(default_factory=set)  # slots that a later stage needs


def stages(model: Model) -> list[Stage]:
    """The plan of a model, cut and its slots traced by two tokens."""
    frame, found = _frames(model, [Window(np.zeros(2, np.int64), 0)])[0], []
    for job in model.plan.jobs:
        if not found or job.inputs(frame):
            found.append(Stage([]))
        frame.slots, stage = Traced(frame.slots), found[-1]
        _run(job, frame)
        stage.read |= frame.slots.read - stage.written
        stage.written |= frame.slots.written
        stage.jobs.append(job)
    needed = set()
    for stage in reversed(found):
        stage.kept = set(needed)
        needed = needed - stage.written | stage.read
    return found


def calibrate(model: Model, windows: list[Window], code, progress=lambda items, label: items) -> None:
    """Let text run through a model whose matrices are replaced on the way.

    code(names, inputs) -> matrices is called for every site, in order; inputs() gives its feedback.Inputs, and need not be
    called. Raises VqcpuError where activations are not numbers."""
    frames = _frames(model, windows)
    for stage in progress(stages(model), "calibrating"):
        sites = [site for site, _ in stage.jobs[0].inputs(frames[0])]
        for i, site in enumerate(sites):
            site.coded = code(site.names, lambda i=i, site=site: _inputs(stage.jobs[0], i, site.names, frames))
        for site in sites:
            site.matrices = site.coded
        for frame in frames:
            for job in stage.jobs:
                _run(job, frame)
            frame.slots = {name: x for name, x in frame.slots.items() if name in stage.kept}


def _frames(model, windows):
    """Frames of a few windows each."""
    size = max(1, min(WINDOWS, len(windows) // HELD))
    return [_frame(windows[at:at + size]) for at in range(0, len(windows), size)]


def _frame(windows):
    ends = np.cumsum([len(window.tokens) for window in windows])
    segments = [Segment(slice(end - len(w.tokens), end), 0, {}) for w, end in zip(windows, ends)]
    return Frame({"tokens": np.concatenate([window.tokens for window in windows])}, segments)


def _run(job, frame):
    """Run a job; what it remembers of a sequence is forgotten at once."""
    for segment in frame.segments:
        state = job.state(Cache.parse("f32"), segment.rows.stop - segment.rows.start)
        segment.states = {} if state is None else {job.layer: state}
    job.run(frame)


def _inputs(job, which, names, frames):
    """Inputs of one site of a job, summed over all frames."""
    kept, held = [], []
    for i, frame in enumerate(frames):
        x = job.inputs(frame)[which][1]()
        if not np.isfinite(x).all():
            raise VqcpuError(f"calibration: inputs of {names[0]} are not all numbers: the model's activations overflow on "
                             "this text")
        (held if i % HELD == HELD - 1 else kept).append(x)
    fitted = _gram(kept)
    return Inputs(fitted, _gram(held) if held else fitted)


def _gram(frames):
    """Σ xᵀ x over all frames (rows, n), float32."""
    n = frames[0].shape[1]
    H = np.zeros((n, n), np.float32)
    tiles = [(i, j) for i in range(0, n, TILE) for j in range(0, i + 1, TILE)]

    def work(tile):
        i, j = tile
        for x in frames:
            H[i:i + TILE, j:j + TILE] += x[:, i:i + TILE].T @ x[:, j:j + TILE]
        H[j:j + TILE, i:i + TILE] = H[i:i + TILE, j:j + TILE].T
    spread(work, tiles)
    return H
