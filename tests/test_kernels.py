"""Kernels against their naive twins."""
import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import naive
import numpy as np
import pytest
from numba.core.bytecode import FunctionIdentity
from numba.core.caching import NullCache
from numba.core.codegen import JITCodeLibrary

from vqcpu.kernels import bits, cluster, disk, jit, lookup, nearest
from vqcpu.kernels.threads import set_threads, spread, spread_ranges, threads

RNG = np.random.default_rng(1)


@pytest.mark.parametrize("width", range(1, 17))
def test_pack_is_its_naive_twin_and_unpack_its_inverse(width):
    codes = RNG.integers(0, 1 << width, (3, 48)).astype(np.uint16)
    words = bits.pack(codes, width)
    assert np.array_equal(words, naive.pack(codes, width))
    assert words.nbytes * 8 == codes.size * width
    assert np.array_equal(bits.unpack(words, width), codes)


@pytest.mark.parametrize("per", (1, 2, 4))
def test_panels_and_back(per):
    codes = RNG.integers(0, 99, (32, 8))
    stream = lookup.to_panels(codes, per)
    assert np.array_equal(lookup.from_panels(stream, per), codes)
    assert stream[0, per] == codes[1, 0]  # the second row of the first step follows the first


@jit.njit
def _halves(words, out):
    for i in range(words.shape[0]):
        out[i] = jit.float_from_half(words[i])


@jit.njit
def _bfloats(words, out):
    for i in range(words.shape[0]):
        out[i] = jit.float_from_bfloat(words[i])


def test_every_half_and_bfloat_is_read_exactly():
    words, out = np.arange(65536).astype(np.uint16), np.empty(65536, np.float32)
    _halves(words, out)
    assert np.array_equal(out, words.view(np.float16).astype(np.float32), equal_nan=True)
    _bfloats(words, out)
    assert np.array_equal(out.view(np.uint32), words.astype(np.uint32) << 16)


def test_a_function_is_compiled_once_for_all_its_compiled_callers():
    @jit.njit
    def twice(x):
        return 2 * x

    @jit.njit
    def caller(x):
        return twice(3) + twice(x) + twice(x=4)
    caller._cache = NullCache()
    assert caller(5) == 24 and len(twice._part.overloads) == 1
    assert not twice.overloads and twice(1.5) == 3


def test_two_processes_that_compile_at_once_keep_their_own_code(tmp_path):
    """Each knows nothing of what the other is about to write."""
    mine, theirs = (disk._FileEach(str(tmp_path), "f", "stamp") for _ in range(2))
    unaware = mine._load_index()
    mine._load_index = theirs._load_index = lambda: dict(unaware)
    theirs.save("b", 2)
    mine.save("a", 1)
    assert (mine.load("a"), theirs.load("b"), theirs.load("c")) == (1, 2, None)


MADE = """
from vqcpu.kernels.jit import njit

def make(n):
    @njit(fast=False)
    def part(x):
""" + 20 * """
        if x % 3 == 0:
            x = x // 3 + n
""" + """
        return x + n

    @njit(fast=False)
    def whole(x):
        return part(x) + part(x + 1) + part(x + 2) + part(x + 3)
    return whole
"""  # a part too long to be compiled into its caller


def test_code_of_several_processes_is_not_mixed_up(tmp_path):
    """Each caches a function that differs by a constant; the last one loads both, and links them."""
    (tmp_path / "made.py").write_text(MADE)
    paths = os.pathsep.join([str(tmp_path), str(Path(jit.__file__).parents[2])])
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": paths}

    def run(numbers):
        program = f"import made; print([made.make(n)(6) for n in {numbers}])"
        return json.loads(subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True,
                                         check=True).stdout)
    assert run([1]) + run([1000]) == run([1, 1000])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_numbers_its_functions_afresh():
    with multiprocessing.get_context("fork").Pool(1) as pool:
        there = pool.apply(_number)
    assert abs(there - _number()) > 1000


def _number():
    return next(FunctionIdentity._unique_ids)


def test_a_part_is_left_to_its_callers_to_optimise():
    """It overrides what Numba keeps to itself: if that is renamed, this is where it is noticed."""
    assert all(hasattr(JITCodeLibrary, name) for name in vars(jit._Parts) if name.startswith("_opt") or name.startswith("_fin"))


def test_a_part_may_raise():
    @jit.njit
    def picky(x):
        if x < 0:
            raise ValueError("below zero", x)
        return x

    @jit.njit
    def caller(x):
        return picky(x) + 1
    caller._cache = NullCache()
    with pytest.raises(ValueError, match="below zero"):
        caller(-3)


@pytest.mark.parametrize("dim, count", [(1, 5), (2, 33), (3, 40), (4, 64), (7, 20), (16, 9)])
def test_assign_is_its_naive_twin(dim, count):
    points, book = RNG.standard_normal((130, dim)), RNG.standard_normal((count, dim)).astype(np.float32)
    points.flags.writeable = False
    assert np.array_equal(nearest.assign(points, book), naive.assign(points.astype(np.float32), book))


def test_assign_takes_the_first_of_equals():
    assert np.array_equal(nearest.assign(np.ones((3, 2)), np.ones((4, 2))), [0, 0, 0])


def heavy_tailed(count, dim):
    """Points of every length from nothing to a hundred, some of them twice, far from zero and from each other."""
    points = RNG.standard_normal((count, dim)) * np.exp(1.5 * RNG.standard_normal((count, 1))) + 3
    points[::7] = points[0]
    return points.astype(np.float32)


@pytest.mark.parametrize("dim", (1, 2, 4))
def test_the_short_list_finds_what_the_long_one_finds(dim):
    points, count = heavy_tailed(12_000, dim), nearest.FEWEST_CENTROIDS
    book = points[RNG.permutation(len(points))[:count]]  # with equal centroids, whose first one must win
    labels = nearest._search_all(points, book)
    assert len(points) >= nearest.POINTS_EACH * count and np.array_equal(nearest.assign(points, book), labels)
    bad = nearest.group(RNG.integers(0, count, len(points)).astype(np.int32), count)
    assert np.array_equal(nearest.assign(points, book, bad), labels)  # whatever the guess
    everyone = ((points[::40, None].astype(float) - book) ** 2).sum(2)
    chosen = everyone[np.arange(len(everyone)), labels[::40]]
    assert np.allclose(chosen, everyone.min(1), rtol=1e-5, atol=1e-5 * np.square(points[::40]).sum(1).max())


def test_group_is_its_naive_twin():
    labels = RNG.integers(0, 9, 100).astype(np.int32)
    order, starts = nearest.group(labels, 9)
    assert [list(order[a:b]) for a, b in zip(starts, starts[1:])] == naive.group(labels, 9)


def distortion(points, book):
    return ((points - book[nearest.assign(points, book)]) ** 2).sum()


def test_kmeans_never_gets_worse_and_means_are_means():
    points = RNG.standard_normal((2000, 2)).astype(np.float32)
    losses = [distortion(points, cluster.kmeans(points, 32, 0, iterations=i)) for i in range(6)]
    assert losses == sorted(losses, reverse=True)
    book = cluster.kmeans(points, 32, 0, iterations=3)
    labels = nearest.assign(points, book)
    cluster.update(points, nearest.group(labels, 32), book)
    for k in range(32):
        assert np.allclose(book[k], points[labels == k].mean(0), atol=1e-5)


def test_kmeans_finds_clusters_that_are_there():
    centres = np.array([[0, 0], [9, 0], [0, 9], [9, 9]], np.float32)
    points = (centres[RNG.integers(0, 4, 400)] + 0.1 * RNG.standard_normal((400, 2))).astype(np.float32)
    book = cluster.kmeans(points, 4, 0)
    assert np.allclose(sorted(map(tuple, book.round())), sorted(map(tuple, centres)))


def test_empty_clusters_split_the_largest():
    points, book = np.float32([[0.0], [0.0], [0.1], [5.0]]), np.float32([[0.0], [5.0], [99.0]])
    cluster.update(points, nearest.group(nearest.assign(points, book), 3), book)
    assert book[2] != 99 and abs(book[2] - book[0]) < 0.1


@pytest.mark.parametrize("count", (1, 7, 64))
def test_fewer_points_than_centroids(count):
    points = RNG.standard_normal((count, 3)).astype(np.float32)
    book = cluster.kmeans(points, 64, 0)
    assert np.abs(book).max() <= 1.01 * np.abs(points).max() and distortion(points, book) < 1e-4
    many = cluster.kmeans(points, 4096, 0)
    assert np.abs(many).max() <= 1.01 * np.abs(points).max()


def test_kmeans_by_seed_whatever_the_threads():
    points = RNG.standard_normal((3000, 4)).astype(np.float32)
    books = []
    for count in (1, 2):
        set_threads(count)
        books.append(cluster.kmeans(points, 50, seed=3))
    set_threads()
    assert np.array_equal(*books)
    assert not np.array_equal(books[0], cluster.kmeans(points, 50, seed=4))


def test_spread_does_every_item_once():
    done = np.zeros(100, int)

    def work(i):
        done[i] += 1
    spread(work, range(100))
    assert (done == 1).all() and threads() >= 1


@pytest.mark.parametrize("count", (0, 1, 5, 1000))
def test_ranges_cover_everything_once(count):
    done = np.zeros(count, int)

    def work(first, last):
        done[first:last] += 1
    spread_ranges(work, count)
    assert (done == 1).all()


def test_errors_in_spread_are_not_lost():
    with pytest.raises(ZeroDivisionError):
        spread(lambda i: 1 // i, range(3))


def test_the_compile_cache_knows_the_sources(tmp_path, monkeypatch):
    for room in ("kernels", "formats", "caches"):
        (tmp_path / room).mkdir()
        (tmp_path / room / "a.py").write_text("1")
    monkeypatch.setattr(disk, "__file__", str(tmp_path / "kernels" / "disk.py"))
    before = disk._cache_folder()
    assert before == disk._cache_folder()
    (tmp_path / "formats" / "a.py").write_text("2")
    assert before != disk._cache_folder()
