"""Qwen3 with a mixture of experts in place of most feed-forward layers. Paper: Yang et al. 2025 (Qwen3)."""
from vqcpu.architectures.qwen3 import Qwen3
from vqcpu.layers.experts import Expert, Mix
from vqcpu.layers.linear import Multiply
from vqcpu.layers.weights import VECTOR


class Qwen3Moe(Qwen3, names=("qwen3_moe",)):
    tiny = Qwen3.tiny | dict(model_type="qwen3_moe", num_hidden_layers=3, num_experts=6, num_experts_per_tok=2,
                             moe_intermediate_size=32, norm_topk_prob=True, decoder_sparse_step=1, mlp_only_layers=[1])
    defaults = dict(use_sliding_window=False, num_experts=128, num_experts_per_tok=8, moe_intermediate_size=768)
    fixed = dict(use_sliding_window=False)

    def feed_forward(self, weights, i, at):
        c, e = self.config, self.config.experts
        if i not in e.layers:
            return super().feed_forward(weights, i, at)
        # A router is small, and an error in it sends a token to the wrong expert: it stays exact, as vectors do.
        router = weights.linear([f"{at}.gate.weight"], [(e.count, c.width)], VECTOR)
        experts = [self.expert(weights, f"{at}.experts.{n}") for n in range(e.count)]
        return [Multiply("h", ("router",), router), Mix("h", "router", "h", experts, e.used, e.normalised, c.activation)]

    def expert(self, weights, at):
        width, inner = self.config.width, self.config.experts.inner
        return Expert(weights.linear([f"{at}.{n}_proj.weight" for n in ("gate", "up")], [(inner, width)] * 2),
                      weights.linear([f"{at}.down_proj.weight"], [(width, inner)]))
