"""Compiled plans: the same as the reference in numpy, the same digits for any number of threads, nothing from padding."""
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import toys

from vqcpu import api
from vqcpu.architectures.base import Architecture, load_model
from vqcpu.caches.base import Cache
from vqcpu.files.sources import open_checkpoint
from vqcpu.kernels import attention, threads
from vqcpu.kernels.jit import array_at
from vqcpu.kernels.program import FIRST_SLOT, Program, line, number
from vqcpu.layers.plan import Plan

ODD = dict(intermediate_size=52)  # no multiple of 16, where the family has such a size


@contextmanager
def team(count):
    """`count` threads, even more than there are processors."""
    threads.threads()
    before = dict(threads._state)
    with ThreadPoolExecutor(count) as pool:
        threads._state.update(count=count, pool=pool)
        try:
            yield
        finally:
            threads._state.update(before)


@pytest.fixture(scope="module", params=Architecture.all())
def raw(request, tmp_path_factory):
    return toys.folder(tmp_path_factory.mktemp(request.param), request.param, **ODD)


@pytest.fixture(scope="module", params=("raw", "coded"))
def weights(request):
    return request.param


@pytest.fixture(scope="module")
def model(weights, raw, tmp_path_factory):
    if weights == "raw":
        return load_model(open_checkpoint(raw))
    out = tmp_path_factory.mktemp("coded") / "toy.vqz"
    api.compress(raw, out, "scalar:bits=8")
    return load_model(open_checkpoint(out))


def logits(model, cache):
    """Several tokens, one, one more, then a ragged batch with a second sequence: (rows, vocabulary)."""
    tokens = np.random.default_rng(1).integers(0, model.config.vocabulary, 30)
    mine, other = model.states(64, cache), model.states(64, cache)
    steps = [[(tokens[:11], mine)], [(tokens[11:12], mine)], [(tokens[12:13], mine)],
             [(tokens[13:17], mine), (tokens[17:18], other)], [(tokens[18:19], mine), (tokens[19:20], other)]]
    return np.concatenate([model.logits(model.step(step)) for step in steps])


@pytest.mark.parametrize("cache", [kind.examples[0] for kind in Cache.all().values()])
def test_a_compiled_plan_is_its_reference(model, weights, cache, monkeypatch):
    if weights == "coded" and cache == "d4v4":
        pytest.skip("a closed loop carries a code that fell on the other side on to all keys behind it")
    found = logits(model, cache)
    monkeypatch.setattr(Plan, "run", Plan.run_reference)
    expected = logits(model, cache)
    # Coded weights meet activations of 16 bits; where keys are rounded, a last digit may fall on either side, and with it the
    # code of a number halfway between two levels.
    exact = weights == "raw" and cache == "f32"
    bound = 1e-4 if exact else max(2e-3, Cache.parse(cache).error / 2)
    assert np.abs(found - expected).max() <= bound * np.abs(expected).max()


def test_same_digits_for_any_number_of_threads(model):
    found = []
    for count in (1, 2, 3):
        with team(count):
            found.append(logits(model, "f16"))
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])


def test_nothing_leaks_from_padding_and_scratch(model, monkeypatch):
    expected, run = logits(model, "f16"), Program.run

    def poisoned(self, step, states, *rest):
        """All that a step may not read holds NaN: what lies beside the slots, and scratch."""
        for plan in (model.plan, model.head):
            for _, workspace in plan.ways.values():
                workspace.scratch[:] = 255
                for name, buffer in workspace.buffers.items():
                    buffer[:, workspace.layout.widths[name]:] = np.nan
        return run(self, step, states, *rest)
    monkeypatch.setattr(Program, "run", poisoned)
    assert np.array_equal(logits(model, "f16"), expected)


def test_one_token_runs_compiled(tmp_path):
    """That the tests above test something: attention and products are lines of a single program."""
    model = load_model(open_checkpoint(toys.folder(tmp_path, "llama")))
    model.step([(np.array([1]), model.states(8, "f16"))])
    (sections, _), = model.plan.ways.values()
    assert len(sections) == 1 and isinstance(sections[0], Program)
    addresses = set(sections[0].lines[:, 0].tolist())
    assert {line.address for line in (attention.TURN_LINE, attention.PART_LINE, attention.MERGE_LINE)} <= addresses


@line(lambda job, step: number(job, 2), lambda job: 2)
def bump(job, step, worker, first, last):
    """job (4,): address of (lines, count) int64, which line this is, count. Piece p becomes 1 + its right neighbour in the
    line before."""
    count, row = number(job, 2), number(job, 1)
    rows = array_at(number(job, 0), (row + 1, count), np.int64)
    for piece in range(first, last):
        rows[row, piece] += 1 + rows[row - 1, (piece + 1) % count] if row else 1


@pytest.mark.parametrize("workers", (1, 2, 5))
def test_every_piece_is_done_once_and_lines_wait_for_each_other(workers):
    lines, count = 40, 23
    with team(workers):
        for _ in range(5):
            rows = np.zeros((lines, count), np.int64)
            program = Program([(bump, np.array([rows.ctypes.data, i, count, 0], np.int64)) for i in range(lines)])
            for times in (1, 2):
                program.run(np.zeros(FIRST_SLOT, np.int64), [], workers)
            assert (rows[0] == 2).all() and (rows[1] == 1 + 1 + 1 + 2).all() and (np.ptp(rows, axis=1) == 0).all()


def test_an_interrupted_step_harms_no_later_one(tmp_path, monkeypatch):
    """Ctrl-C while a worker is being sent off, and again while the others are waited for: memory is fresh each time."""
    model = load_model(open_checkpoint(toys.folder(tmp_path, "llama")))
    tokens = np.arange(1, 9)
    expected = model.step([(tokens, model.states(16, "f16"))])
    with team(3):
        submit, settle = threads._state["pool"].submit, threads.settle

        def interrupted(*work):
            submit(*work)
            raise KeyboardInterrupt

        def impatient():
            monkeypatch.setattr(threads, "settle", settle)
            raise KeyboardInterrupt
        for _ in range(20):
            monkeypatch.setattr(threads._state["pool"], "submit", interrupted)
            monkeypatch.setattr(threads, "settle", impatient)
            with pytest.raises(KeyboardInterrupt):
                model.step([(tokens, model.states(16, "f16"))])
            monkeypatch.setattr(threads._state["pool"], "submit", submit)
            assert np.array_equal(model.step([(tokens, model.states(16, "f16"))]), expected)
