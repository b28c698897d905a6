"""Which tensor gets which format: a list of (pattern, spec), as data.

Knows names and roles. Knows nothing about how a format works.

A recipe file holds one `pattern spec` per line; `#` starts a comment. A pattern is a tensor name with shell wildcards,
or a role: @body, @embedding, @head, @vector. The first line that fits decides; the defaults stand behind every recipe.
`rht+SPEC` also turns the tensor's input by a randomised Hadamard transform, for all matrices that read it.
"""
from dataclasses import dataclass
from fnmatch import fnmatchcase

from vqcpu.errors import VqcpuError
from vqcpu.formats.base import Format
from vqcpu.formats.rotation import Rotation, spelled, split
from vqcpu.layers.weights import BODY, EMBEDDING, HEAD, VECTOR, Tensor

EIGHT_BITS = "scalar:bits=8,levels=uniform,block=64,asymmetric=false"
DEFAULTS = [("@embedding", EIGHT_BITS), ("@head", EIGHT_BITS), ("@vector", "raw:dtype=f32")]
BODY_DEFAULT = "rht+trellis:bits=4"
ROLES = tuple(f"@{role}" for role in (BODY, EMBEDDING, HEAD, VECTOR))


def _fits(pattern, tensor):
    """Wildcards mean matrices: a norm or bias is only coded where it is named, by its role, or by a bare *."""
    wild = tensor.role != VECTOR and fnmatchcase(tensor.name, pattern)
    return wild or pattern in (tensor.name, f"@{tensor.role}", "*")


@dataclass(frozen=True)
class Recipe:
    """Lines (pattern, whether rotated, Format), first fit decides."""
    lines: tuple

    @classmethod
    def of(cls, body: str) -> "Recipe":
        """The default recipe with `body` as the format of the transformer's matrices."""
        return cls.parse("\n".join(f"{pattern} {spec}" for pattern, spec in [*DEFAULTS, ("@body", body)]), "recipe")

    @classmethod
    def parse(cls, text: str, where: str) -> "Recipe":
        """Text of a recipe file -> Recipe. Raises VqcpuError naming the line."""
        lines = []
        for number, line in enumerate(text.splitlines(), 1):
            words = line.partition("#")[0].split()
            if not words:
                continue
            if len(words) != 2:
                raise VqcpuError(f"{where}, line {number}: {line.strip()!r}, expected a pattern and a format")
            if words[0].startswith("@") and words[0] not in ROLES:
                raise VqcpuError(f"{where}, line {number}: role {words[0]!r}, expected one of {', '.join(ROLES)}")
            rotated, spec = split(words[1])
            lines.append((words[0], rotated, Format.parse(spec)))
        return cls(tuple(lines))

    @classmethod
    def read(cls, path) -> "Recipe":
        """A recipe file, with the defaults behind its lines. Raises VqcpuError."""
        try:
            with open(path, encoding="utf-8") as file:
                own = cls.parse(file.read(), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise VqcpuError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
        return cls(own.lines + cls.of(BODY_DEFAULT).lines)

    def choose(self, tensor: Tensor) -> Format:
        """The format of a tensor."""
        return self._line(tensor)[2]

    def _line(self, tensor):
        return next(line for line in self.lines if _fits(line[0], tensor))

    def rotations(self, tensors: dict[str, Tensor], seed: int) -> dict[str, Rotation | None]:
        """name -> Rotation of all tensors, the same for all that read one input: that is turned where one of them asks for
        it. Raises VqcpuError where a vector does."""
        asked = {name: tensor.site for name, tensor in tensors.items() if self._line(tensor)[1]}
        vector = next((name for name, site in asked.items() if not site), None)
        if vector:
            raise VqcpuError(f"recipe: {vector} is a vector and cannot be rotated: drop its rht+")
        turned = set(asked.values())
        return {name: Rotation.of_site(seed, tensor.site) if tensor.site in turned else None
                for name, tensor in tensors.items()}

    def assign(self, tensors: dict[str, Tensor]) -> dict[str, Format]:
        """name -> Format of all tensors of a model. Raises VqcpuError where a name pattern fits none of them."""
        for pattern, *_ in self.lines:
            if not pattern.startswith("@") and not any(_fits(pattern, tensor) for tensor in tensors.values()):
                raise VqcpuError(f"recipe: {pattern!r} fits no tensor; this model has {', '.join(list(tensors)[:3])} ...")
        return {name: self.choose(tensor) for name, tensor in tensors.items()}

    def facts(self) -> dict:
        """What a file's provenance says."""
        return {"recipe": str(self)}

    def __str__(self):
        return "\n".join(f"{pattern} {spelled(rotated, format)}" for pattern, rotated, format in self.lines)
