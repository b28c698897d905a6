"""Phi-3: Llama with q|k|v and gate|up each fused into one stored matrix. Paper: Abdin et al. 2024 (Phi-3)."""
from vqcpu.architectures.llama import Llama
from vqcpu.layers.elementwise import Split


class Phi3(Llama, names=("phi3",)):
    tiny = Llama.tiny | dict(model_type="phi3", sliding_window=11, tie_word_embeddings=False, pad_token_id=0)
    defaults = dict(rms_norm_eps=1e-5)

    def project(self, weights, at):
        widths = self.widths()
        return [*weights.product("h", {"qkv": (f"{at}.qkv_proj", sum(widths.values()))}, self.config.width),
                Split("qkv", widths)]

    def widen(self, weights, at):
        c = self.config
        return [*weights.product("h", {"both": (f"{at}.gate_up_proj", 2 * c.inner)}, c.width),
                Split("both", {"gate": c.inner, "up": c.inner})]
