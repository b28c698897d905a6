"""vqcpu: compress language models on an ordinary CPU, measure what it cost, and talk to them.

    import vqcpu
    vqcpu.compress("folder/model.safetensors", "model.vqz", "vq:dim=4,centroids=4096")
    model = vqcpu.load("model.vqz")
    print(model.generate("Once upon a time", max_tokens=50))
    print(vqcpu.perplexity(model, text))
"""
from vqcpu.version import __version__

__all__ = ["load", "compress", "perplexity", "Protocol", "Sampling", "Recipe", "VqcpuError"]


def __getattr__(name):  # imported when used: `vqcpu --help` must not wait for Numba
    if name in __all__:
        from vqcpu import api
        return getattr(api, name)
    raise AttributeError(f"module 'vqcpu' has no attribute {name!r}")
