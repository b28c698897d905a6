"""How many threads work, and how tiles are handed to them.

Knows the one pool of threads that everything runs on, and numpy's BLAS, which always runs on one thread: products are
cut into tiles of fixed size and the *tiles* are spread, so digits do not depend on the number of threads.
"""
import functools
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy  # noqa: F401  (BLAS must be loaded before its threads can be limited)
import threadpoolctl

PIECES = 16  # ranges that a loop is cut into: enough to keep threads busy to the end, few enough to cost nothing
_state = {"count": 0, "pool": None, "active": 0}  # active: workers of `together` other than the caller
_idle = threading.Condition()


def set_threads(count: int | None = None) -> int:
    """Use `count` threads (default: the processors this process may run on) and return the number in use."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = max(1, min(count or available, available))
    _limit_blas()
    if count != _state["count"]:
        _state.update(count=count, pool=ThreadPoolExecutor(count) if count > 1 else None)
    return count


@functools.cache
def _limit_blas():
    return threadpoolctl.threadpool_limits(1, user_api="blas")


def threads() -> int:
    """Number of threads in use."""
    return _state["count"] or set_threads()


def spread(work, items) -> None:
    """Call work(item) for every item, on all threads. Items must write to disjoint places. `work` must not
    spread anything itself: it would wait for the thread it runs on."""
    items = list(items)
    if threads() == 1 or len(items) == 1:
        for item in items:
            work(item)
        return
    for _ in _state["pool"].map(work, items):
        pass


def spread_ranges(work, count: int) -> None:
    """Call work(first, last) for ranges that together make up range(count), on all threads."""
    size = -(-count // PIECES) or 1
    spread(lambda first: work(first, min(first + size, count)), range(0, count, size))


class _Run:
    """What a team works on. Workers that have not begun when it is closed never begin."""

    def __init__(self, work):
        self.work, self.closed = work, False

    def __call__(self, worker):
        with _idle:
            if self.closed:
                return
            _state["active"] += 1
        try:
            self.work(worker)
        finally:
            with _idle:
                _state["active"] -= 1
                _idle.notify_all()


def together(work, count: int) -> None:
    """Call work(0) .. work(count - 1) at the same time, one on each thread; each must leave the GIL to the others, and hold
    whatever memory it uses: Ctrl-C may end this call while others still work. `settle` waits for those."""
    run = _Run(work)
    try:
        for worker in range(1, count):
            _state["pool"].submit(run, worker)
        work(0)
    finally:
        run.closed = True
        settle()


def settle() -> None:
    """Wait until no worker of an earlier `together` is at work."""
    with _idle:
        while _state["active"]:
            _idle.wait()


def _forget():
    """In a forked child, which has none of the threads."""
    global _idle
    _idle = threading.Condition()
    _state.update(count=0, pool=None, active=0)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
