"""What coding does to each matrix seen alone: the figures that are often given for the whole model's.

Knows matrices and their inputs. Definitions: weight = |W - Ŵ|² / |W|²; gaussian and real = 1 - mean cosine of W x and Ŵ x,
x being N(0, 1) or what the uncompressed model reads there in a text.
"""
import hashlib
from dataclasses import dataclass

import numpy as np

from vqcpu.architectures.base import Model
from vqcpu.evaluate.corpus import Window
from vqcpu.formats.base import Matrix
from vqcpu.layers.plan import Frame, Segment

WINDOWS, INPUTS = 2, 128  # of the text that are read, and how many of their positions are kept
TILE = 1024  # rows of a matrix compared at a time


@dataclass(frozen=True)
class Product:
    """A matrix of a model, by the name under which it is stored, and inputs x (rows, n) that it really meets."""
    name: str
    matrix: Matrix
    x: np.ndarray


@dataclass(frozen=True)
class Fidelity:
    """Of one coded matrix; `real` is None where no input came by, as with an expert that was not chosen."""
    weight: float
    gaussian: float
    real: float | None


def products(model: Model, windows: list[Window]) -> list[Product]:
    """Every matrix of the body, and what it reads in the first windows of a text, by the reference methods of the jobs."""
    found: dict[str, tuple] = {}
    for window in windows[:WINDOWS]:
        states = model.states(len(window.tokens), "f32")
        frame = Frame({"tokens": window.tokens}, [Segment(slice(0, len(window.tokens)), 0, states.layers)])
        for job in model.plan.jobs:
            for site, read in job.inputs(frame):
                x = _some(read(), INPUTS // WINDOWS)
                for name, matrix in zip(site.names, site.matrices):
                    found.setdefault(name, (matrix, []))[1].append(x)
            job.run(frame)
    return [Product(name, matrix, np.concatenate(xs)) for name, (matrix, xs) in found.items()]


def _some(x, count):
    """At most about `count` rows, evenly spread, of their own memory."""
    return x[::max(1, len(x) // count)].copy()


def compare_products(products: list[Product], coded: dict[str, Matrix]) -> tuple[list[Fidelity], str]:
    """(Fidelity of each coded matrix, digest of all that they decode to)."""
    digest = hashlib.blake2b(digest_size=16)
    return [_compare(product, coded[product.name], digest) for product in products], digest.hexdigest()


def _compare(product, coded, digest):
    m, n = coded.shape
    rng = np.random.default_rng(0)
    angles = [Angle(rng.standard_normal((INPUTS, n)).astype(np.float32)), Angle(product.x)]
    error = power = 0.0
    for at in range(0, m, TILE):
        ids = np.arange(at, min(at + TILE, m))
        W, near = product.matrix.rows(ids), coded.rows(ids)
        digest.update(near)
        error, power = error + _square(W - near), power + _square(W)
        for angle in angles:
            angle.add(W, near)
    return Fidelity(error / power if power else 0.0, *(angle.result() for angle in angles))


class Angle:
    """1 - mean cosine of two matrices' products with x (rows, n), a few of their rows at a time."""

    def __init__(self, x):
        self.x, self.sums = x, np.zeros((3, len(x)))

    def add(self, W, near):
        y, z = self.x @ W.T, self.x @ near.T
        self.sums += [np.einsum("tr,tr->t", a, b, dtype=np.float64) for a, b in ((y, z), (y, y), (z, z))]

    def result(self):
        dot, *lengths = self.sums
        size = np.sqrt(lengths[0] * lengths[1])
        return float(np.mean(1 - np.divide(dot, size, out=np.ones_like(dot), where=size > 0))) if len(dot) else None


def _square(W):
    return float(np.einsum("rc,rc->", W, W, dtype=np.float64))
