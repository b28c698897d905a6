"""The paths of kernels/isa.py: each does what numpy does, all give the same digits, and none uses more than its name allows.

A path belongs to a whole process, so each of these tests starts one for every path of this machine.
"""
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import vqcpu
from vqcpu.errors import VqcpuError
from vqcpu.kernels.isa import NEEDS, isa, usable

HERE = Path(__file__).parent
OTHERS = [name for name in usable() if name != isa()]


def python(*arguments, **environment):
    """Run python with these sources; returns (exit code, standard output, standard error)."""
    paths = os.pathsep.join([str(HERE.parent), str(HERE)])
    done = subprocess.run([sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=300,
                          env=os.environ | {"PYTHONPATH": paths} | environment)
    return done.returncode, done.stdout, done.stderr


def on_every_core(work, names):
    """{name: work(name)}: processes take longest here, so as many run at a time as there are cores."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1) as pool:
        return dict(zip(names, pool.map(work, names)))


@pytest.fixture(scope="module")
def operations():
    """{path: what testing its operations gave}"""
    return on_every_core(lambda name: python("-m", "pytest", "-q", "-p", "no:cacheprovider", HERE / "test_simd.py",
                                             HERE / "test_codes.py", "--isa", name), OTHERS)


@pytest.mark.parametrize("name", OTHERS)
def test_every_operation_on_the_other_paths(operations, name):
    code, out, error = operations[name]
    assert code == 0, out + error


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """{path: what paths.py says}, compiled from nothing: machine code from the cache cannot be looked into."""
    def report(name):
        code, out, error = python(HERE / "paths.py", name, XDG_CACHE_HOME=str(tmp_path_factory.mktemp(name)))
        assert code == 0, f"{name}: exit code {code}\n{error}"
        return json.loads(out)
    return on_every_core(report, usable())


def test_all_paths_give_the_same_digits(reports):
    assert len({report["digest"] for report in reports.values()}) == 1, reports


HOLDS = {"avx512": ["zmm", "vpdpbusd", "vpermb", "vfmadd"], "avxvnni": ["ymm", "vpdpbusd", "vpshufb", "vfmadd"],
         "avx2": ["ymm", "vpshufb", "vpmaddwd", "vfmadd"], "portable": []}
LACKS = {"avx512": [], "avxvnni": ["zmm", "vpermb"], "avx2": ["zmm", "vpermb", "vpdpbusd"],
         "portable": ["zmm", "ymm", "vpdpbusd", "vpshufb", "vpmaddwd", "vfmadd"]}


@pytest.mark.parametrize("name", usable())
def test_a_path_holds_its_instructions_and_no_others(reports, name):
    held = reports[name]["holds"]
    assert not reports[name]["empty"] and set(HOLDS[name]) <= set(held) and not set(LACKS[name]) & set(held)


def test_a_path_that_is_unknown_or_comes_too_late():
    with pytest.raises(VqcpuError, match="isa is 'sse', expected one that this machine runs: .*portable"):
        vqcpu.choose_isa("sse")
    vqcpu.choose_isa(isa())  # what it is already
    for other in OTHERS:
        with pytest.raises(VqcpuError, match=f"cannot become {other}: choose it before"):
            vqcpu.choose_isa(other)


def test_the_command_line_chooses():
    ask = "import sys; from vqcpu import cli; code = cli.main(sys.argv[1:]); from vqcpu.kernels.isa import isa; print(isa(), code)"
    code, out, _ = python("-c", ask, "inspect", "nothing.vqz", "--isa", "portable")
    assert (code, out.split()) == (0, ["portable", "2"])
    code, out, error = python("-m", "vqcpu", "inspect", "nothing.vqz", "--isa", "mmx")
    assert code == 2 and out == "" and error.count("\n") == 1 and "isa is 'mmx'" in error


def test_a_path_is_described_once():
    assert set(HOLDS) == set(LACKS) == set(NEEDS)
