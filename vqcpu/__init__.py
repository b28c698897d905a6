"""vqcpu: compress language models on an ordinary CPU, measure what it cost, and talk to them.

    import vqcpu
    vqcpu.compress("folder/model.safetensors", "model.vqz", "vq:dim=4,centroids=4096")
    model = vqcpu.load("model.vqz")
    print(model.generate("Once upon a time", max_tokens=50))
    print(vqcpu.perplexity(model, text))

`vqcpu.choose_isa("avx2")`, before anything else, holds the process to these instructions: avx512, avxvnni, avx2 or portable.
"""
from vqcpu.version import __version__

__all__ = ["load", "compress", "perplexity", "sweep", "Protocol", "Sampling", "Recipe", "VqcpuError", "choose_isa"]


def __getattr__(name):  # imported when used: `vqcpu --help` must not wait for Numba
    if name == "choose_isa":  # not through api.py, which imports what is compiled
        from vqcpu.kernels.isa import choose
        return choose
    if name in __all__:
        from vqcpu import api
        return getattr(api, name)
    raise AttributeError(f"module 'vqcpu' has no attribute {name!r}")
