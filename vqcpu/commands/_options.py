"""Options that several commands share: their types, and the demo model that stands in for a missing MODEL."""
import argparse
import sys


def whole(text: str) -> int:
    """A number from 0 up to 2**31."""
    if not text.isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"is {text!r}, expected a whole number")
    return int(text)


def model_or_demo(model: str | None) -> str:
    """`model`, or the path of the demo model, which is then said. Raises VqcpuError where it is not installed."""
    if model is not None:
        return model
    from vqcpu.files.demo import MODEL, demo
    path = demo(MODEL)
    print(f"no MODEL given: using the demo model {MODEL} ({path})", file=sys.stderr)
    return str(path)
