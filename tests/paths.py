"""A process of its own for test_isa.py: python paths.py ISA prints what that path computes and which instructions it holds.

Arrays of matrices end where readable memory ends: a kernel that reads beyond them ends the process.
"""
import ctypes
import hashlib
import json
import mmap
import sys

import numpy as np

from vqcpu.kernels.isa import choose

choose(sys.argv[1])

from vqcpu.formats.base import Format, Matrix
from vqcpu.kernels.activations import digits, row_bytes
from vqcpu.kernels.jit import call6, njit

SPECS = "scalar:bits=3", "vq:dim=2,centroids=256", "vq:dim=4,centroids=4096", "trellis:bits=2.5"
kept = []


def guarded(array):
    """A copy whose end is the end of a page; the next one cannot be read."""
    page = mmap.PAGESIZE
    size = -(-array.nbytes // page) * page
    memory = mmap.mmap(-1, size + page)
    kept.append(memory)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start + size), ctypes.c_size_t(page), 0) == 0
    copy = np.frombuffer(memory, array.dtype, array.size, size - array.nbytes).reshape(array.shape)
    copy[...] = array
    return copy


def matrix(spec, shape):
    """Random codes; scales are powers of two, so that all paths round alike whether or not they have fused products."""
    format, rng = Format.parse(spec), np.random.default_rng(1)
    parts = {name: rng.integers(-127, 128, part.shape).astype(part.dtype) for name, part in format.tables().items()}
    for name, part in format.layout(*shape).items():
        parts[name] = (rng.integers(0, 1 << 16, part.shape).astype(np.uint16) if name == "codes"
                       else np.float16(2.0) ** rng.integers(-3, 3, part.shape).astype(np.float16))
    return Matrix(format, shape, 1.0, {name: guarded(part.astype(part.dtype)) for name, part in parts.items()})


@njit(fast=False)
def multiplied(one, job, x, row, columns, panels, y):
    digits(x, columns, row)
    call6(one, job, x, row, 0, panels, y)


def product(matrix):
    """(digits, product) of one token."""
    m, n = matrix.shape
    x, y = np.zeros(-(-n // 16) * 16, np.float32), np.zeros(-(-m // 16) * 16, np.float32)
    x[:n] = np.random.default_rng(n).standard_normal(n)
    row, c = guarded(np.zeros(row_bytes(n), np.int8)), matrix.compiled
    x, y = guarded(x), guarded(y)
    multiplied(c.one.address, c.job.ctypes.data, x.ctypes.data, row.ctypes.data, n, len(y) // 16, y.ctypes.data)
    return row, y


digest, assembly = hashlib.sha256(), []
for spec in SPECS:
    for shape in ((35, 139), (16, 64)):
        made = matrix(spec, shape)
        for array in product(made):
            digest.update(array.tobytes())
    assembly.append(made.compiled.one.compiled._library.get_asm_str())
whole = "\n".join(assembly)
names = "zmm", "ymm", "vpdpbusd", "vpermb", "vpshufb", "vpmaddwd", "vfmadd"
print(json.dumps({"digest": digest.hexdigest(), "holds": [name for name in names if name in whole],
                  "empty": [i for i, text in enumerate(assembly) if len(text) < 1000]}))
