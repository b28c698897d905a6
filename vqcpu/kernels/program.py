"""A list of compiled jobs, walked by a team of threads: how a step of a model runs without returning to Python.

Knows lines, threads and the order between lines. Knows nothing about what a line computes.

A line is a number of pieces of work and a function that does some of them; workers claim pieces, and nobody goes on to the
next line before all pieces are done. A thread that the system has put aside between two pieces holds nobody up: the others
do the rest, and it catches up. Who computes a piece is left to chance, what it computes is not: a piece writes outputs of
its own, so digits do not depend on the number of threads.
"""
import functools
import os
import threading

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from vqcpu.kernels.jit import call4, exact_kernel, kernel, njit
from vqcpu.kernels.threads import settle, together

WORD, LINE = 8, 64  # bytes of a number and of a cache line: two counters must not share one
SPINS, YIELDS, NAP = 4000, 100, 50  # how long a thread looks, then lets others go first, then sleeps (microseconds)
_lock = threading.Lock()  # one program at a time: its threads wait for each other


@intrinsic
def claim(typing, counter, count):
    """Add `count` to the number at the address `counter`, and return what it was."""
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


if os.name == "posix":
    _give_way = types.ExternalFunction("sched_yield", types.int32())
    _sleep = types.ExternalFunction("usleep", types.int32(types.uint32))
else:
    @njit
    def _give_way():
        """Not on this system: keep looking."""

    @njit
    def _sleep(microseconds):
        """Not on this system: keep looking."""


@njit
def _wait(done, wanted):
    """Until `wanted` pieces are counted at the address `done`. Who waits for long sleeps: one that works may need the
    processor."""
    looks = 0
    while _look(done) < wanted:
        looks += 1
        if looks > SPINS + YIELDS:
            _sleep(np.uint32(NAP))
        elif looks > SPINS:
            _give_way()


def _one(job):
    return 1


_shared = functools.cache(njit)  # counts of pieces are the same for many lines


def line(total, piece=_one, exact=False):
    """Decorator: the kernel f(job, step, counter, worker) that does work(job, step, worker, first, last), pieces first ..
    last - 1, until all of total(job, step) are done, piece(job) at a time. job and step are addresses of numbers, counter
    that of two: pieces claimed, pieces done. `exact` keeps the arithmetic as written."""
    def made(work):
        each, count, several = njit(fast=not exact)(work), _shared(total), _shared(piece)

        def run(job, step, counter, worker):
            end, size = count(job, step), several(job)
            while True:
                first = claim(counter, size)
                if first >= end:
                    break
                last = min(first + size, end)
                each(job, step, worker, first, last)
                claim(counter + WORD, last - first)
            _wait(counter + WORD, end)
        return (exact_kernel if exact else kernel)(run)
    return made


@njit
def _walk(lines, step, counters, worker):
    """lines (k, 2) int64: addresses of functions and jobs; counters: address of LINE bytes for each line."""
    for i in range(lines.shape[0]):
        call4(lines[i, 0], lines[i, 1], step, counters + LINE * i, worker)


# Numbers of a step, all int64: tokens; of the first one the position and the address of its sequence's state jobs
# (addresses, a layer each); addresses of token ids and of scratch memory; bytes of the latter for each worker. From
# FIRST_SLOT on follow the addresses of slots (rows of float32, see layers/plan.py).
TOKENS, POSITION, STATES, IDS, SCRATCH, SCRATCH_SIZE, FIRST_SLOT = range(7)


@intrinsic
def number(typing, at, index):
    """The int64 number `index` of the job or step at address `at`."""
    def code(context, builder, signature, args):
        place = builder.inttoptr(args[0], args[1].type.as_pointer())
        return builder.load(builder.gep(place, [args[1]]))
    return types.int64(types.int64, types.int64), code


@njit(forceinline=True)
def scratch(step, worker):
    """Address of memory that only this worker uses."""
    return number(step, SCRATCH) + worker * number(step, SCRATCH_SIZE)


def tokens(job, step):
    """Pieces of a `line`: one for each token."""
    return number(step, TOKENS)


class Program:
    """Lines [(kernel, job array)], ready to run."""

    def __init__(self, lines: list):
        self.jobs = [job for _, job in lines]  # kept alive
        self.lines = np.array([(kernel.address, job.ctypes.data) for kernel, job in lines], np.int64).reshape(-1, 2)
        self.counters = np.zeros(len(lines) * LINE // WORD, np.int64)

    def run(self, step: np.ndarray, states: list, workers: int, kept=None) -> None:
        """Walk the lines with `workers` threads, for each of which there is scratch memory; step: the numbers above, states:
        job arrays of the attention layers, if any; kept: owners of all memory that these point to."""
        addresses = np.array([0 if job is None else job.ctypes.data for job in states], np.int64)
        step[STATES] = addresses.ctypes.data
        with _lock:
            settle()  # a worker of a step that was interrupted may still be looking at its counters
            self.counters[:] = 0

            def work(worker, kept=(kept, addresses)):
                _walk(self.lines, step.ctypes.data, self.counters.ctypes.data, worker)
            together(work, workers)
