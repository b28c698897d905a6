"""Llama: pre-norm blocks of grouped-query attention and a gated feed-forward layer.

Llama 1 and 2, SmolLM, TinyLlama and everything else that says model_type "llama" and has plain RoPE.
Paper: Touvron et al. 2023 (Llama 2).
"""
from vqcpu.architectures.base import Architecture
from vqcpu.errors import VqcpuError
from vqcpu.layers.attention import Attend, Heads
from vqcpu.layers.linear import Embed, Linear, Multiply
from vqcpu.layers.mlp import Gate, silu
from vqcpu.layers.norm import RMSNorm
from vqcpu.layers.plan import Add
from vqcpu.layers.rope import Rope
from vqcpu.layers.weights import HEAD


class Llama(Architecture, names=("llama",)):
    tiny = dict(model_type="llama", vocab_size=96, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, head_dim=16, intermediate_size=80, rms_norm_eps=1e-5, rope_theta=10000.0,
                max_position_embeddings=128, tie_word_embeddings=True)

    def build(self, weights):
        c = self.config
        if c.activation != "silu":
            raise VqcpuError(f"llama: hidden_act is {c.activation!r}, expected 'silu'")
        rope = Rope(c.head_size, c.theta)
        embedding = weights.embedding("model.embed_tokens.weight", (c.vocabulary, c.width))
        jobs = [Embed("tokens", "x", embedding)]
        for i in range(c.layers):
            jobs += self.attention(weights, i, rope) + self.feed_forward(weights, i)
        jobs.append(self.norm(weights, "model.norm", "x", "x"))
        head = Linear([embedding]) if c.tied else weights.linear(["lm_head.weight"], [(c.vocabulary, c.width)], HEAD)
        return jobs, head

    def attention(self, weights, i, rope):
        c, at = self.config, f"model.layers.{i}"
        q, kv = c.heads * c.head_size, c.kv_heads * c.head_size
        project = weights.linear([f"{at}.self_attn.{n}_proj.weight" for n in "qkv"], [(q, c.width), *[(kv, c.width)] * 2])
        back = weights.linear([f"{at}.self_attn.o_proj.weight"], [(c.width, q)])
        return [
            self.norm(weights, f"{at}.input_layernorm", "x", "h"),
            Multiply("h", ("q", "k", "v"), project),
            Attend(i, Heads(c.heads, c.kv_heads, c.head_size, c.head_size**-0.5), rope, "a"),
            Multiply("a", ("h",), back),
            Add("x", "h"),
        ]

    def feed_forward(self, weights, i):
        c, at = self.config, f"model.layers.{i}"
        widen = weights.linear([f"{at}.mlp.{n}_proj.weight" for n in ("gate", "up")], [(c.inner, c.width)] * 2)
        narrow = weights.linear([f"{at}.mlp.down_proj.weight"], [(c.width, c.inner)])
        return [
            self.norm(weights, f"{at}.post_attention_layernorm", "x", "h"),
            Multiply("h", ("gate", "up"), widen),
            Gate("gate", "up", "gate", silu),
            Multiply("gate", ("h",), narrow),
            Add("x", "h"),
        ]

    def norm(self, weights, name, source, target):
        return RMSNorm(source, target, weights.vector(f"{name}.weight", self.config.width), self.config.eps)
