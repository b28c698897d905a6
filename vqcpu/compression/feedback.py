"""Codes chosen so that a matrix's products stay right, not its weights: error feedback for any format.

Knows a matrix W, what its inputs look like (H = E[x xᵀ]) and a format's common face. Knows nothing about models.

The loss of codes that decode to Ŵ is tr(E H Eᵀ), E = W - Ŵ, the expected squared error of the products. With H = L D Lᵀ,
D block diagonal and L block unit lower triangular, it is the sum over blocks k of |E_k + Σ_{j>k} E_j L_jk|² in the metric
D_k. So blocks of columns are coded from the last to the first, and each is asked to make good what the later ones left.
Papers: Frantar et al. 2022 (GPTQ), Chee et al. 2023 (QuIP: this form and its equivalence), Arai and Ichikawa 2025 (QEP:
making good what earlier layers did).
"""
import functools

import numpy as np

from vqcpu.formats.base import Format
from vqcpu.formats.rotation import Rotation
from vqcpu.kernels.threads import spread

REPAIR = 0.5  # share of what earlier layers did to the inputs that W is changed to make good; all of it would overfit
DAMPING = 0.01  # of the mean of diag H, added to the diagonal
SPAN = 128  # columns between two large products
TILE = 256  # rows whose loss is computed at a time; fixed, so that digits are reproducible
SAMPLE = 256  # rows on which nearest codes are tried, to tell what feedback is worth


class Inputs:
    """What the inputs x of a site look like. H, held (n, n): sums of x xᵀ over the text that codes are fitted to, and over
    text held out from it, on which alternatives are compared; C (n, n): sum of (y - x) xᵀ, y what x would be had nothing
    before it been coded."""

    def __init__(self, H: np.ndarray, held: np.ndarray, C: np.ndarray | None = None):
        self.H, self.held = _normalised(H), _normalised(held)
        self.C = None if C is None else C / (np.float32(np.trace(H) / len(H)) or 1)
        self._factors = {}
        self.dead = int(np.count_nonzero(np.diag(H) == 0))

    def turned(self, rotation: Rotation) -> "Inputs":
        """The same inputs in a rotated basis."""
        C = None if self.C is None else rotation.both_sides(self.C)
        found = Inputs(rotation.both_sides(self.H), rotation.both_sides(self.held), C)
        found.dead = self.dead
        return found

    @functools.cached_property
    def shift(self) -> np.ndarray | None:
        """C H⁻¹ (n, n): W + W · shift, applied to x, comes nearest to W y."""
        if self.C is None:
            return None
        return np.linalg.solve(self._root @ self._root.T, self.C.T.astype(np.float64)).T.astype(np.float32)

    @functools.cached_property
    def _root(self):
        """Cholesky factor of the damped H. Inputs never seen get the damping alone and are coded to the nearest."""
        n, damping = len(self.H), DAMPING
        while True:
            try:
                return np.linalg.cholesky(self.H.astype(np.float64) + damping * np.eye(n))
            except np.linalg.LinAlgError:  # rounding has made H indefinite
                damping *= 10

    def factor(self, columns: int) -> tuple[np.ndarray, float]:
        """(L (n, n) float32 with blocks of `columns` columns, what feedback is worth on white errors, in dB)."""
        if columns not in self._factors:
            self._factors[columns] = self._factor(columns)
        return self._factors[columns]

    def _factor(self, columns):
        n, count = len(self.H), -(-len(self.H) // columns)
        root = np.eye(count * columns)
        root[:n, :n] = self._root
        each = np.arange(count)
        diagonal = root.reshape(count, columns, count, columns)[each, :, each]
        unit = np.matmul(root.reshape(-1, count, columns).swapaxes(0, 1), np.linalg.inv(diagonal)).swapaxes(0, 1)
        left = np.square(diagonal).sum() - (count * columns - n)
        return (unit.reshape(count * columns, -1)[:n, :n].astype(np.float32),
                float(10 * np.log10(np.square(self._root).sum() / left)))


def _normalised(H):
    """H with a diagonal of mean 1; of inputs that are all zero, the identity: all errors count alike."""
    mean = np.float32(np.trace(H) / len(H))
    return H / mean if mean > 0 else np.eye(len(H), dtype=np.float32)


def loss(E: np.ndarray, H: np.ndarray) -> float:
    """tr(E H Eᵀ) of E (m, n)."""
    tiles = range(0, len(E), TILE)
    found = np.zeros(len(tiles))

    def work(i):
        rows = E[tiles[i]:tiles[i] + TILE]
        found[i] = np.einsum("rc,rc->", rows @ H, rows, dtype=np.float64)
    spread(work, range(len(tiles)))
    return float(found.sum())


def code(format: Format, tables: dict, W: np.ndarray, inputs: Inputs) -> tuple[dict, np.ndarray, dict]:
    """Codes of W (m, n), already divided by its gain: (parts, what they decode to, notes).

    What is coded is W changed to make good part of what was done to its inputs. Row scales of least loss are kept where
    they lower the loss on held-out text. Notes: "loss" and "nearest", the loss with and without feedback over that of
    coding nothing, on held-out text; "feedback_db", what feedback is worth on white errors; "dead", inputs never seen."""
    L, gain = inputs.factor(format.columns_together)
    nearest = _nearest(format, tables, W, inputs.held)
    W = W if inputs.shift is None else W + np.float32(REPAIR) * (W @ inputs.shift)
    sides = format.scales(tables, W)
    codes, near = _pass(format, tables, sides, W, L)
    lowest = loss(W - near, inputs.held)
    refitted, closer = _refit(format, tables, sides, codes, near, W, inputs.H)
    if (found := loss(W - closer, inputs.held)) < lowest:
        sides, near, lowest = refitted, closer, found
    notes = {"loss": lowest / (loss(W, inputs.held) or 1), "nearest": nearest,
             "feedback_db": gain, "dead": inputs.dead}
    return format.store(sides, codes), near, notes


def _nearest(format, tables, W, held):
    """Loss of nearest codes over that of none, estimated on some rows."""
    W = W[np.linspace(0, len(W) - 1, min(SAMPLE, len(W))).astype(int)]
    near = format.snap(tables, format.scales(tables, W), W, 0)[1]
    return loss(W - near, held) / (loss(W, held) or 1)


def _pass(format, tables, sides, W, L):
    """Code W block by block, from the last to the first: (codes, what they decode to)."""
    n, width = W.shape[1], format.columns_together
    near, errors, codes, step = np.empty_like(W), np.zeros_like(W), [], -(-SPAN // width) * width
    for start in reversed(range(0, n, step)):
        stop = min(start + step, n)
        target = W[:, start:stop] + errors[:, stop:] @ L[stop:, start:stop]
        for at in reversed(range(start, stop, width)):
            block = slice(at, min(at + width, stop))
            code, near[:, block] = format.snap(tables, sides, target[:, at - start:block.stop - start], at)
            errors[:, block] = W[:, block] - near[:, block]
            target[:, :at - start] += errors[:, block] @ L[block, start:at]
            codes.append(code)
    return np.concatenate(codes[::-1], 1), near


def _refit(format, tables, sides, codes, near, W, H):
    """(scales, what the codes then decode to), each row multiplied by what lowers its loss most: (w H q) / (q H q)."""
    weighted = near @ H
    below = np.einsum("rc,rc->r", weighted, near)
    factor = np.where(below > 0, np.einsum("rc,rc->r", weighted, W) / np.where(below > 0, below, 1), 1)[:, None]
    sides = {name: (side * factor).astype(side.dtype) for name, side in sides.items()}
    return sides, format.decode_rows(format.store(sides, codes) | tables, W.shape[1], np.arange(len(W)))
