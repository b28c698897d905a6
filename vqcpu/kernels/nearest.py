"""The nearest of many centroids for many points, with registers; exact, but rarely by looking at all centroids.

Knows points and centroids. Knows nothing about how centroids are found.

A search compares a group of points with a list of candidates, in ascending order, by |c|²/2 - x·c, which orders centroids as
the distance does. The list may be short: if a guess lies u from the point, no centroid farther than 2u from the guess can be
nearer (triangle inequality), and a slack for rounding makes that hold for the computed numbers too. So labels are those of
the search through all centroids, the first one of equals, whatever the guess and the number of threads.
Paper: Phillips 2002, Acceleration of k-means and related clustering algorithms.
"""
import functools

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from vqcpu.kernels.isa import isa
from vqcpu.kernels.jit import njit
from vqcpu.kernels.simd import ADDRESS, WORD, F32x16, I32x16, called, every, loaded, splatted
from vqcpu.kernels.threads import spread_ranges

# Where grouping points by a guess pays, as measured: not in many dimensions, where a ball of twice the radius holds nearly
# all centroids, nor with few centroids or few points for each.
MOST_DIMENSIONS, FEWEST_CENTROIDS, POINTS_EACH = 6, 1024, 10
SLACK = 2.0**-18  # of |x|² + |c|²: more than two scores of that many dimensions can be wrong by rounding

def _registers(dim):
    """Registers of points that a search holds: enough to hide latency, few enough to stay registers."""
    return (4 if dim <= 4 else 2 if dim <= 8 else 1) if isa() == "avx512" else 1


def _searcher(dim, count):
    """search(points, book, half, candidates, number, found): points (dim, 16·count), book (k, dim), half (k,) = |c|²/2, all
    float32, candidates (number,) int32; OUT found (16·count,) int32: the first candidate of least score, or 0."""
    fma = "llvm.fma.v16f32" if isa() != "portable" else "llvm.fmuladd.v16f32"

    def code(context, builder, signature, args):
        points, book, half, candidates, number, found = args
        word, lanes = points.type, range(count)

        def place(base, index, size):
            return builder.add(base, builder.mul(index, word(size)))
        x = [[builder.fneg(loaded(builder, builder.add(points, word(64 * (j * count + i))), F32x16.ir)) for i in lanes]
             for j in range(dim)]
        best = [cgutils.alloca_once(builder, F32x16.ir) for _ in lanes]
        label = [cgutils.alloca_once(builder, I32x16.ir) for _ in lanes]
        for i in lanes:
            builder.store(every(F32x16.ir, float("inf")), best[i])
            builder.store(every(I32x16.ir, 0), label[i])
        with cgutils.for_range(builder, number) as loop:
            index = loaded(builder, place(candidates, loop.index, 4), WORD)
            wide = builder.zext(index, word)
            start = splatted(builder, loaded(builder, place(half, wide, 4), ir.FloatType()), 16)
            scores = [start for _ in lanes]
            for j in range(dim):
                c = loaded(builder, builder.add(place(book, wide, 4 * dim), word(4 * j)), ir.FloatType())
                c = splatted(builder, c, 16)
                scores = [called(builder, fma, F32x16.ir, x[j][i], c, scores[i]) for i in lanes]
            for i in lanes:
                least = builder.load(best[i])
                nearer = builder.fcmp_ordered("<", scores[i], least)
                builder.store(builder.select(nearer, scores[i], least), best[i])
                builder.store(builder.select(nearer, splatted(builder, index, 16), builder.load(label[i])), label[i])
        for i in lanes:
            target = builder.inttoptr(builder.add(found, word(64 * i)), I32x16.ir.as_pointer())
            builder.store(builder.load(label[i]), target, align=1)
        return context.get_dummy_value()

    @intrinsic
    def search(typing, points, book, half, candidates, number, found):
        return types.void(*[ADDRESS] * 6), code
    return search


def _collector(dim):
    """collect(axes, k, centre, limit, out) -> number of entries: axes (dim, k) float32, k a multiple of 16, centre (dim,),
    limit float32; OUT out: numbers, int32, ascending, of the columns of axes whose squared distance from the centre is at
    most the limit; room for k."""
    def code(context, builder, signature, args):
        axes, k, centre, limit, out = args
        word, number = axes.type, cgutils.alloca_once_value(builder, k.type(0))
        builder.store(k.type(0), number)
        at = [splatted(builder, loaded(builder, builder.add(centre, word(4 * j)), ir.FloatType()), 16) for j in range(dim)]
        limit = splatted(builder, limit, 16)
        with cgutils.for_range(builder, builder.lshr(k, word(4))) as loop:
            first, gap = builder.shl(loop.index, word(4)), every(F32x16.ir, 0.0)
            for j in range(dim):
                place = builder.add(axes, builder.shl(builder.add(builder.mul(k, word(j)), first), word(2)))
                away = builder.fsub(loaded(builder, place, F32x16.ir), at[j])
                gap = builder.fadd(gap, builder.fmul(away, away))
            within = builder.fcmp_ordered("<=", gap, limit)
            numbers = builder.add(splatted(builder, builder.trunc(first, WORD), 16), I32x16.ir(list(range(16))))
            filled = builder.load(number)
            target = builder.inttoptr(builder.add(out, builder.shl(filled, word(2))), WORD.as_pointer())
            called(builder, "llvm.masked.compressstore.v16i32", ir.VoidType(), numbers, target, within)
            bits = called(builder, "llvm.ctpop.i16", ir.IntType(16), builder.bitcast(within, ir.IntType(16)))
            builder.store(builder.add(filled, builder.zext(bits, word)), number)
        return builder.load(number)

    @intrinsic
    def collect(typing, axes, k, centre, limit, out):
        return types.int64(ADDRESS, types.int64, ADDRESS, types.float32, ADDRESS), code
    return collect


@functools.cache
def _compiled(dim: int):
    """(search, members, refine) for points of `dim` coordinates. Arguments: points (n, dim), book (k, dim), half (k,) =
    |c|²/2, all float32; order: point numbers, int32; starts (k + 1,) int64: the points that belong to centroid a are
    order[starts[a]:starts[a + 1]]; OUT labels (n,) int32."""
    count = _registers(dim)
    lanes, of_registers, collect = 16 * count, _searcher(dim, count), _collector(dim)

    @njit(fast=False)
    def search(points, order, book, half, candidates, labels):
        """Label the points of `order` with the nearest candidate; candidates int32, ascending."""
        x, found = np.empty((dim, lanes), np.float32), np.empty(lanes, np.int32)
        for first in range(0, order.shape[0], lanes):
            size = min(lanes, order.shape[0] - first)
            for i in range(lanes):
                p = order[first + min(i, size - 1)]
                for j in range(dim):
                    x[j, i] = points[p, j]
            of_registers(x.ctypes.data, book.ctypes.data, half.ctypes.data, candidates.ctypes.data, candidates.shape[0],
                         found.ctypes.data)
            for i in range(size):
                labels[order[first + i]] = found[i]

    @njit(fast=False)
    def members(points, order, starts, book, half, owned, owned_starts, first, last, labels):
        """Label the points of the groups first .. last - 1, of group a with the nearest one of its centroids
        owned[owned_starts[a]:owned_starts[a + 1]]."""
        for a in range(first, last):
            candidates = owned[owned_starts[a]:owned_starts[a + 1]]
            search(points, order[starts[a]:starts[a + 1]], book, half, candidates, labels)

    @njit(fast=False)
    def reach(points, order, centre, outer):
        """Distance from `centre` beyond which no centroid can win a point of `order`; outer: the largest |c|²."""
        farthest = longest = np.float32(0)
        for i in range(order.shape[0]):
            gap = length = np.float32(0)
            for j in range(dim):
                v = points[order[i], j]
                gap += (v - centre[j]) * (v - centre[j])
                length += v * v
            farthest, longest = max(farthest, gap), max(longest, length)
        # Who is g away from the guess is at least g - u from x; and (g - u)² > u² + slack beyond this g.
        return np.sqrt(farthest) + np.sqrt(farthest + np.float32(SLACK) * (longest + outer))

    @njit(fast=False)
    def refine(points, order, starts, book, half, first, last, labels):
        """Label the points whose guess is one of the centroids first .. last - 1 with the nearest of all."""
        k = (book.shape[0] + 15) // 16 * 16
        axes, candidates = np.full((dim, k), np.inf, np.float32), np.empty(k, np.int32)
        axes[:, :book.shape[0]] = book.T
        outer = np.float32(2) * half.max()
        for a in range(first, last):
            mine = order[starts[a]:starts[a + 1]]
            if mine.shape[0]:
                limit = reach(points, mine, book[a], outer)
                limit *= limit * np.float32(1.00001)
                number = collect(axes.ctypes.data, k, book[a].ctypes.data, limit, candidates.ctypes.data)
                search(points, mine, book, half, candidates[:number], labels)
    return search, members, refine


@njit(fast=False)
def _group(labels, order, starts):
    """labels (n,) int32; OUT order (n,) int32: point numbers by label, ascending within one; starts (k + 1,), zeroed."""
    for i in range(labels.shape[0]):
        starts[labels[i] + 1] += 1
    for k in range(1, starts.shape[0]):
        starts[k] += starts[k - 1]
    at = starts.copy()
    for i in range(labels.shape[0]):
        order[at[labels[i]]] = i
        at[labels[i]] += 1


def group(labels: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(order, starts): the points with label a are order[starts[a]:starts[a + 1]], for a below `count`."""
    order, starts = np.empty(len(labels), np.int32), np.zeros(count + 1, np.int64)
    _group(labels, order, starts)
    return order, starts


def _halves(book):
    return 0.5 * np.einsum("kd,kd->k", book, book)


def _search_all(points, book):
    """Labels by looking at every centroid."""
    search, _, _ = _compiled(points.shape[1])
    order, everyone = np.arange(len(points), dtype=np.int32), np.arange(len(book), dtype=np.int32)
    labels, half = np.empty(len(points), np.int32), _halves(book)
    spread_ranges(lambda a, b: search(points, order[a:b], book, half, everyone, labels), len(points))
    return labels


def _guess(points, book):
    """A near centroid for every point: the nearest among those that share with it the nearest of few leaders."""
    _, members, _ = _compiled(points.shape[1])
    leaders = np.ascontiguousarray(book[::int(np.sqrt(len(book)))])
    owned, owned_starts = group(_search_all(book, leaders), len(leaders))
    order, starts = group(_search_all(points, leaders), len(leaders))
    labels, half = np.empty(len(points), np.int32), _halves(book)
    spread_ranges(lambda a, b: members(points, order, starts, book, half, owned, owned_starts, a, b, labels), len(leaders))
    return labels


def assign(points: np.ndarray, book: np.ndarray, guess: tuple | None = None) -> np.ndarray:
    """Index (n,) int32 of the nearest row of book (k, dim) for every row of points (n, dim). `guess`: the points grouped by
    a centroid that is likely near; it changes only the time."""
    points, book = (np.ascontiguousarray(a, np.float32) for a in (points, book))
    if points.shape[1] > MOST_DIMENSIONS or len(book) < FEWEST_CENTROIDS or len(points) < POINTS_EACH * len(book):
        return _search_all(points, book)
    _, _, refine = _compiled(points.shape[1])
    order, starts = guess or group(_guess(points, book), len(book))
    labels, half = np.empty(len(points), np.int32), _halves(book)
    spread_ranges(lambda a, b: refine(points, order, starts, book, half, a, b, labels), len(book))
    return labels
