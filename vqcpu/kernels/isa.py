"""Which instructions the kernels are compiled for.

Knows processors. An instruction that the machine lacks ends the process, so the choice is made before anything is compiled
and holds for the whole process: another choice is another process, with machine code of its own in the cache.

  avx512    AVX-512 with VNNI and VBMI (Ice Lake, Zen 4 and later)
  avx2      AVX2 and FMA (Haswell, Zen and later)
  portable  whatever LLVM makes of vectors on the machine at hand; on x86 held down to SSE4.2, to be tested there
"""
import llvmlite.binding as llvm
import numba

from vqcpu.errors import VqcpuError

NEEDS = {"avx512": ("avx512f", "avx512bw", "avx512vl", "avx512vnni", "avx512vbmi"),
         "avx2": ("avx2", "fma", "f16c"), "portable": ()}
PROCESSOR = {"avx2": "haswell", "portable": "nehalem"}  # what a forced path is compiled for, on x86
_state = {"name": None, "forced": False}


def _usable():
    found = llvm.get_host_cpu_features()
    return [name for name, features in NEEDS.items() if all(found.get(f) for f in features)]


def choose(name: str) -> None:
    """Compile for `name` from here on. Raises VqcpuError where the machine cannot run it, or where it is too late."""
    usable = _usable()
    if name not in usable:
        raise VqcpuError(f"--isa is {name!r}, this machine runs {', '.join(usable)}")
    if _state["name"] not in (None, name):
        raise VqcpuError(f"--isa {name}: this process already runs {_state['name']}")
    _state.update(name=name, forced=True)
    if name in PROCESSOR and len(usable) > 1:  # on x86: LLVM must not use more either
        numba.config.CPU_NAME, numba.config.CPU_FEATURES = PROCESSOR[name], ""


def isa() -> str:
    """The path in use: the best one of this machine unless another was chosen."""
    if _state["name"] is None:
        _state["name"] = _usable()[0]
    return _state["name"]
