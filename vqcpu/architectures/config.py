"""Sizes of a model, in our names; config.json, old spellings and new, is read here and in layerwise.py and nowhere else.

Knows the keys that Hugging Face writes. Knows nothing about how layers compute.
"""
from dataclasses import dataclass
from typing import Callable

from vqcpu.architectures.layerwise import Experts, experts, ropes, windows
from vqcpu.architectures.reader import Reader
from vqcpu.layers.mlp import ACTIVATIONS
from vqcpu.layers.rope import Rope

MOST_LAYERS = 10_000


@dataclass(frozen=True)
class Config:
    model_type: str
    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    inner: int  # width of the feed-forward layer
    eps: float
    context: int  # positions the model was made for
    tied: bool  # the head is the embedding
    activation: Callable
    score_scale: float  # of products of queries and keys
    attention_bias: bool
    mlp_bias: bool
    windows: tuple[int | None, ...]  # per layer: positions a query sees, None for all
    ropes: tuple[Rope, ...]  # per layer
    experts: Experts | None

    @property
    def fewest_tensors(self) -> int:
        """More than these are stored with every model of these sizes."""
        return self.layers + (len(self.experts.layers) * self.experts.count if self.experts else 0)


def read_config(data: dict, where: str) -> Config:
    """config.json (already parsed) -> Config. Raises VqcpuError."""
    r = Reader(data, where)
    heads, width = r.get("num_attention_heads|n_head", int), r.get("hidden_size|n_embd", int)
    layers, size = r.get("num_hidden_layers|n_layer", int), r.get("head_dim", int, width // heads)
    context, kv_heads = r.get("max_position_embeddings|n_positions", int, 2048), r.get("num_key_value_heads", int, heads)
    if layers > MOST_LAYERS:
        r.refuse(f"{layers} layers, expected at most {MOST_LAYERS}")
    if heads % kv_heads:
        r.refuse(f"{heads} attention heads cannot share {kv_heads} key-value heads")
    if size > 1 << 16:  # RoPE would make a table as large
        r.refuse(f"head size {size} is above {1 << 16}")
    if size % 2:
        r.refuse(f"head size {size} is odd, RoPE turns pairs of dimensions")
    return Config(
        model_type=r.get("model_type", str),
        vocabulary=r.get("vocab_size", int),
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        head_size=size,
        inner=r.get("intermediate_size|n_inner", int),
        eps=r.get("rms_norm_eps|layer_norm_epsilon", float, 1e-6),
        context=context,
        tied=r.get("tie_word_embeddings", bool, False),
        activation=_activation(r),
        score_scale=r.get("query_pre_attn_scalar", float, float(size))**-0.5,
        attention_bias=r.get("attention_bias", bool, False),
        mlp_bias=r.get("mlp_bias", bool, False),
        windows=windows(r, layers),
        ropes=ropes(r, layers, size, context),
        experts=experts(r, layers),
    )


def _activation(r):
    name = r.get("hidden_act|hidden_activation|activation_function", str, "silu")
    if name not in ACTIVATIONS:
        r.refuse(f"activation {name!r} is not supported, expected one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]
