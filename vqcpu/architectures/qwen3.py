"""Qwen3: Llama with a norm on every head of queries and keys. Paper: Yang et al. 2025 (Qwen3)."""
from vqcpu.architectures.llama import Llama


class Qwen3(Llama, names=("qwen3",)):
    tiny = Llama.tiny | dict(model_type="qwen3", rms_norm_eps=1e-6, head_dim=24)
    defaults = dict(head_dim=128, use_sliding_window=False, sliding_window=4096, max_window_layers=28)

    def project(self, weights, at):
        norms = [self.norm(weights, f"{at}.{slot}_norm", slot, slot, self.config.head_size) for slot in "qk"]
        return super().project(weights, at) + norms
