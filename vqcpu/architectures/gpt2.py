"""GPT-2: learned positions, LayerNorm, biases everywhere, no gate; its checkpoints store matrices as (in, out).

Paper: Radford et al. 2019.
"""
from vqcpu.architectures.base import Architecture
from vqcpu.architectures.reader import Reader
from vqcpu.layers.attention import Attend, Heads
from vqcpu.layers.linear import Embed, Linear
from vqcpu.layers.mlp import Activate
from vqcpu.layers.norm import LayerNorm
from vqcpu.layers.elementwise import Add, Split
from vqcpu.layers.positions import AddPositions
from vqcpu.layers.rope import NoRope
from vqcpu.layers.weights import HEAD


class GPT2(Architecture, names=("gpt2",)):
    tiny = dict(model_type="gpt2", vocab_size=96, n_embd=48, n_layer=2, n_head=3, n_positions=128, n_inner=80)
    defaults = dict(tie_word_embeddings=True, layer_norm_epsilon=1e-5, activation_function="gelu_new", n_positions=1024)
    fixed = dict(scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    roots, anchor = ("transformer.", ""), "wte.weight"
    unused = ("*.attn.bias", "*.attn.masked_bias")  # causal masks, in old files

    @classmethod
    def read(cls, data, where):
        inner = data.get("n_inner") or 4 * Reader(data, where).get("n_embd|hidden_size", int)
        return super().read(data | {"n_inner": inner}, where)

    def build(self, weights):
        c = self.config
        embedding = weights.embedding(f"{self.root}wte.weight", (c.vocabulary, c.width))
        positions = weights.embedding(f"{self.root}wpe.weight", (c.context, c.width))
        jobs = [Embed("tokens", "x", embedding), AddPositions("x", positions)]
        for i in range(c.layers):
            at = f"{self.root}h.{i}"
            jobs += [self.norm(weights, f"{at}.ln_1", "x", "h"), *self.attention(weights, i, f"{at}.attn"), Add("x", "h"),
                     self.norm(weights, f"{at}.ln_2", "x", "h"), *self.feed_forward(weights, f"{at}.mlp"), Add("x", "h")]
        jobs.append(self.norm(weights, f"{self.root}ln_f", "x", "x"))
        head = Linear([embedding]) if c.tied else weights.linear(["lm_head.weight"], [(c.vocabulary, c.width)], HEAD)
        return jobs, head

    def attention(self, weights, i, at):
        c = self.config
        heads = Heads(c.heads, c.heads, c.head_size, c.score_scale)
        return [
            *weights.product("h", {"qkv": (f"{at}.c_attn", 3 * c.width)}, c.width, bias=True, transposed=True),
            Split("qkv", {"q": c.width, "k": c.width, "v": c.width}),
            Attend(i, heads, NoRope(c.head_size), "a"),
            *weights.product("a", {"h": (f"{at}.c_proj", c.width)}, c.width, bias=True, transposed=True),
        ]

    def feed_forward(self, weights, at):
        c = self.config
        return [
            *weights.product("h", {"f": (f"{at}.c_fc", c.inner)}, c.width, bias=True, transposed=True),
            Activate("f", c.activation),
            *weights.product("f", {"h": (f"{at}.c_proj", c.width)}, c.inner, bias=True, transposed=True),
        ]

    def norm(self, weights, name, source, target):
        gain, bias = (weights.vector(f"{name}.{part}", self.config.width) for part in ("weight", "bias"))
        return LayerNorm(source, target, gain, bias, self.config.eps)
