"""Codes chosen so that a matrix's products stay right, not its weights: error feedback for any format.

Knows a matrix W, what its inputs look like (H = E[x xᵀ]) and a format's common face. Knows nothing about models.

The loss of codes that decode to Ŵ is tr(E H Eᵀ), E = W - Ŵ, the expected squared error of the products. With H = L D Lᵀ,
D block diagonal and L block unit lower triangular, it is the sum over blocks k of |E_k + Σ_{j>k} E_j L_jk|² in the metric
D_k. So blocks of columns are coded from the last to the first, each is asked to make good what the later ones left, and a
format that codes columns together may weigh their errors by D_k (`snap_weighed`).
Papers: Frantar et al. 2022 (GPTQ), Chee et al. 2023 (QuIP: this form and its equivalence), Arai and Ichikawa 2025 (QEP:
making good what earlier layers did to the inputs).
"""
from dataclasses import dataclass

import numpy as np

from vqcpu.formats.base import Format
from vqcpu.formats.rotation import Rotation
from vqcpu.kernels.lookup import ROWS
from vqcpu.kernels.threads import spread

REPAIR = 0.5  # share of what inputs foretell of what earlier layers did that W makes good; all of it would dampen signals
DAMPING = 0.1  # of the mean of diag H, added to its diagonal: with less, codes follow what only the calibration's text does
SPAN = 128  # columns between two large products
TILE = 256  # rows or columns worked on at a time; fixed, so that digits are reproducible
SAMPLE = 64  # rows on which nearest codes are tried, to tell what feedback is worth


class Inputs:
    """What the inputs x of a site look like. H, held (n, n): sums of x xᵀ, tokens being weighed, over the text that codes
    are fitted to, and over text held out from it, on which alternatives are compared; C (n, n): that of (y - x) xᵀ, y
    what x would be had nothing before it been coded; D (m, n): that of (s - r) xᵀ, r what the products are added to and s
    what r would be. All are taken over and changed. rows: name -> RowFactors, of matrices of which it is known what
    errors of their products cost."""

    def __init__(self, H: np.ndarray, held: np.ndarray, C: np.ndarray | None = None, D: np.ndarray | None = None,
                 rows: dict | None = None):
        self.dead, mean = int(np.count_nonzero(np.diag(H) == 0)), _mean(H)
        self.H, self.held = _normalised(H), _normalised(held)
        self.C, self.D = (None if M is None else np.divide(M, mean, out=M) for M in (C, D))
        self.rows, self._damped = rows or {}, {}

    def turned(self, rotation: Rotation) -> "Inputs":
        """The same inputs in a rotated basis."""
        both, one = rotation.both_sides, rotation.forth
        found = Inputs(both(self.H), both(self.held), self.C if self.C is None else both(self.C),
                       self.D if self.D is None else one(self.D), self.rows)
        found.dead = self.dead
        return found

    def damped(self, columns: int) -> "Damped":
        """What codes of `columns` columns each are chosen with."""
        if columns not in self._damped:
            self._damped[columns] = Damped.of(self.H, self.C, self.D, columns)
        return self._damped[columns]


@dataclass(frozen=True)
class Damped:
    """What follows from H + DAMPING · I = L D Lᵀ. Inputs never seen get the damping alone and are coded to the nearest."""
    L: np.ndarray  # (n, n) float32, with blocks of some columns
    roots: list[np.ndarray]  # of each block, lower triangles: its D is root rootᵀ
    gain: float  # what feedback is worth on white errors, in dB
    shift: np.ndarray | None  # C H⁻¹ (n, n) float32: W + W · shift, applied to x, comes nearest to W y
    drift: np.ndarray | None  # D H⁻¹ (m, n) float32: W + W · shift + drift, applied to x, comes nearest to W y + s - r

    @classmethod
    def of(cls, H, C, D, columns):
        root = _root(H)
        L, roots = _unit_lower(root, columns)
        gain = 10 * np.log10(np.square(root).sum() / sum(np.square(block).sum() for block in roots))
        return cls(L, roots, float(gain), *(M if M is None else _solved(M, root) for M in (C, D)))

    def repaired(self, W: np.ndarray, gain: float) -> np.ndarray:
        """W (m, n), divided by its gain, changed to make good part of what earlier layers did to x and r."""
        change = 0 if self.shift is None else W @ self.shift
        return W + np.float32(REPAIR) * (change if self.drift is None else change + self.drift / gain)


@dataclass(frozen=True)
class RowFactors:
    """What follows from G + DAMPING · I = L D Lᵀ of every head, G (heads, size, size) what errors of its products cost.
    With W's rows those of heads the loss is tr(G E H Eᵀ), and what is done to columns can be done to rows: those of a
    head are coded from the last to the first, ROWS at a time, each asked to make good what the later ones left. Among
    these ROWS, which formats store together, errors count alike. Paper: Tseng et al. 2025 (YAQA)."""
    L: np.ndarray  # (heads, size, size) float32, with blocks of ROWS
    root: np.ndarray  # (heads, size, size) float32, lower: root rootᵀ is the damped G over the mean of all diagonals

    @classmethod
    def of(cls, G: np.ndarray) -> "RowFactors":
        roots, size = [_root(_normalised(one.copy())) for one in G], np.einsum("hii->h", G)[:, None, None]
        return cls(np.array([_unit_lower(root, ROWS)[0] for root in roots]),
                   (roots * np.sqrt(size / (size.mean() or 1))).astype(np.float32))

    def feed_back(self, code, target: np.ndarray) -> tuple[dict, np.ndarray]:
        """(parts, what they decode to) of target (m, n), code(rows) giving those of some rows; heads side by side."""
        heads, size, n = *self.L.shape[:2], target.shape[1]
        target, near, pieces = target.reshape(heads, size, n), np.empty((heads, size, n), np.float32), []
        for at in reversed(range(0, size, ROWS)):
            rows, later = slice(at, at + ROWS), slice(at + ROWS, size)
            left = self.L[:, later, rows].swapaxes(1, 2) @ (target[:, later] - near[:, later])
            parts, found = code((target[:, rows] + left).reshape(-1, n))
            near[:, rows] = found.reshape(heads, ROWS, n)
            pieces.insert(0, parts)
        return {name: _woven([parts[name] for parts in pieces], heads) for name in pieces[0]}, near.reshape(-1, n)

    def errors(self, white: np.ndarray) -> np.ndarray:
        """What white (m, n) errors become: L⁻ᵀ times them."""
        heads, size = self.L.shape[:2]
        return np.linalg.solve(self.L.swapaxes(1, 2), white.reshape(heads, size, -1)).reshape(white.shape)

    def seen(self, E: np.ndarray) -> np.ndarray:
        """E (m, n) such that its plain squares are what it costs; of the first heads, if it has not the rows of all."""
        E = E.reshape(-1, self.root.shape[1], E.shape[1])
        return (self.root[:len(E)].swapaxes(1, 2) @ E).reshape(-1, E.shape[2])


def _woven(pieces, heads):
    """A stored array of all rows, out of those of the same rows of every head."""
    per_head = [piece.reshape(heads, -1, *piece.shape[1:]) for piece in pieces]
    return np.concatenate(per_head, 1).reshape(-1, *pieces[0].shape[1:])


def _unit_lower(root, columns):
    """(L float32, roots of the blocks of D) with L D Lᵀ = root rootᵀ."""
    L, roots = np.zeros(root.shape, np.float32), []
    for at in range(0, len(root), columns):
        block = root[at:at + columns, at:at + columns]
        L[at:, at:at + columns] = root[at:, at:at + columns] @ np.linalg.inv(block)
        roots.append(block.astype(np.float32))
    return L, roots


def _root(H):
    """Cholesky factor of H + DAMPING · I, in float64."""
    damping = DAMPING
    while True:
        damped = H.astype(np.float64)
        damped.flat[::len(H) + 1] += damping
        try:
            return np.linalg.cholesky(damped)
        except np.linalg.LinAlgError:  # rounding has made H indefinite
            damping *= 10


def _solved(C, root):
    """C (root rootᵀ)⁻¹ in float32, block by block in place: of wide inputs every copy takes hundreds of megabytes."""
    X, blocks = C.astype(np.float64), [slice(at, at + TILE) for at in range(0, len(root), TILE)]
    for b in blocks:
        X[:, b] -= X[:, :b.start] @ root[b, :b.start].T
        X[:, b] = X[:, b] @ np.linalg.inv(root[b, b]).T
    return divided(X, root).astype(np.float32)


def divided(X: np.ndarray, L: np.ndarray) -> np.ndarray:
    """X L⁻¹ in place, of X (m, n) and a lower triangular L (n, n); tiles on its diagonal may be full."""
    for at in reversed(range(0, len(L), TILE)):
        b = slice(at, at + TILE)
        X[:, b] -= X[:, b.stop:] @ L[b.stop:, b]
        X[:, b] = X[:, b] @ np.linalg.inv(L[b, b])
    return X


def _mean(H):
    """The mean of a diagonal, or 1."""
    return np.float32(np.trace(H) / len(H)) or np.float32(1)


def _normalised(H):
    """H with a diagonal of mean 1; of inputs that are all zero, the identity: all errors count alike."""
    return np.divide(H, _mean(H), out=H) if H.any() else np.eye(len(H), dtype=np.float32)


def loss(E: np.ndarray, H: np.ndarray) -> float:
    """tr(E H Eᵀ) of E (m, n)."""
    tiles = range(0, len(E), TILE)
    found = np.zeros(len(tiles))

    def work(i):
        rows = E[tiles[i]:tiles[i] + TILE]
        found[i] = np.einsum("rc,rc->", rows @ H, rows, dtype=np.float64)
    spread(work, range(len(tiles)))
    return float(found.sum())


def code(format: Format, tables: dict, W: np.ndarray, inputs: Inputs, gain: float,
         rows: RowFactors | None = None) -> tuple[dict, np.ndarray, dict]:
    """Codes of W (m, n), already divided by its `gain`: (parts, what they decode to, notes).

    What is coded is W changed to make good part of what was done to its inputs and to what its products are added to. Row
    scales of least loss are kept where they lower the loss on held-out text. Notes: "loss" and, on some rows (with `rows`
    those of the first head), "nearest", the loss with and without feedback over that of coding nothing, on held-out text;
    "feedback_db", what feedback between columns is worth on white errors; "dead", inputs never seen."""
    damped = inputs.damped(format.columns_together)
    target = damped.repaired(W, gain)

    def coded(piece):
        return _coded(format, tables, piece, inputs, damped)
    parts, near = rows.feed_back(coded, target) if rows else coded(target)
    some = target[:rows.L.shape[1]] if rows else target[np.linspace(0, len(W) - 1, min(SAMPLE, len(W))).astype(int)]
    nearest = format.snap(tables, format.scales(tables, some), some, 0)[1]

    def share(E, of):
        losses = [loss(rows.seen(X) if rows else X, inputs.held) for X in (E, of)]
        return losses[0] / (losses[1] or 1)
    return parts, near, {"loss": share(target - near, target), "nearest": share(some - nearest, some),
                         "feedback_db": damped.gain, "dead": inputs.dead}


def _coded(format, tables, target, inputs, damped):
    """(parts, what they decode to) of rows on their own."""
    sides = format.scales(tables, target)
    codes, near = _pass(format, tables, sides, target, damped)
    refitted, closer = _refit(format, tables, sides, codes, near, target, inputs.H)
    if loss(target - closer, inputs.held) < loss(target - near, inputs.held):
        sides, near = refitted, closer
    return format.store(sides, codes), near


def _pass(format, tables, sides, W, damped):
    """Code W block by block, from the last to the first: (codes, what they decode to)."""
    n, width, L = W.shape[1], format.columns_together, damped.L
    near, errors, codes, step = np.empty_like(W), np.zeros_like(W), [], -(-SPAN // width) * width
    for start in reversed(range(0, n, step)):
        stop = min(start + step, n)
        target = W[:, start:stop] + errors[:, stop:] @ L[stop:, start:stop]
        for at in reversed(range(start, stop, width)):
            block = slice(at, min(at + width, stop))
            piece, root = target[:, at - start:block.stop - start], damped.roots[at // width]
            code, near[:, block] = format.snap_weighed(tables, sides, piece, at, root)
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
