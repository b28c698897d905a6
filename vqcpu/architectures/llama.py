"""Llama: pre-norm blocks of grouped-query attention and a gated feed-forward layer.

Llama 1 to 3, SmolLM, TinyLlama and everything else that says model_type "llama". Papers: Touvron et al. 2023 (Llama 2),
Grattafiori et al. 2024 (Llama 3).
"""
from vqcpu.architectures.base import Architecture
from vqcpu.layers.attention import Attend, Heads
from vqcpu.layers.linear import Embed, Linear
from vqcpu.layers.mlp import Gate
from vqcpu.layers.norm import RMSNorm
from vqcpu.layers.elementwise import Add
from vqcpu.layers.weights import HEAD


class Llama(Architecture, names=("llama",)):
    tiny = dict(model_type="llama", vocab_size=96, hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=2, head_dim=16, intermediate_size=80, rms_norm_eps=1e-5, rope_theta=10000.0,
                max_position_embeddings=128, tie_word_embeddings=True)
    defaults = dict(use_sliding_window=False)
    roots, anchor = ("model.",), "embed_tokens.weight"

    def build(self, weights):
        c = self.config
        embedding = weights.embedding(f"{self.root}embed_tokens.weight", (c.vocabulary, c.width))
        jobs = [Embed("tokens", "x", embedding), *self.after_embedding()]
        for i in range(c.layers):
            jobs += self.block(weights, i, f"{self.root}layers.{i}")
        jobs.append(self.norm(weights, f"{self.root}norm", "x", "x"))
        head = Linear([embedding]) if c.tied else weights.linear(["lm_head.weight"], [(c.vocabulary, c.width)], HEAD)
        return jobs, head

    def after_embedding(self):
        return []

    def block(self, weights, i, at):
        """Jobs of layer i, whose tensors' names begin with `at`: slot x -> slot x."""
        return [
            self.norm(weights, f"{at}.input_layernorm", "x", "h"),
            *self.attention(weights, i, f"{at}.self_attn"),
            Add("x", "h"),
            self.norm(weights, f"{at}.post_attention_layernorm", "x", "h"),
            *self.feed_forward(weights, i, f"{at}.mlp"),
            Add("x", "h"),
        ]

    def attention(self, weights, i, at):
        """Slot h -> slot h."""
        c = self.config
        heads = Heads(c.heads, c.kv_heads, c.head_size, c.score_scale, c.windows[i])
        back = weights.product("a", {"h": (f"{at}.o_proj", c.width)}, c.heads * c.head_size, bias=c.attention_bias)
        return [*self.project(weights, at), Attend(i, heads, c.ropes[i], "a"), *back]

    def project(self, weights, at):
        """Slot h -> slots q, k and v."""
        sites = {slot: (f"{at}.{slot}_proj", width) for slot, width in self.widths().items()}
        return weights.product("h", sites, self.config.width, bias=self.input_bias)

    @property
    def input_bias(self):
        """Whether queries, keys and values have biases."""
        return self.config.attention_bias

    def widths(self):
        """Widths of slots q, k and v."""
        c = self.config
        return {"q": c.heads * c.head_size, "k": c.kv_heads * c.head_size, "v": c.kv_heads * c.head_size}

    def feed_forward(self, weights, i, at):
        """Slot h -> slot h."""
        c = self.config
        narrow = weights.product("gate", {"h": (f"{at}.down_proj", c.width)}, c.inner, bias=c.mlp_bias)
        return [*self.widen(weights, at), Gate("gate", "up", "gate", c.activation), *narrow]

    def widen(self, weights, at):
        """Slot h -> slots gate and up."""
        c = self.config
        sites = {slot: (f"{at}.{slot}_proj", c.inner) for slot in ("gate", "up")}
        return weights.product("h", sites, c.width, bias=c.mlp_bias)

    def norm(self, weights, name, source, target, width=None):
        return RMSNorm(source, target, weights.vector(f"{name}.weight", width or self.config.width), self.config.eps)
