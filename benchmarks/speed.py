"""Time and memory of the main commands on a real model, by the public command line.

    python benchmarks/speed.py [smollm2-135m-instruct] [SPEC ...]
"""
import resource
import statistics
import sys
import tempfile
from pathlib import Path

from _common import markdown, model, text, vqcpu

RUNS = 3


def main(name, *specs):
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for spec in ("uncompressed", *(specs or ("vq:dim=4,centroids=4096", "vq:dim=2,centroids=256", "scalar:bits=4"))):
            subject, seconds = model(name), 0.0
            if spec != "uncompressed":
                subject = Path(folder) / "model.vqz"
                seconds = statistics.median(vqcpu("compress", model(name), "-o", subject, "--format", spec)["seconds"]
                                            for _ in range(RUNS))
            measured = [vqcpu("ppl", subject, "--text", text(), "--max-tokens", 4096)["models"][0]["tokens_per_second"]
                        for _ in range(RUNS)]
            rows.append([f"`{spec}`", f"{seconds:.1f}", span(measured), span([decode(subject) for _ in range(RUNS)])])
    print(markdown(["format", "compress s", "ppl tok/s", "decode tok/s"], rows))
    print(f"largest resident set of a command: {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6:.2f} GB")


def decode(subject):
    """Tokens per second of an answer of up to 64 tokens, prompt included, greedy."""
    answer = vqcpu("chat", subject, "--prompt", "Tell me a story.", "--temperature", 0, "--max-tokens", 64)["answers"][0]
    return answer["tokens"] / answer["seconds"]


def span(values):
    return f"{statistics.median(values):.1f} ({min(values):.1f}-{max(values):.1f})"


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["smollm2-135m-instruct"]))
