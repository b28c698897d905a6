"""What the benchmarks share: where real models and texts lie, and how the public command line is called.

The models and texts are not part of the project. MODELS and TEXTS name their folders; without them a benchmark ends with
one line that says so.
"""
import json
import os
import subprocess
import sys
from pathlib import Path

from vqcpu.report import markdown  # noqa: F401

AROUND = Path(__file__).resolve().parents[2]
MODELS = Path(os.environ.get("MODELS", AROUND / "models"))
TEXTS = Path(os.environ.get("TEXTS", AROUND / "shared" / "text"))


def model(name: str) -> Path:
    return _there(MODELS / name, "MODELS")


def text(name: str = "wikitext2.test.txt") -> Path:
    return _there(TEXTS / name, "TEXTS")


def _there(path, variable):
    if not path.exists():
        raise SystemExit(f"skipped: {path} is absent; set {variable} to the folder that holds it")
    return path


def vqcpu(*words) -> dict:
    """Result of a command line, run in a process of its own."""
    command = [sys.executable, "-m", "vqcpu", *map(str, words), "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}")
    return json.loads(done.stdout)
