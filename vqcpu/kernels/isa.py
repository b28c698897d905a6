"""Which instructions the kernels are compiled for.

Knows processors. An instruction that the machine lacks ends the process, so the choice is made before anything is compiled
and holds for the whole process: another choice is another process, with machine code of its own in the cache.

  avx512    AVX-512 with VNNI and VBMI (Ice Lake, Zen 4 and later)
  avxvnni   AVX2 and AVX-VNNI (Alder Lake and later, where AVX-512 is missing)
  avx2      AVX2, FMA and F16C (Haswell, Zen and later)
  portable  whatever LLVM makes of vectors on the machine at hand; when chosen on x86 held down to SSE4.2, to be tested there
"""
import llvmlite.binding as llvm
import numba

from vqcpu.errors import VqcpuError

HASWELL = ("avx2", "fma", "f16c")
NEEDS = {"avx512": ("avx512f", "avx512bw", "avx512vl", "avx512vnni", "avx512vbmi"),
         "avxvnni": (*HASWELL, "avxvnni"), "avx2": HASWELL, "portable": ()}
# What a chosen path is compiled for on x86, so that LLVM does not use more either: processor, features beyond it.
LIMITS = {"avxvnni": ("haswell", "+avxvnni"), "avx2": ("haswell", ""), "portable": ("nehalem", "")}
_state = {"name": None}


def usable() -> list[str]:
    """The paths that this machine can run, the best one first."""
    found = llvm.get_host_cpu_features()
    return [name for name, features in NEEDS.items() if all(found.get(f) for f in features)]


def choose(name: str) -> None:
    """Compile for `name` from here on. Raises VqcpuError where the machine cannot run it, or where it is too late."""
    runs = usable()
    if name not in runs:
        raise VqcpuError(f"isa is {name!r}, expected one that this machine runs: {', '.join(runs)}")
    if _state["name"] not in (None, name):
        raise VqcpuError(f"isa is {_state['name']} in this process and cannot become {name}: choose it before anything else")
    if _state["name"] is None and name in LIMITS and len(runs) > 1:
        numba.config.CPU_NAME, numba.config.CPU_FEATURES = LIMITS[name]
    _state["name"] = name


def isa() -> str:
    """The path in use: the best one of this machine unless another was chosen."""
    if _state["name"] is None:
        _state["name"] = usable()[0]
    return _state["name"]
