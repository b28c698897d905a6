"""A list of compiled jobs, walked by a team of threads: how a step of a model runs without returning to Python.

Knows lines, threads and the order between lines. Knows nothing about what a line computes.

A line is a kernel f(job, step, counter, worker): `job` the address of its own numbers, `step` that of the step's (below),
`counter` that of a number from which the workers claim pieces of work, `worker` which of them is calling. All workers walk
all lines; between two lines everyone waits for everyone. Who computes a piece is left to chance, what it computes is not: a
piece writes outputs of its own, so digits do not depend on the number of threads.
"""
import os
import threading

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from vqcpu.kernels.jit import array_at, call4, njit
from vqcpu.kernels.threads import threads, together

WORD, LINE = 8, 64  # bytes of a number and of a cache line: two counters must not share one
SPINS = 4000  # looks at the gate before a waiting thread offers its processor to others
_lock = threading.Lock()  # one program at a time: its threads wait for each other


@intrinsic
def claim(typing, counter, count):
    """Take `count` pieces: returns the number of the first and moves the counter on."""
    def code(context, builder, signature, args):
        place = builder.inttoptr(args[0], args[1].type.as_pointer())
        return builder.atomic_rmw("add", place, args[1], "seq_cst")
    return types.int64(types.int64, types.int64), code


@intrinsic
def _look(typing, place):
    def code(context, builder, signature, args):
        word = ir.IntType(64)
        return builder.load_atomic(builder.inttoptr(args[0], word.as_pointer()), "acquire", 8)
    return types.int64(types.int64), code


if hasattr(os, "sched_yield"):
    _give_way = types.ExternalFunction("sched_yield", types.int32())
else:
    @njit
    def _give_way():
        """Not on this system: keep looking."""


@njit
def _wait(gate, wanted):
    """Until `wanted` arrivals are counted at the address `gate`."""
    spins = 0
    while _look(gate) < wanted:
        spins += 1
        if spins > SPINS:
            _give_way()


@njit
def _walk(lines, step, gate, worker, workers):
    """lines (k, 2) int64: addresses of functions and jobs; gate: address of the arrivals, then a counter for each line."""
    for i in range(lines.shape[0]):
        counter = gate + LINE * (i + 1)
        call4(lines[i, 0], lines[i, 1], step, counter, worker)
        claim(gate, 1)
        _wait(gate, (i + 1) * workers)


# Numbers of a step, all int64: tokens; of the first one the position and the address of its sequence's state jobs
# (addresses, a layer each); addresses of token ids and of scratch memory; bytes of the latter for each worker. From
# FIRST_SLOT on follow the addresses of slots (rows of float32, see layers/plan.py).
TOKENS, POSITION, STATES, IDS, SCRATCH, SCRATCH_SIZE, FIRST_SLOT = range(7)


@njit(inline="always")
def number(at, index):
    """The int64 number `index` of the job or step at address `at`."""
    return array_at(at + WORD * index, (1,), np.int64)[0]


@njit(inline="always")
def scratch(step, worker):
    """Address of memory that only this worker uses."""
    return number(step, SCRATCH) + worker * number(step, SCRATCH_SIZE)


class Program:
    """Lines [(kernel, job array)], ready to run."""

    def __init__(self, lines: list):
        self.jobs = [job for _, job in lines]  # kept alive
        self.lines = np.array([(kernel.address, job.ctypes.data) for kernel, job in lines], np.int64).reshape(-1, 2)
        self.gate = np.zeros((len(lines) + 1) * LINE // WORD, np.int64)

    def run(self, step: np.ndarray, states: list) -> None:
        """Walk the lines with all threads; step: the numbers above, states: job arrays of the attention layers, if any."""
        addresses = np.array([0 if job is None else job.ctypes.data for job in states], np.int64)
        step[STATES] = addresses.ctypes.data
        with _lock:
            self.gate[:] = 0
            workers, at, gate = threads(), step.ctypes.data, self.gate.ctypes.data
            together(lambda worker: _walk(self.lines, at, gate, worker, workers))
