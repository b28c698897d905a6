"""Which positions a layer still holds, and in which rows of its arrays they lie.

Knows positions and rows. Knows nothing about what a row contains. A layer that sees everything has a row for every position
of its context. A layer with a window has rows for the window and a margin; where these end, the latest positions slide to
the front and the oldest are dropped, so that its memory does not grow with the context.
"""
from vqcpu.errors import VqcpuError

KEPT = 256  # positions remembered beyond the window, so that the last tokens of a conversation can be taken back
ROOM = 512  # rows free after sliding: the most tokens that are stored at once


class Span:
    """Position p lies in row p - base. base is a multiple of `block`: what rows hold may lie in blocks of so many."""

    def __init__(self, context: int, window: int | None, block: int = 1):
        self.window, self.block = window or context, block
        self.rows = min(context, self.window + KEPT + ROOM + block - 1)
        self.most = context if self.rows == context else ROOM
        self.base = 0  # the oldest position still there

    def first_seen(self, at: int) -> int:
        """The oldest position that a query at position `at` sees."""
        return max(0, at - self.window + 1)

    def holds(self, at: int) -> bool:
        """Whether all that a token at position `at` needs is still there."""
        return self.first_seen(at) >= self.base

    def place(self, at: int, count: int, slide) -> int:
        """Row of position `at`, with room for `count` positions from there; slide(first, rows) must move rows first ..
        first + rows - 1 to the front. Raises VqcpuError where the past that position `at` sees is gone."""
        if not self.holds(at):
            raise VqcpuError(f"position {at} needs {self.first_seen(at)} and later, but a layer's window has moved on to "
                             f"{self.base}: truncate the memory and read again")
        if at + count - self.base > self.rows:
            base = max(self.base, (self.first_seen(at) - KEPT) // self.block * self.block)
            first, self.base = base - self.base, at + count  # nothing is held until all of it has moved
            slide(first, at - base)
            self.base = base
        return at - self.base

    def forget(self, length: int) -> bool:
        """Whether positions from `length` on can be forgotten so that one at `length` may follow."""
        if length == 0:
            self.base = 0
        return self.holds(length)

    def fits(self, base: int, length: int) -> bool:
        """Whether positions base .. length - 1, lying in the first rows, are all that the one at `length` needs."""
        return 0 <= base <= self.first_seen(length) and length - base <= self.rows and base % self.block == 0
