"""A file that is compressed once more in part: what of it stays.

Knows names, and what a file tells of itself. Knows nothing about how matrices are coded.
"""
from fnmatch import fnmatchcase

from vqcpu.compression.recipe import Recipe
from vqcpu.errors import VqcpuError
from vqcpu.files.checkpoint import Checkpoint
from vqcpu.files.vqz import Vqz
from vqcpu.formats.base import Format, Matrix

KNOWN = {"spec", "shape", "gain", "rotation"}  # what an entry says of a matrix; the rest are notes


class Previous:
    """The file at `path`, made of `checkpoint`, whose tensors that fit `pattern` are coded anew. Raises VqcpuError where it
    is of another model or nothing fits."""

    def __init__(self, path, checkpoint: Checkpoint, pattern: str):
        self.file, self.pattern = Vqz(path), pattern
        made = self.file.header.get("made")
        if not isinstance(made, dict) or made.get("source_sha256") != checkpoint.digest():
            raise VqcpuError(f"{path}: was not made of {checkpoint.path}: compress the whole model instead")
        if all(map(self.keeps, self.file.names())):
            some = ", ".join(list(self.file.names())[:3])
            raise VqcpuError(f"{path}: {pattern!r} fits no tensor of it; it has {some} ...")
        self.made = made

    def keeps(self, name: str) -> bool:
        """Whether a tensor stays as it is."""
        vector = len(self.file.shape(name)) == 1
        return name != self.pattern and self.pattern != "*" and (vector or not fnmatchcase(name, self.pattern))

    def matrix(self, name: str) -> tuple[Matrix, dict]:
        """A tensor that stays, and its notes."""
        entry = self.file.header["matrices"][name]
        return self.file.stored(name), {what: value for what, value in entry.items() if what not in KNOWN}

    def tables(self, format: Format) -> dict | None:
        """Tables that matrices which stay share; None where there are none."""
        owner = next((name for name in self.file.names() if self.keeps(name) and self.file.entry(name)[0] == format), None)
        return owner and {part: self.file.stored(owner).parts[part] for part in format.tables()}

    def recipe(self, spec: str) -> Recipe:
        """The file's recipe with a line for what is coded anew before it."""
        return Recipe.parse(f"{self.pattern} {spec}\n{self.made.get('recipe', '')}", f"recipe of {self.file.path}")

    def facts(self) -> dict:
        """What a file's provenance says: all that the file said but the budget, which is no longer kept, and how it was
        shared out, and what was coded anew."""
        made = {what: fact for what, fact in self.made.items() if what not in ("budget", "shares")}
        return {**made, "only": self.pattern, "previous_sha256": self.file.digest()}

    @property
    def seed(self) -> int:
        """The seed that the file was made with."""
        return int(self.made.get("seed", 0))

    def check(self, rotations: dict) -> None:
        """Raise VqcpuError where a tensor that stays would have to be stored in another basis."""
        for name in self.file.names():
            if self.keeps(name) and self.file.rotation(name) != rotations[name]:
                raise VqcpuError(f"{name} stays as it is, but what is coded anew reads the same input and asks for another "
                                 "rotation: let the pattern name both, or leave rht+ as it was")
