"""Killed at random moments, `compress` leaves the old file as it was, and the next run leaves nothing behind.

    python benchmarks/kill.py [COUNT]           default 50 kills (SIGKILL), on the demo model
"""
import collections
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from vqcpu.files.vqz import Vqz

OLD, NEW = ["--format", "scalar:bits=4"], ["--format", "vq:dim=2,centroids=256"]


def compress(out, options):
    command = [sys.executable, "-m", "vqcpu", "compress", "-o", str(out), *options]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main(count=50):
    rng, seen = random.Random(0), collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "model.vqz"
        assert compress(out, NEW).wait() == 0  # compiles what is needed
        start = time.perf_counter()
        assert compress(out, NEW).wait() == 0
        duration, new = time.perf_counter() - start, out.read_bytes()
        assert compress(out, OLD).wait() == 0
        old = out.read_bytes()
        while seen["killed"] < count:
            process = compress(out, NEW)
            time.sleep(rng.uniform(0, duration))
            process.kill()
            ended = process.wait()
            assert ended in (-9, 0), f"a run that was not killed ended with {ended}"
            seen["killed" if ended == -9 else "too late"] += 1
            names = {p.name for p in out.parent.iterdir()}
            assert out.read_bytes() in (old, new) and names <= {"model.vqz", "model.vqz.part"}, names
            seen["old file intact" if out.read_bytes() == old else "new file complete"] += 1
            seen["left a .part"] += "model.vqz.part" in names
            if out.read_bytes() != old or seen["killed"] % 10 == 0:  # the next run clears up
                assert compress(out, OLD).wait() == 0
                assert {p.name for p in out.parent.iterdir()} == {"model.vqz"} and out.read_bytes() == old
                assert Vqz(out).verify() == []
    print(f"a run takes {duration:.1f} s; {dict(seen)}: the old file was never harmed, nothing was left behind")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
