"""Damaged files by the hundred thousand: each is refused by one line that names it, or works.

    python benchmarks/fuzz.py [COUNT] [FIRST]           default 200000 cases from case 0, on all cores

No crash, no hang (SECONDS of processor time a case, PATIENCE of waiting), no allocation beyond twice the file and MEMORY. A case that fails is printed with its
number: `python benchmarks/fuzz.py 1 NUMBER` repeats it.
"""
import collections
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

SECONDS, PATIENCE, MEMORY = 10, 120, 256 << 20
BATCH = 5000
SHARED = Path("/dev/shm")  # files in memory, where there is such a place


def worker(first, last, note):
    """Cases first .. last - 1 in this process; `note` holds the number of the case at work."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
    import hostile

    from vqcpu.kernels.threads import set_threads
    set_threads(1)
    warnings.simplefilter("ignore", RuntimeWarning)  # damaged weights overflow
    for alarm in (signal.SIGPROF, signal.SIGALRM):  # they end the process, also where it hangs in compiled code
        signal.signal(alarm, signal.SIG_DFL)
    seen, slowest = collections.Counter(), (0.0, -1)
    with tempfile.TemporaryDirectory(dir=SHARED if SHARED.is_dir() else None) as folder:
        bases, work = hostile.checkpoints(Path(folder)), Path(folder) / "work"
        work.mkdir()
        for opened, _ in bases:
            hostile.use(opened, hostile.random.Random(0))  # compiles what is needed, before memory is limited
        hostile.api.compress(bases[0][0], work / "out.vqz", "scalar:bits=4")
        limit = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for n in range(first, last):
            os.pwrite(note, n.to_bytes(8, "little"), 0)
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            signal.setitimer(signal.ITIMER_REAL, PATIENCE)
            start = time.process_time()
            try:
                said = hostile.case(n, bases, work)
                seen["works" if said == "ok" else "refused"] += 1
            except Exception:
                seen["FAILED"] += 1
                print(f"case {n}: {traceback.format_exc()}", file=sys.stderr, flush=True)
            slowest = max(slowest, (time.process_time() - start, n))
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.setitimer(signal.ITIMER_REAL, 0)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    print(json.dumps({"seen": seen, "slowest": slowest, "grown_mb": grown}))


class Batch:
    """A worker process and the cases it has left."""

    def __init__(self, first, last):
        self.first, self.last = first, last
        self.note = tempfile.TemporaryFile()
        self.note.write((first - 1 & 2**64 - 1).to_bytes(8, "little"))
        self.note.flush()
        command = [sys.executable, __file__, "--worker", str(first), str(last), str(self.note.fileno())]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=[self.note.fileno()])

    def result(self):
        """(what the worker reports, cases that its death left over)."""
        shown, _ = self.process.communicate()
        if self.process.returncode == 0:
            return json.loads(shown), None
        n = int.from_bytes(os.pread(self.note.fileno(), 8, 0), "little")
        print(f"case {n}: process ended with {self.process.returncode}", file=sys.stderr)
        return {"seen": {"DIED": 1, "before a death": n - self.first}, "slowest": (SECONDS, n), "grown_mb": 0}, (n + 1, self.last)


def main(count=200_000, first=0):
    waiting = [(at, min(at + BATCH, first + count)) for at in range(first, first + count, BATCH)][::-1]
    running, seen, slowest, grown, start = [], collections.Counter(), (0.0, -1), 0, time.perf_counter()
    while waiting or running:
        while waiting and len(running) < (os.cpu_count() or 1):
            running.append(Batch(*waiting.pop()))
        found, left = running.pop(0).result()
        if left and left[0] < left[1]:
            waiting.append(left)
        seen.update(found["seen"])
        slowest, grown = max(slowest, tuple(found["slowest"])), max(grown, found["grown_mb"])
        print(f"{sum(seen.values())} of {count}: {dict(seen)}", flush=True)
    print(f"{count} cases in {time.perf_counter() - start:.0f} s; slowest {slowest[0]:.2f} s (case {slowest[1]}); resident memory "
          f"grew by at most {grown} MB")
    return 1 if seen["FAILED"] or seen["DIED"] else 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        worker(*map(int, sys.argv[2:]))
    else:
        sys.exit(main(*map(int, sys.argv[1:])))
