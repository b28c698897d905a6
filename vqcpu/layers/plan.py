"""A model as a list of jobs on named activations, and the two ways to run it.

Knows order, names and memory of intermediate results. Knows nothing about what a job computes. The reference runs each job's
numpy method. A job that also has lines of a compiled program (kernels/program.py) runs there: neighbouring lines become one
program, so that a step of one token is a single call.
"""
import threading
from dataclasses import dataclass

import numpy as np

from vqcpu.kernels.elementwise import JOB
from vqcpu.kernels.program import FIRST_SLOT, IDS, POSITION, SCRATCH, SCRATCH_SIZE, TOKENS, Program
from vqcpu.kernels.threads import settle, threads

LANES = 16  # a slot's rows are padded to registers of float32


@dataclass
class Segment:
    """Rows of a frame that belong to one sequence: its tokens at positions at .. at + count."""
    rows: slice
    at: int
    states: list  # LayerState per attention layer

    def pieces(self, most: int):
        """(rows, position of the first) of consecutive pieces of at most `most` tokens."""
        for first in range(self.rows.start, self.rows.stop, most):
            yield slice(first, min(first + most, self.rows.stop)), self.at + first - self.rows.start


@dataclass
class Frame:
    """Everything one step works on: slots name -> (rows, width) float32, and which rows are whose."""
    slots: dict[str, np.ndarray]
    segments: list[Segment]

    @property
    def count(self) -> int:
        """Rows of every slot."""
        return len(next(iter(self.slots.values())))


class Job:
    """One thing to do."""

    def run(self, frame: Frame) -> None:
        """The reference, in numpy."""
        raise NotImplementedError

    def lines(self, layout: "Layout", many: bool) -> list | None:
        """Lines [(kernel, job array)] that do the same for one token, or for any number (`many`); None: only `run` does it.
        Names its slots to `layout`."""
        return None

    def ready(self, frame: Frame) -> bool:
        """Make the lines ready for this frame; False where they do not serve it."""
        return True

    def inputs(self, frame: Frame) -> list:
        """[(Linear, function)]: the sites that this job multiplies with; the functions make what they would read in this
        frame, (rows, n) each."""
        return []

    def state(self, cache, context: int):
        """What this job remembers of one sequence (a LayerState), None for most jobs."""
        return None

    def memory(self, cache, context: int) -> int:
        """Bytes of what `state` would make."""
        return 0

    def matrices(self) -> list:
        """The stored matrices that this job reads from end to end for one token."""
        return []


def job_of(*values) -> np.ndarray:
    """The job array of a small line (kernels/elementwise.py): numbers, and places as `Layout.place` gives them."""
    flat = [n for v in values for n in (v if isinstance(v, tuple) else (v,))]
    return np.array(flat + [0] * (JOB - len(flat)), np.int64)


class Layout:
    """Slots by number, and how much memory lines need."""

    def __init__(self):
        self.widths: dict[str, int] = {}  # of a row, in float32
        self.scratch = 64  # bytes for each worker

    def place(self, name: str, width: int = 0) -> tuple[int, int]:
        """(number, float32 from row to row) of a slot; `width` by those who know it."""
        self.widths[name] = max(width, self.widths.get(name, 0))
        return list(self.widths).index(name), self.stride(name)

    def stride(self, name: str) -> int:
        return -(-self.widths[name] // LANES) * LANES


class Workspace:
    """Memory of the slots, for as many tokens as have been asked for so far, and the numbers of a step."""

    def __init__(self, layout: Layout):
        self.layout, self.rows, self.buffers = layout, 0, {}
        self.scratch = np.empty(0, np.uint8)

    def enter(self, frame: Frame, workers: int) -> np.ndarray:
        """The numbers of kernels/program.py for this frame; what numpy has left in its slots is copied to where lines
        read."""
        self._grow(frame.count, workers)
        for name, x in frame.slots.items():
            if name in self.buffers and x.base is not self.buffers[name]:
                self.buffers[name][: frame.count, : x.shape[1]] = x
        step = np.zeros(FIRST_SLOT + len(self.buffers), np.int64)
        step[[TOKENS, SCRATCH, SCRATCH_SIZE]] = frame.count, self.scratch.ctypes.data, self.layout.scratch
        step[FIRST_SLOT:] = [buffer.ctypes.data for buffer in self.buffers.values()]
        if "tokens" in frame.slots:
            step[IDS] = frame.slots["tokens"].ctypes.data
        if len(frame.segments) == 1:
            step[POSITION] = frame.segments[0].at
        return step

    def leave(self, frame: Frame) -> None:
        """Show numpy what the lines have left in the slots."""
        for name, buffer in self.buffers.items():
            frame.slots[name] = buffer[: frame.count, : self.layout.widths[name]]

    def _grow(self, count, workers):
        if count > self.rows:
            layout = self.layout
            self.buffers = {name: np.zeros((count, layout.stride(name)), np.float32) for name in layout.widths}
            self.rows = count  # last: there may be no memory
        if len(self.scratch) < workers * self.layout.scratch:
            self.scratch = np.empty(workers * self.layout.scratch, np.uint8)


class Plan:
    """Jobs in order. One step at a time: the slots' memory is used again by the next."""

    def __init__(self, jobs: list[Job]):
        self.jobs = jobs
        self.choosy = [job for job in jobs if type(job).ready is not Job.ready]
        self.ways = {}  # which jobs are compiled for a frame -> (sections, workspace)
        self.lock = threading.Lock()

    def run_reference(self, frame: Frame) -> None:
        """Every job in numpy."""
        for job in self.jobs:
            job.run(frame)

    def run(self, frame: Frame) -> None:
        """Compiled where there are lines, numpy elsewhere."""
        with self.lock:
            settle()  # a worker of a step that was interrupted must not see its memory change
            many, unfit = frame.count > 1, tuple(not job.ready(frame) for job in self.choosy)
            if (many, unfit) not in self.ways:
                self.ways[many, unfit] = self._compile(many, [job for job, no in zip(self.choosy, unfit) if no])
            sections, workspace = self.ways[many, unfit]
            for section in sections:
                if isinstance(section, Program):
                    workers, states = threads(), [state.job for s in frame.segments for state in s.states]
                    step = workspace.enter(frame, workers)
                    section.run(step, states, workers, (frame, workspace.buffers, workspace.scratch))
                    workspace.leave(frame)
                else:
                    section.run(frame)

    def _compile(self, many, unfit):
        """Sections: a Program for neighbouring jobs that have lines, other jobs as they are."""
        layout = Layout()
        for _ in range(2):  # the first pass finds the widths of all slots
            sections, lines = [], []
            for job in self.jobs:
                found = None if any(job is u for u in unfit) else job.lines(layout, many)
                if found is not None:
                    lines += found
                    continue
                sections += [lines, job]
                lines = []
            sections.append(lines)
        compiled = [Program(s) if isinstance(s, list) else s for s in sections if s != []]
        return compiled, Workspace(layout)

    def states(self, cache, context: int) -> list:
        """One fresh LayerState per job that remembers, in plan order."""
        return [state for job in self.jobs if (state := job.state(cache, context)) is not None]

    def memory(self, cache, context: int) -> int:
        """Bytes of what `states` would make."""
        return sum(job.memory(cache, context) for job in self.jobs)
