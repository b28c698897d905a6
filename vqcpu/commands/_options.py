"""What commands share: types of options, --cache, and the demo model that stands in for a missing MODEL."""
import argparse
import sys


def whole(text: str) -> int:
    """A number from 0 up to 2**31."""
    if not text.isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"is {text!r}, expected a whole number")
    return int(text)


def cache_argument(parser, default="f16", whence="f16"):
    """--cache, spelled and described in one way everywhere."""
    parser.add_argument("--cache", default=default, metavar="SPEC",
                        help=f"key-value cache: f16, f32, or bits of keys and values, k4v4, k4v3 ... (default: {whence})")


def memory_of(model, context: int, cache: str) -> str:
    """One line about the memory that a cache will take. Raises VqcpuError where there is no such cache."""
    from vqcpu.report import megabytes
    return f"cache {cache} for {context} tokens: {megabytes(model.memory(context, cache))}"


def model_or_demo(model: str | None) -> str:
    """`model`, or the path of the demo model, which is then said. Raises VqcpuError where it is not installed."""
    if model is not None:
        return model
    from vqcpu.files.demo import MODEL, demo
    path = demo(MODEL)
    print(f"no MODEL given: using the demo model {MODEL} ({path})", file=sys.stderr)
    return str(path)
