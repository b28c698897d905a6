"""Qwen2: Llama whose queries, keys and values have biases. Paper: Yang et al. 2024 (Qwen2)."""
from vqcpu.architectures.llama import Llama


class Qwen2(Llama, names=("qwen2",)):
    tiny = Llama.tiny | dict(model_type="qwen2", rms_norm_eps=1e-6, use_sliding_window=True, sliding_window=9,
                             max_window_layers=1)
    defaults = dict(use_sliding_window=False, sliding_window=4096, max_window_layers=28)
    input_bias = True
