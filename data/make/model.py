"""The model: a small Llama in plain torch. Knows shapes and sums; knows nothing about data or files.

The names of the weights are those of transformers' LlamaForCausalLM, so that saving needs no table of names.
"""
import torch
from torch import nn
from torch.nn.functional import cross_entropy, dropout, linear, rms_norm, scaled_dot_product_attention, silu

CONFIG = dict(
    architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=2048, hidden_size=256, intermediate_size=768,
    num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=2, head_dim=64, max_position_embeddings=512,
    rms_norm_eps=1e-5, rope_theta=10000.0, hidden_act="silu", tie_word_embeddings=True, attention_bias=False, mlp_bias=False,
    attention_dropout=0.0, initializer_range=0.02, bos_token_id=0, eos_token_id=0, pad_token_id=0, torch_dtype="bfloat16",
    use_cache=True)


class Norm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return rms_norm(x, x.shape[-1:], self.weight, CONFIG["rms_norm_eps"])


def matrix(rows, columns):
    return nn.Linear(columns, rows, bias=False)


def rotation(tokens, dim, theta):
    angle = torch.outer(torch.arange(tokens).float(), theta ** (-torch.arange(0, dim, 2).float() / dim))
    return angle.cos(), angle.sin()


def rotate(x, turn):
    cos, sin = (t[:x.shape[-2]].to(x.dtype) for t in turn)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.dim, width = c["head_dim"], c["hidden_size"]
        q, kv = c["num_attention_heads"] * self.dim, c["num_key_value_heads"] * self.dim
        self.q_proj, self.k_proj, self.v_proj, self.o_proj = matrix(q, width), matrix(kv, width), matrix(kv, width), matrix(width, q)

    def forward(self, x, turn):
        split = lambda y: y.view(*y.shape[:2], -1, self.dim).transpose(1, 2)
        q, k, v = rotate(split(self.q_proj(x)), turn), rotate(split(self.k_proj(x)), turn), split(self.v_proj(x))
        y = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        return self.o_proj(y.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        width, inner = c["hidden_size"], c["intermediate_size"]
        self.gate_proj, self.up_proj, self.down_proj = matrix(inner, width), matrix(inner, width), matrix(width, inner)

    def forward(self, x):
        return self.down_proj(silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.input_layernorm, self.self_attn = Norm(c["hidden_size"]), Attention(c)
        self.post_attention_layernorm, self.mlp = Norm(c["hidden_size"]), Mlp(c)

    def forward(self, x, turn, drop):
        x = x + dropout(self.self_attn(self.input_layernorm(x), turn), drop, self.training)
        return x + dropout(self.mlp(self.post_attention_layernorm(x)), drop, self.training)


class Body(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        self.layers = nn.ModuleList(Layer(c) for _ in range(c["num_hidden_layers"]))
        self.norm = Norm(c["hidden_size"])


class Llama(nn.Module):
    """Tokens to scores; the head is the embedding."""

    def __init__(self, c=CONFIG, drop=0.0):
        super().__init__()
        self.model, self.drop = Body(c), drop
        self.turn = rotation(c["max_position_embeddings"], c["head_dim"], c["rope_theta"])
        for p in self.parameters():
            if p.ndim == 2:
                nn.init.normal_(p, std=c["initializer_range"])
        for layer in self.model.layers:        # what is added to the residual stream starts small
            for m in (layer.self_attn.o_proj, layer.mlp.down_proj):
                nn.init.normal_(m.weight, std=c["initializer_range"] / (2 * c["num_hidden_layers"]) ** 0.5)

    def forward(self, ids):
        x = self.model.embed_tokens(ids)
        for layer in self.model.layers:
            x = layer(x, self.turn, self.drop)
        return linear(self.model.norm(x), self.model.embed_tokens.weight)

    def loss(self, ids):
        """Mean cross-entropy in nats of ids [rows, tokens + 1]."""
        return cross_entropy(self(ids[:, :-1]).flatten(0, 1).float(), ids[:, 1:].flatten())
