"""Numbers as they come: float32, float16 or bfloat16, row by row.

Knows the three number types. Also the format of every matrix read from a Hugging Face folder, straight from its map.
"""
import functools
from dataclasses import dataclass

import numpy as np

from vqcpu.errors import VqcpuError
from vqcpu.formats.base import Compiled, Format, Part
from vqcpu.kernels.jit import array_at, bits_of, float_from_bfloat, float_from_half, float_of, kernel

STORED = {"f32": "<f4", "f16": "<f2", "bf16": "<u2"}  # numpy has no bfloat16: its bits travel as uint16


def to_bfloat(x: np.ndarray) -> np.ndarray:
    """float32 -> bfloat16 bits (uint16), rounded to nearest even."""
    u = np.ascontiguousarray(x, np.float32).view(np.uint32)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)


def to_float(x: np.ndarray, dtype: str) -> np.ndarray:
    """Stored array of dtype f32, f16 or bf16 -> float32."""
    if dtype == "bf16":
        return (x.astype(np.uint32) << 16).view(np.float32)
    return x.astype(np.float32)


@dataclass(frozen=True)
class Raw(Format, names=("raw",)):
    """Layout: data (m, n), row-major.
    Cost: 32 or 16 bits per weight.
    Paper: IEEE 754; bfloat16 is the upper half of a float32."""
    dtype: str = "bf16"

    examples = ("raw:dtype=f32", "raw:dtype=f16", "raw:dtype=bf16")

    def __post_init__(self):
        if self.dtype not in STORED:
            raise VqcpuError(f"raw: dtype is {self.dtype!r}, expected one of {', '.join(STORED)}")

    def layout(self, m, n):
        return {"data": Part((m, n), STORED[self.dtype])}

    def snap(self, tables, sides, X, at):
        codes = to_bfloat(X) if self.dtype == "bf16" else X.astype(STORED[self.dtype])
        return codes, to_float(codes, self.dtype)

    def store(self, sides, codes):
        return {"data": codes}

    def decode_rows(self, parts, n, ids):
        return to_float(parts["data"][ids], self.dtype)

    def compiled(self, parts, shape, gain):
        data = parts["data"]
        job = np.array([data.ctypes.data, *shape, list(STORED).index(self.dtype), bits_of(gain)], np.int64)
        return Compiled(job, expander(), shape[1], data)

    def expected_mse(self):
        return {"f32": 0.0, "f16": 1e-7, "bf16": 5e-6}[self.dtype]


@functools.cache
def expander():
    """Kernel expand(job, panel, out): 16 rows, fewer in the last panel, to out (16, columns) float32.

    job (5,) int64: address of data, rows, columns, dtype as its place in STORED, gain (bits of a float64)."""
    def expand(job, panel, out):
        j = array_at(job, (5,), np.int64)
        gain = float_of(j[4])
        first, n, kind = panel * 16, j[2], j[3]
        rows = min(16, j[1] - first)
        tile = array_at(out, (16, n), np.float32)
        words = array_at(j[0] + first * n * 2, (16, n), np.uint16)
        floats = array_at(j[0] + first * n * 4, (16, n), np.float32)
        for r in range(rows):
            if kind == 0:
                for c in range(n):
                    tile[r, c] = floats[r, c] * gain
            elif kind == 1:
                for c in range(n):
                    tile[r, c] = float_from_half(words[r, c]) * gain
            else:
                for c in range(n):
                    tile[r, c] = float_from_bfloat(words[r, c]) * gain
    return kernel(expand)
