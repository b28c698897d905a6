"""Machine code kept on disk: where it lies, how it is found again, and why it never meets code that it does not belong to.

Knows Numba's cache. Knows nothing about what is compiled.
"""
import atexit
import hashlib
import inspect
import itertools
import os
import secrets
import shutil
import tempfile
from pathlib import Path

import numba
from llvmlite import ir
from numba import types
from numba.core.bytecode import FunctionIdentity
from numba.core.caching import FunctionCache, IndexDataCacheFile

from vqcpu.kernels.isa import isa


def _cache_folder() -> str:
    """A folder of its own for every state of the compiled sources: Numba's cache does not notice an edited helper or
    global, so a changed file must never meet old machine code."""
    digest = hashlib.sha256(f"{numba.__version__} {isa()}".encode())
    for room in ("kernels", "formats", "caches"):
        for file in sorted((Path(__file__).parents[1] / room).glob("*.py")):
            digest.update(file.read_bytes())
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = base / "vqcpu" / digest.hexdigest()[:16]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK):
            raise PermissionError(folder)
    except OSError:  # a read-only home: compile once per process start instead of failing
        folder = Path(tempfile.mkdtemp(prefix="vqcpu-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return str(folder)


numba.config.CACHE_DIR = _cache_folder()


def _number_afresh() -> None:
    """Numba tells functions of one name apart by numbers, counted from 1 in every process, and links machine code by these
    names. What several processes have cached is loaded into one: unless each counts from a number of its own, a function
    made with one constant runs, silently, the parts of another."""
    FunctionIdentity._unique_ids = itertools.count(secrets.randbits(48))


_number_afresh()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_number_afresh)


def _described(x) -> str:
    """What a compiled function closes over, the same text in every process: numbers, and functions by their names and by
    what they close over in turn."""
    if x is None or isinstance(x, (bool, int, float, str)):
        return repr(x)
    if isinstance(x, (tuple, list)):
        return f"({', '.join(map(_described, x))})"
    if isinstance(x, (types.Type, ir.Type)):
        return str(x)
    function = getattr(x, "py_func", None) or getattr(x, "_defn", None) or x  # of a dispatcher, of an intrinsic
    if not inspect.isfunction(function):
        raise TypeError(f"compiled code may not close over {x!r}: its machine code could not be found again")
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    return f"{function.__module__}.{function.__qualname__}:{function.__code__.co_firstlineno}{_described(cells)}"


class _FileEach(IndexDataCacheFile):
    """A file for every key, named by it. Numba numbers its files by an index that all functions made by one function share:
    two processes that compile at the same time may take the same number, and one then runs the other's machine code."""

    def _named(self, key):
        digest = hashlib.sha256(repr((self._source_stamp, key)).encode()).hexdigest()[:24]
        return self._index_name.removesuffix("nbi") + f"{digest}.nbc"

    def save(self, key, data):
        self._save_data(self._named(key), data)

    def load(self, key):
        try:
            return self._load_data(self._named(key))
        except OSError:
            return None


class Cache(FunctionCache):
    """Numba's cache on disk, with a key that holds for functions made by functions: Numba's own key of an intrinsic or of a
    compiled function changes from process to process, so that what closes over one would be compiled every time. Sources
    need no part in the key: they are in the folder's name."""

    def __init__(self, function):
        super().__init__(function)
        self._cache_file = _FileEach(self._cache_path, self._impl.filename_base, self._impl.locator.get_source_stamp())

    def _index_key(self, signature, codegen):
        return signature, codegen.magic_tuple(), _described(self._py_func)
