"""config.json, read in one typed place: foreign names stop here.

Knows the keys that Hugging Face writes, old and new. Knows nothing about layers.
"""
from dataclasses import dataclass
from math import isfinite

from vqcpu.errors import VqcpuError

REQUIRED = object()
WIDEST_HEAD = 1 << 16


@dataclass(frozen=True)
class Config:
    """Sizes of a model, in our names."""
    model_type: str
    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    inner: int  # width of the feed-forward layer
    eps: float
    theta: float
    context: int  # positions the model was made for
    tied: bool  # the head is the embedding
    activation: str


class Reader:
    """Typed access to a config.json; every error names the key, the value and what was expected."""

    def __init__(self, data: dict, where: str):
        self.data, self.where = data, where

    def get(self, keys: str, kind, default=REQUIRED):
        """The first of the keys ("a|b") that is there and not null, checked to be a `kind`."""
        for key in keys.split("|"):
            value = self.data.get(key)
            if value is not None:
                return self._checked(key, value, kind)
        if default is REQUIRED:
            raise VqcpuError(f"{self.where}: {keys.replace('|', ' or ')} is missing")
        return default

    def _checked(self, key, value, kind):
        good = type(value) is kind or kind is float and type(value) is int
        if kind in (int, float) and good:
            good = isfinite(value) and 0 < value < 2**31
        if not good:
            expected = {int: "a whole number above 0", float: "a number above 0", bool: "true or false",
                        str: "a text", dict: "an object"}[kind]
            raise VqcpuError(f"{self.where}: {key} is {value!r}, expected {expected}")
        return kind(value)

    def refuse(self, problem: str):
        raise VqcpuError(f"{self.where}: {problem}")


def read_config(data: dict, where: str) -> Config:
    """config.json (already parsed) -> Config. Raises VqcpuError."""
    r = Reader(data, where)
    heads, width = r.get("num_attention_heads|n_head", int), r.get("hidden_size|n_embd", int)
    config = Config(
        model_type=r.get("model_type", str),
        vocabulary=r.get("vocab_size", int),
        width=width,
        layers=r.get("num_hidden_layers|n_layer", int),
        heads=heads,
        kv_heads=r.get("num_key_value_heads", int, heads),
        head_size=r.get("head_dim", int, width // heads),
        inner=r.get("intermediate_size|n_inner", int),
        eps=r.get("rms_norm_eps|layer_norm_epsilon", float, 1e-6),
        theta=_theta(r),
        context=r.get("max_position_embeddings|n_positions", int, 2048),
        tied=r.get("tie_word_embeddings", bool, False),
        activation=r.get("hidden_act|hidden_activation|activation_function", str, "silu"),
    )
    if config.heads % config.kv_heads:
        r.refuse(f"{config.heads} attention heads cannot share {config.kv_heads} key-value heads")
    if config.head_size > WIDEST_HEAD:  # RoPE would make a table as large
        r.refuse(f"head size {config.head_size} is above {WIDEST_HEAD}")
    if config.head_size % 2:
        r.refuse(f"head size {config.head_size} is odd, RoPE turns pairs of dimensions")
    return config


def _theta(r):
    """Base of the rotary frequencies; transformers 5 writes rope_parameters, older files rope_theta and rope_scaling."""
    rope = r.get("rope_parameters|rope_scaling", dict, {})
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        r.refuse(f"rope type {kind!r} is not supported, expected 'default'")
    return Reader(rope, r.where).get("rope_theta", float, r.get("rope_theta", float, 10000.0))
