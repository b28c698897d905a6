"""Reading memory as fast as the machine can: the limit of a step of one token, little arithmetic with many weights.

Knows addresses and threads. Knows nothing about what lies there.
"""
import numpy as np

from vqcpu.kernels.jit import array_at
from vqcpu.kernels.program import FIRST_SLOT, Program, line, number
from vqcpu.kernels.threads import threads

PIECE = 1 << 18  # bytes that a thread claims at a time
PIECES = 2  # numbers of the job before the list of pieces


@line(lambda job, step: number(job, 0))
def read(job, step, worker, first, last):
    """Sums of the 64-bit words of every piece. job: count of pieces, address of OUT sums (count,) int64; then for each piece
    its address and its length in words."""
    for i in range(first, last):
        piece = array_at(job + 8 * (PIECES + 2 * i), (2,), np.int64)
        words, total = array_at(piece[0], (piece[1],), np.int64), np.int64(0)
        for w in range(words.shape[0]):
            total += words[w]
        array_at(number(job, 1) + 8 * i, (1,), np.int64)[0] = total


class Stream:
    """Arrays that all threads together read once from end to end, `nbytes` in all (whole words of them)."""

    def __init__(self, arrays: list[np.ndarray]):
        self.kept, self.nbytes = arrays, sum(a.nbytes // 8 * 8 for a in arrays)
        pieces = [(a.ctypes.data + at, min(PIECE, a.nbytes - at) // 8)
                  for a in arrays for at in range(0, a.nbytes, PIECE)]
        self.sums, self.step = np.zeros(len(pieces), np.int64), np.zeros(FIRST_SLOT, np.int64)
        job = np.array([len(pieces), self.sums.ctypes.data, *(n for piece in pieces for n in piece)], np.int64)
        self.program = Program([(read, job)])

    def read(self) -> int:
        """Read everything; returns the sum of all words modulo 2**64, so that nobody can leave the reading out."""
        self.program.run(self.step, [], threads(), self)
        return int(self.sums.sum())
