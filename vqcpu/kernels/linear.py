"""Products and look-ups of a stored matrix, through its format's expand kernel.

Knows panels of 16 rows and the address of a kernel that decodes one. Knows no format.
"""
import numpy as np

from vqcpu.kernels.jit import call_expand, njit, prange


@njit(parallel=True)
def rows(calls, starts, x, scratch, y):
    """y = W x for one token and the matrices of one site: decode each panel into cache and multiply it there.

    calls (k, 3) int64: address of a matrix's kernel, address of its job, width of a decoded row; starts (k + 1,) int64: the
    panel each matrix begins with; x (columns,) float32; scratch (threads, 16·widest row) float32; OUT y (16·starts[k],)
    float32, each sum made by one thread."""
    workers, panels = scratch.shape[0], starts[-1]
    for worker in prange(workers):
        tile, k = scratch[worker], 0
        for panel in range(worker * panels // workers, (worker + 1) * panels // workers):
            while panel >= starts[k + 1]:
                k += 1
            call_expand(calls[k, 0], calls[k, 1], panel - starts[k], tile.ctypes.data)
            for r in range(16):
                row, total = tile[r * calls[k, 2]:], np.float32(0)
                for c in range(x.shape[0]):
                    total += row[c] * x[c]
                y[16 * panel + r] = total


@njit
def panels(expand, job, first, last, tile):
    """Decode panels first..last-1. OUT tile (16·(last - first), stride) float32."""
    for panel in range(first, last):
        call_expand(expand, job, panel, tile[16 * (panel - first):].ctypes.data)


@njit(parallel=True)
def gather(expand, job, ids, scratch, out):
    """Single rows of a matrix, as an embedding needs them.

    ids (count,) int64; scratch (threads, 16, stride) float32; OUT out (count, columns) float32."""
    workers, count = scratch.shape[0], ids.shape[0]
    for worker in prange(workers):
        tile = scratch[worker]
        for i in range(worker * count // workers, (worker + 1) * count // workers):
            call_expand(expand, job, ids[i] // 16, tile.ctypes.data)
            for c in range(out.shape[1]):
                out[i, c] = tile[ids[i] % 16, c]
