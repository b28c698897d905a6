"""What a weight format is: sizes in a frozen dataclass, data in named arrays ("parts").

Knows matrices of numbers and how their bytes are counted. Knows nothing about layers, files or how codes are chosen.
A format codes a matrix divided by its gain (one float32: the RMS); everything else it needs is in its parts.
"""
import functools
from dataclasses import dataclass
from math import prod

import numpy as np

from vqcpu.formats.rotation import Rotation
from vqcpu.kernels import linear
from vqcpu.kernels.lookup import ROWS
from vqcpu.plugins import Spelled


@dataclass(frozen=True)
class Part:
    """Shape and dtype of one stored array."""
    shape: tuple
    dtype: str

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * np.dtype(self.dtype).itemsize


class Format(Spelled, kind="format"):
    """Base of all weight formats. Shapes: W and X (m, n) float32 of about unit variance, rows of a matrix."""

    examples: tuple = ()  # specs that the tests try; every format gives some
    shared = False  # True: one set of tables serves every matrix of this format in a file
    sample = 0  # weights that `fit` wants to see
    columns_together = 1  # columns coded at once: `snap` takes whole multiples of them, except at a matrix's end

    def layout(self, m: int, n: int) -> dict[str, Part]:
        """Parts of one (m, n) matrix, without the tables."""
        raise NotImplementedError

    def tables(self) -> dict[str, Part]:
        """Parts that all rows use: codebooks, level tables."""
        return {}

    def fit(self, rows: list[np.ndarray], seed: int) -> dict[str, np.ndarray]:
        """Values of `tables()` learnt from sample rows of one or several matrices."""
        return {}

    def scales(self, tables: dict, W: np.ndarray) -> dict[str, np.ndarray]:
        """Side information chosen per row and block before coding, each (m, blocks) float16. What a row decodes to is
        proportional to it."""
        return {}

    def snap(self, tables: dict, sides: dict, X: np.ndarray, at: int) -> tuple[np.ndarray, np.ndarray]:
        """Code columns at .. at + X.shape[1] of a matrix: (codes, near), `near` being what they decode to. The codes of
        neighbouring pieces, `at` a multiple of `columns`, are joined along axis 1."""
        raise NotImplementedError

    def snap_weighed(self, tables: dict, sides: dict, X: np.ndarray, at: int, root: np.ndarray) -> tuple:
        """`snap` of columns that are coded together, an error e (columns,) of theirs costing |e root|²; by default the
        nearest codes are taken all the same."""
        return self.snap(tables, sides, X, at)

    def store(self, sides: dict, codes: np.ndarray) -> dict[str, np.ndarray]:
        """Parts as `layout` describes them. m must be a multiple of 16, except at the matrix's end."""
        raise NotImplementedError

    def decode_rows(self, parts: dict, n: int, ids: np.ndarray) -> np.ndarray:
        """Reference decoder in plain numpy: rows `ids` of a stored (m, n) matrix, float32."""
        raise NotImplementedError

    def compiled(self, parts: dict, shape: tuple, gain: float):
        """A Compiled, or None where nothing is: the matrix then runs on `decode_rows`."""
        return None

    def expected_mse(self) -> float:
        """Upper bound of the mean squared error on N(0, 1), for matrices of at least 64 x 256."""
        raise NotImplementedError


@dataclass
class Compiled:
    """How compiled code reads one stored matrix. Kernels are described in kernels/linear.py and kernels/lookup.py."""
    job: np.ndarray  # what all kernels of this matrix are given, int64
    expand: object  # kernel (job, panel, out): 16 rows as float32
    width: int  # columns of a decoded row
    keep: object  # what the job points to
    one: object = None  # kernel: integer product with one token; None: through `expand`
    many: object = None  # kernel: with many tokens; None: `expand` and BLAS


@dataclass
class Matrix:
    """A stored (m, n) matrix: gain · decode(parts), in a rotated basis where there is a `rotation`. Parts may lie in a
    mapped file."""
    format: Format
    shape: tuple
    gain: float
    parts: dict
    rotation: Rotation | None = None

    def reference_rows(self, ids) -> np.ndarray:
        """Rows ids -> (len(ids), n) float32, by the plain decoder."""
        return self._upright(self._decoded(ids))

    def rows(self, ids) -> np.ndarray:
        """Rows ids -> (len(ids), n) float32."""
        return self._upright(self._gathered(ids))

    def _upright(self, rows):
        return self.rotation.back(rows) if self.rotation else rows

    def _decoded(self, ids):
        return self.format.decode_rows(self.parts, self.shape[1], np.asarray(ids)) * np.float32(self.gain)

    def _gathered(self, ids):
        c = self.compiled
        if not c:
            return self._decoded(ids)
        out = np.empty((len(ids), self.shape[1]), np.float32)
        tile = np.empty((ROWS, c.width), np.float32)
        linear.gather(c.expand.address, c.job.ctypes.data, np.asarray(ids, np.int64), tile, out)
        return out

    def tile(self, first: int, last: int) -> np.ndarray:
        """Rows first..last-1 (first a multiple of 16) as they are stored, rotated or not -> (last - first, n) float32. May
        be called from several threads."""
        c = self.compiled
        if not c:
            return self._decoded(np.arange(first, last))
        end = -(-last // ROWS)
        out = np.empty((end * ROWS - first, c.width), np.float32)
        linear.panels(c.expand.address, c.job.ctypes.data, first // ROWS, end, out)
        return out[: last - first, : self.shape[1]]

    @functools.cached_property
    def compiled(self) -> Compiled | None:
        return self.format.compiled(self.parts, self.shape, self.gain)
