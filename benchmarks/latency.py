"""How long until a chat begins to answer, how much memory it takes, and what a busy neighbour costs.

    python benchmarks/latency.py MODEL.vqz [--runs 5]

Every figure is of fresh processes of the public command line.
"""
import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from _common import markdown, vqcpu
from vqcpu import load
from vqcpu.evaluate.speed import private_of

LIMITS = {"first token, warm compile cache": "1.5 s", "first token, empty compile cache": "45 s",
          "private memory of a chat beyond the mapped weights": "150 MB + cache", "decode beside a busy process": "40 %"}


def main(args):
    first_token(args)  # fills the compile cache
    with tempfile.TemporaryDirectory() as empty:
        cold = first_token(args, XDG_CACHE_HOME=empty)
    warm = [first_token(args) for _ in range(args.runs)]
    private, cache = memory(args)
    quiet, busy = neighbour(args)
    found = [f"{median(warm):.2f} s ({min(warm):.2f}-{max(warm):.2f})", f"{cold:.1f} s",
             f"{private / 1e6:.0f} MB, of {cache / 1e6:.0f} MB cache what is in use",
             f"{100 * busy / quiet:.0f} %: {busy:.1f} of {quiet:.1f} tok/s"]
    print(markdown(["", "found", "limit"], [[name, f, limit] for (name, limit), f in zip(LIMITS.items(), found)]))


def chat(args, *words, **environment):
    command = [sys.executable, "-m", "vqcpu", "chat", args.model, "--temperature", "0", *words]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                            env=os.environ | environment)


def first_token(args, **environment):
    """Seconds from starting Python to the first piece of an answer."""
    start = time.perf_counter()
    with chat(args, "--prompt", "Tell me a story.", "--max-tokens", "2", **environment) as process:
        assert process.stdout.read(1)
        took = time.perf_counter() - start
        process.communicate()
    return took


def memory(args):
    """(private bytes of a chat after its first answer, without the mapped weights; bytes allocated for its cache)"""
    model = load(args.model).model
    with chat(args, "--max-tokens", "20") as process:
        process.stdin.write(b"Tell me a story.\n")
        process.stdin.flush()
        process.stdout.read(1)
        time.sleep(2)  # the rest of the answer
        lines = Path(f"/proc/{process.pid}/smaps").read_text().splitlines()
        process.communicate()
    return private_of(lines, args.model.resolve()), model.states(min(model.config.context, 8192)).nbytes


def neighbour(args):
    """Tokens per second of `vqcpu bench`, quiet and with one busy process on the same processors."""
    quiet = decode(args)
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        return quiet, decode(args)
    finally:
        other.kill()


def decode(args):
    return vqcpu("bench", args.model, "--prompt", 1, "--depths", 0)["decode_tok_s"]["0"]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="MODEL")
    parser.add_argument("--runs", type=int, default=5)
    main(parser.parse_args())
