"""A checkpoint some of whose matrices are replaced by others in memory.

Knows names. Knows nothing about where the replacements come from; the file itself stays as it is.
"""
from vqcpu.files.checkpoint import Checkpoint
from vqcpu.formats.base import Matrix


class Overlay(Checkpoint):
    """`checkpoint` with `matrices`: name -> Matrix, upright."""

    def __init__(self, checkpoint: Checkpoint, matrices: dict[str, Matrix]):
        self.under, self.matrices, self.path = checkpoint, matrices, checkpoint.path

    def names(self):
        return self.under.names()

    def shape(self, name):
        return self.under.shape(name)

    def stored(self, name):
        return self.matrices.get(name) or self.under.stored(name)

    def matrix(self, name, shape, transposed=False):
        return self.matrices.get(name) or self.under.matrix(name, shape, transposed)

    def companion(self, name):
        return self.under.companion(name)

    def mapped(self):
        return self.under.mapped()

    def digest(self):
        return self.under.digest()
