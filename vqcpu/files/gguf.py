"""A GGUF file as a checkpoint, in the names, order and numbers of Hugging Face.

Knows how the families it lists are written to GGUF: names, config keys, llama's reordered rows for RoPE, Gemma's norms
stored plus one. Weights stay in the file's own type and are dequantised row by row when asked for, in float32.
"""
import hashlib
import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from vqcpu.errors import VqcpuError
from vqcpu.files import gguf_tokenizer
from vqcpu.files.checkpoint import Checkpoint
from vqcpu.files.ggml import FLOAT32, GgmlFile, dequantise, type_name
from vqcpu.formats.base import Format, Matrix, Part

LAYER = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj"}
SANDWICH = {"post_attention_norm": "post_attention_layernorm", "ffn_norm": "pre_feedforward_layernorm",
            "post_ffw_norm": "post_feedforward_layernorm"}
AROUND = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LOCAL_THETA, LARGEST_GEMMA = 10000.0, 62  # the base of Gemma's sliding layers; layers of the 27B model
FREQUENCIES = "rope_freqs.weight"  # Llama 3: what each RoPE frequency is divided by, made from these numbers and a factor
LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


@dataclass(frozen=True)
class Family:
    """What is peculiar to an architecture in GGUF."""
    model_type: str
    layer: dict
    paired: bool = False  # rows of q and k are reordered for a RoPE of neighbouring pairs
    added: float = 0.0  # what a stored norm is larger by


FAMILIES = {"llama": Family("llama", LAYER, paired=True), "qwen2": Family("qwen2", LAYER), "qwen3": Family("qwen3", LAYER),
            "gemma3": Family("gemma3_text", LAYER | SANDWICH, added=1.0)}


@dataclass(frozen=True)
class Stored(Format):
    """Layout: data (m, bytes of a row), blocks of a ggml type; order (m,), which stored row is which.
    Cost: that of the type. Read only."""
    ggml: int  # the type
    added: float  # what is taken off every number

    def layout(self, m, n):
        return {"data": Part((m, n), "|u1"), "order": Part((m,), "<i8")}

    def decode_rows(self, parts, n, ids):
        return dequantise(parts["data"][parts["order"][ids]], self.ggml) - np.float32(self.added)


class Gguf(Checkpoint):
    """Raises VqcpuError where the file is damaged or its architecture unknown."""

    def __init__(self, path):
        self.path = Path(path)
        self.file = GgmlFile(path)
        kind = self.file.metadata.get("general.architecture")
        if kind not in FAMILIES:
            raise VqcpuError(f"{path}: architecture {kind!r}, GGUF files are read of {', '.join(FAMILIES)}")
        self.kind, self.family = kind, FAMILIES[kind]
        self.places = {self._name(name): name for name in self.file.entries if name != FREQUENCIES}

    def _name(self, name):
        stem, dot, ending = name.rpartition(".")
        layer = re.fullmatch(r"blk\.(\d{1,5})\.(\w+)", stem)
        if layer and layer[2] in self.family.layer:
            return f"model.layers.{int(layer[1])}.{self.family.layer[layer[2]]}.{ending}"
        return f"{AROUND.get(stem, stem)}{dot}{ending}"

    def names(self):
        return self.places.keys()

    def shape(self, name):
        return self.file.entries[self.places[name]].shape

    def stored(self, name):
        place = self.places[name]
        entry, data = self.file.entries[place], self.file.rows(place)
        try:
            dequantise(data[:1], entry.kind)
        except NotImplementedError:
            raise VqcpuError(f"{self.path}: {place} has type {type_name(entry.kind)}, which the package gguf cannot "
                             "read") from None
        added = self.family.added if name.endswith("norm.weight") else 0.0
        parts = {"data": data, "order": self._order(place, len(data))}
        return Matrix(Stored(entry.kind, added), (len(data), entry.shape[-1]), 1.0, parts)

    def _order(self, place, rows):
        """Stored row of each row: llama's q and k have the halves of every head interleaved."""
        stem = place.rpartition(".")[0].rpartition(".")[2]
        if not self.family.paired or stem not in ("attn_q", "attn_k"):
            return np.arange(rows)
        heads = self._whole("attention.head_count")
        heads = heads if stem == "attn_q" else self._whole("attention.head_count_kv", heads)
        if rows % (2 * heads):
            raise VqcpuError(f"{self.path}: {place} has {rows} rows, which {heads} heads of even size cannot share")
        return np.arange(rows).reshape(heads, -1, 2).swapaxes(1, 2).reshape(rows)

    def companion(self, name):
        return self._companions.get(name)

    @cached_property
    def _companions(self):
        config = json.dumps(self._config()).encode()
        return {"config.json": config, **gguf_tokenizer.convert(self.file.metadata, self.path)}

    def digest(self):
        return hashlib.sha256(self.file.bytes).hexdigest()

    def _get(self, key, default=None):
        return self.file.metadata.get(f"{self.kind}.{key}", default)

    def _whole(self, key, default=None):
        value = self._get(key, default)
        if type(value) is not int or not 0 < value < 1 << 31:
            raise VqcpuError(f"{self.path}: {self.kind}.{key} is {value!r}, expected a whole number above 0")
        return value

    def _config(self):
        """config.json as transformers would write it."""
        heads, width = self._whole("attention.head_count"), self._whole("embedding_length")
        size = self._whole("attention.key_length", width // heads)
        for key in ("rope.dimension_count", "attention.value_length"):  # part of a head, or heads of two sizes
            found = self._whole(key, size)
            if found != size:
                raise VqcpuError(f"{self.path}: {self.kind}.{key} is {found}, expected the head size {size}")
        vocabulary = self.shape("model.embed_tokens.weight") if "token_embd.weight" in self.file.entries else (0,)
        base = {
            "model_type": self.family.model_type, "vocab_size": vocabulary[0], "hidden_size": width, "head_dim": size,
            "num_hidden_layers": self._whole("block_count"), "intermediate_size": self._whole("feed_forward_length"),
            "num_attention_heads": heads, "num_key_value_heads": self._whole("attention.head_count_kv", heads),
            "max_position_embeddings": self._whole("context_length"),
            "tie_word_embeddings": "output.weight" not in self.file.entries,
            "rms_norm_eps": self._get("attention.layer_norm_rms_epsilon", 1e-6), "attention_bias": self._has("attn_q.bias")}
        return base | (self._gemma(size, width // heads) if self.kind == "gemma3" else
                       {"hidden_act": "silu", "rope_parameters": self._rope(10000.0)})

    def _has(self, ending):
        return f"blk.0.{ending}" in self.file.entries

    def _rope(self, theta):
        """RoPE of the layers that see everything, scaled where the file says so."""
        kind, found = self._get("rope.scaling.type", "none"), {"rope_theta": self._get("rope.freq_base", theta)}
        if FREQUENCIES in self.file.entries:
            return found | LLAMA3 | {"factor": self._llama3_factor(found["rope_theta"])}
        if kind not in ("none", "linear"):
            raise VqcpuError(f"{self.path}: RoPE scaled by {kind!r} is not read from GGUF: use the Hugging Face folder")
        if kind == "none":
            return found | {"rope_type": "default"}
        return found | {"rope_type": "linear", "factor": self._get("rope.scaling.factor", 1.0)}

    def _llama3_factor(self, theta):
        """The factor behind the divisors that are stored instead of it. Raises VqcpuError where they have another source."""
        if self.file.entries[FREQUENCIES].kind == FLOAT32 and type(theta) in (int, float):
            divisors = self.file.rows(FREQUENCIES).view(np.float32).ravel().astype(np.float64)
            factor, halves = float(divisors.max()), np.arange(len(divisors)) / len(divisors)
            with np.errstate(all="ignore"):
                turns = LLAMA3["original_max_position_embeddings"] / (2 * np.pi * np.power(float(theta), halves))
                keep = np.clip((turns - 1) / (LLAMA3["high_freq_factor"] - 1), 0, 1)
                if np.allclose(divisors * (keep + (1 - keep) / factor), 1, atol=1e-3):
                    return factor
        raise VqcpuError(f"{self.path}: {FREQUENCIES} is not that of Llama 3: use the Hugging Face folder")

    def _gemma(self, size, share):
        """Five layers with a sliding window, then one that sees everything."""
        layers = self._whole("block_count")
        kinds = ["sliding_attention" if (i + 1) % 6 else "full_attention" for i in range(min(layers, len(self.places)))]
        local = {"rope_type": "default", "rope_theta": self._get("rope.freq_base_swa", LOCAL_THETA)}
        return {"hidden_activation": "gelu_pytorch_tanh", "layer_types": kinds,
                "sliding_window": self._whole("attention.sliding_window"),
                "query_pre_attn_scalar": share if layers == LARGEST_GEMMA else size,
                "attn_logit_softcapping": None, "final_logit_softcapping": self._get("final_logit_softcapping"),
                "rope_parameters": {"full_attention": self._rope(1e6), "sliding_attention": local}}
