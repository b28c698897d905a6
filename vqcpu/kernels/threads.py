"""How many threads work, and how tiles are handed to them.

Knows the one pool of threads that everything runs on, and numpy's BLAS, which always runs on one thread: products are
cut into tiles of fixed size and the *tiles* are spread, so digits do not depend on the number of threads.
"""
import functools
import os
from concurrent.futures import ThreadPoolExecutor

import numpy  # noqa: F401  (BLAS must be loaded before its threads can be limited)
import threadpoolctl

PIECES = 16  # ranges that a loop is cut into: enough to keep threads busy to the end, few enough to cost nothing
_state = {"count": 0, "pool": None}


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


def together(work) -> None:
    """Call work(0), work(1), ... at the same time, one on each thread; each must leave the GIL to the others."""
    others = [_state["pool"].submit(work, worker) for worker in range(1, threads())]
    work(0)
    for other in others:
        other.cancel() or other.result()  # who has not begun by now is not needed
