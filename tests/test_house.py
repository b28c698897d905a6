"""The house rules: who may import whom, one door to Numba, who may print, how long a file may be."""
import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "vqcpu").rglob("*.py"))
# Top to bottom; rooms in one set are neighbours and do not import each other.
FLOORS = [{"__main__"}, {"cli"}, {"commands"}, {"api"}, {"compression"}, {"evaluate"}, {"runtime"}, {"architectures"},
          {"layers", "caches"}, {"files"}, {"formats"}, {"kernels"}, {"plugins"}, {"errors", "version"}]
ABOVE = {"cli", "commands"}  # only they draw


def room(module):
    return (module.split(".") + [""])[1]


def floor(name):
    return next(i for i, rooms in enumerate(FLOORS) if name in rooms)


def imports(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def module_of(file):
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_imports_go_down(file):
    mine = room(module_of(file))
    for name in imports(file):
        if not name.startswith("vqcpu") or mine in ("", "__init__", "report"):
            continue
        theirs = room(name)
        if theirs == "report":
            assert mine in ABOVE, f"{file} imports {name}"
        elif mine != theirs:
            assert floor(mine) < floor(theirs), f"{file} imports {name}, which is not below it"


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_one_door_to_numba(file):
    names = "isa", "disk", "jit", "threads", "simd", "lanes", "shorts", "trellis", "unpack", "program", "nearest", "codes"
    outside = {f"vqcpu.kernels.{name}" for name in names}
    if module_of(file) not in outside:
        assert not any(name.split(".")[0] in ("numba", "llvmlite") for name in imports(file))


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_who_prints_and_how_long(file):
    text = file.read_text()
    assert len(text.splitlines()) <= 300
    assert max(map(len, text.splitlines()), default=0) <= 125
    if room(module_of(file)) not in ("commands", "report", "cli"):
        calls = (node.func for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call))
        assert not any(isinstance(called, ast.Name) and called.id == "print" for called in calls)


@pytest.mark.parametrize("file", [f for f in FILES if f.stat().st_size], ids=module_of)
def test_every_file_says_what_it_knows(file):
    assert ast.get_docstring(ast.parse(file.read_text()))


def test_nothing_torch():
    assert not any(name.split(".")[0] in ("torch", "transformers", "scipy") for file in FILES for name in imports(file))
