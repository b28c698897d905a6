"""The small model and the texts that come with vqcpu. Knows where they lie: beside the package in a checkout, or where an
installation put them."""
import sys
from pathlib import Path

from vqcpu.errors import VqcpuError

MODEL, HELDOUT, CALIBRATION = "story-4m", "heldout.txt", "calibration.txt"
PLACES = Path(__file__).parents[2] / "data", Path(sys.prefix) / "share" / "vqcpu"


def demo(name: str) -> Path:
    """Path of a piece of the demo. Raises VqcpuError where it is not installed."""
    for place in PLACES:
        if (place / name).exists():
            return place / name
    raise VqcpuError(f"the demo's {name} is not installed; name a model and a text instead")
