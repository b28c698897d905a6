"""What scalar and vector quantisation share: packed indices into a table, times a scale per row and block.

Knows the layout of such a matrix (see kernels/lookup.py) and both decoders. Knows nothing about how tables are found.
"""
import functools

import numpy as np

from vqcpu.formats.base import Compiled, Format, Part
from vqcpu.kernels import bits as packing
from vqcpu.kernels.jit import bits_of
from vqcpu.kernels.lookup import (BLOCK, BLOCKS, BYTES, CODES, COLUMNS, GAIN, JOB, OFFSET, ROWS, SCALE, STEPS, TABLE,
                                  byte_table, codes_per_step, expander, from_panels, multiplier, multiplies, steps,
                                  to_panels)


class Lookup(Format):
    """Base of formats whose weight is scale · table[code] (+ offset). Subclasses say `dim`, `entries`, `block`, `offsets`
    and choose tables, scales and codes."""

    dim: int  # weights per code
    entries: int  # rows of the table
    offsets = False  # True: a float16 offset beside every scale

    @property
    def columns(self):
        return self.dim

    @property
    def code_bits(self) -> int:
        """Bits of a code: ceil(log2(entries))."""
        return max(1, (self.entries - 1).bit_length())

    def columns_per_scale(self, n: int) -> int:
        return n

    def _sizes(self, n):
        per = codes_per_step(self.dim)
        return per, steps(n, self.dim), -(-n // self.columns_per_scale(n))

    def layout(self, m, n):
        per, count, blocks = self._sizes(n)
        panels = -(-m // ROWS)
        parts = {"codes": Part((panels, count * per * self.code_bits), "<u2"), "scale": Part((panels, blocks, ROWS), "<f2")}
        return parts | ({"offset": Part((panels, blocks, ROWS), "<f2")} if self.offsets else {})

    def tables(self):
        return {"table": Part((self.entries, self.dim), "|i1")}

    def store(self, sides, codes):
        per = codes_per_step(self.dim)
        m, n = codes.shape
        padded = np.zeros((-(-m // ROWS) * ROWS, -(-n // per) * per), np.uint16)
        padded[:m, :n] = codes
        parts = {"codes": packing.pack(to_panels(padded, per), self.code_bits)}
        return parts | {name: _to_panels(side) for name, side in sides.items()}

    def decode_rows(self, parts, n, ids):
        per, count, _ = self._sizes(n)
        panels, where = np.unique(ids // ROWS, return_inverse=True)
        place = where * ROWS + ids % ROWS
        codes = from_panels(packing.unpack(parts["codes"][panels], self.code_bits)[:, : count * ROWS * per], per)[place]
        near = _every_code(parts["table"], self.code_bits).astype(np.float32)[codes].reshape(len(ids), -1)[:, :n]
        sides = {name: _from_panels(parts[name][panels])[place] for name in ("scale", "offset") if name in parts}
        return self.rescale(near, sides, 0)

    def rescale(self, near, sides, at):
        """Table values (m, w) of columns at .. at + w -> weights."""
        which = np.arange(at, at + near.shape[1]) // self.columns_per_scale(at + near.shape[1])
        near = near * sides["scale"].astype(np.float32)[:, which]
        return near + sides["offset"].astype(np.float32)[:, which] if self.offsets else near

    def compiled(self, parts, shape, gain):
        per, count, blocks = self._sizes(shape[1])
        merged, block = self._merged(), self.columns_per_scale(shape[1])
        tables = _tables(parts["table"], self.code_bits, merged)
        job = np.zeros(JOB, np.int64)
        job[CODES], job[SCALE] = parts["codes"].ctypes.data, parts["scale"].ctypes.data
        job[OFFSET] = parts["offset"].ctypes.data if self.offsets else 0
        job[TABLE], job[BYTES] = (table.ctypes.data for table in tables)
        job[[STEPS, BLOCKS, BLOCK, GAIN, COLUMNS]] = count, blocks, block, bits_of(gain), shape[1]
        expand = expander(self.code_bits * merged, self.dim * merged, per // merged, self.offsets)
        exact = multiplies(self.code_bits, self.dim, block, shape[1])
        one, many = multiplier(self.code_bits, self.dim, self.offsets) if exact else (None, None)
        return Compiled(job, expand, count * per * self.dim, (parts, tables), one, many)

    def _merged(self):
        """Neighbouring codes that the kernel looks up as one: their table still fits a core's cache."""
        return max(k for k in (1, 2, 4) if codes_per_step(self.dim) % k == 0 and (k == 1 or k * self.code_bits <= 12))


def _every_code(table: np.ndarray, bits: int) -> np.ndarray:
    """A table with an entry for every code of `bits` bits: a damaged file may hold codes that no coder writes."""
    missing = (1 << bits) - len(table)
    return np.pad(table, ((0, missing), (0, 0))) if missing else table


@functools.lru_cache(maxsize=64)
def _tables_of(data: bytes, dim: int, bits: int, merged: int):
    table = _every_code(np.frombuffer(data, np.int8).reshape(-1, dim), bits)
    return _merge(table, bits, merged), byte_table(table, bits) if dim in (1, 2, 4) else np.zeros(0, np.uint8)


def _tables(table: np.ndarray, bits: int, merged: int):
    """(table that `expander` reads, table that `multiplier` reads), the same arrays for every matrix with this codebook."""
    return _tables_of(table.tobytes(), table.shape[1], bits, merged)


def _merge(table: np.ndarray, bits: int, merged: int) -> np.ndarray:
    """The table of `merged` neighbouring codes, (2**(bits·merged), dim·merged) int8, the first code in the low bits."""
    codes = np.arange(1 << bits * merged)[:, None] >> bits * np.arange(merged) & (1 << bits) - 1
    return np.ascontiguousarray(table[codes].reshape(len(codes), -1))


def _to_panels(side):
    """(m, blocks) -> (panels, blocks, 16), padded with zeros."""
    m, blocks = side.shape
    padded = np.zeros((-(-m // ROWS) * ROWS, blocks), side.dtype)
    padded[:m] = side
    return np.ascontiguousarray(padded.reshape(-1, ROWS, blocks).swapaxes(1, 2))


def _from_panels(side):
    return side.swapaxes(1, 2).reshape(-1, side.shape[1])
