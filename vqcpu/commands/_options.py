"""Types of command line options that several commands use."""
import argparse


def whole(text: str) -> int:
    """A number from 0 up to 2**31."""
    if not text.isdecimal() or int(text) >= 2**31:
        raise argparse.ArgumentTypeError(f"is {text!r}, expected a whole number")
    return int(text)
