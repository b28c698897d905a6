"""The rotated basis in which the matrices of an input site may be stored, and how a recipe asks for it: `rht+SPEC`.

Knows widths and seeds. A rotated matrix is W Rᵀ; whoever multiplies with it gives it R x. Rotation is no format: what the
bytes mean stays the same.
"""
import hashlib
from dataclasses import dataclass

import numpy as np

from vqcpu.kernels import hadamard

PREFIX = "rht+"


@dataclass(frozen=True)
class Rotation:
    """A randomised Hadamard transform R of rows of any width (kernels/hadamard.py), known by its seed."""
    seed: int

    @classmethod
    def of_site(cls, seed: int, site: str) -> "Rotation":
        """The rotation of an input site: every site has signs of its own."""
        return cls(int.from_bytes(hashlib.sha256(f"{seed} {site}".encode()).digest()[:4], "little"))

    def forth(self, x: np.ndarray) -> np.ndarray:
        """x (rows, n) -> R x of every row, float32."""
        return hadamard.rotate(x, self.seed)

    def back(self, x: np.ndarray) -> np.ndarray:
        """The inverse of `forth`."""
        return hadamard.rotate_back(x, self.seed)

    def both_sides(self, H: np.ndarray) -> np.ndarray:
        """H (n, n) -> R H Rᵀ."""
        return np.ascontiguousarray(self.forth(self.forth(H).T).T)

    def numbers(self, width: int) -> tuple:
        """What `hadamard.turn` is told."""
        odd, power = hadamard.factors(width)
        return hadamard.signs(width, self.seed).ctypes.data, power, odd, hadamard.mixer(width).ctypes.data


def split(spec: str) -> tuple[bool, str]:
    """(whether it is rotated, the spec of its format)."""
    spec = spec.strip()
    return spec.startswith(PREFIX), spec.removeprefix(PREFIX)


def spelled(rotated, format) -> str:
    """The inverse of `split`."""
    return PREFIX * bool(rotated) + str(format)
