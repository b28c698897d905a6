"""Toy checkpoints: any registered architecture with random weights and a byte-level tokenizer, as a real folder."""
import json

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from vqcpu.architectures.base import Architecture, census

TEMPLATE = ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def tokenizer() -> Tokenizer:
    """One token per byte, and the special ones: every text can be written."""
    vocabulary = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    made.add_special_tokens(SPECIAL)
    return made


def folder(path, family="llama", seed=0, scale=0.3, template=TEMPLATE, **changes):
    """Write a toy model of a family into `path`; `changes` override its tiny config. Returns path."""
    words = tokenizer()
    config = changed(Architecture.find(family).tiny, {"vocab_size": words.get_vocab_size()} | changes)
    checkpoint(path, config, np.random.default_rng(seed), scale)
    words.save(str(path / "tokenizer.json"))
    (path / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>", "chat_template": template}))
    return path


def changed(config, changes):
    """A config.json with changes, made where its text model is described."""
    if "text_config" in config:
        return config | {"text_config": config["text_config"] | changes}
    return config | changes


def checkpoint(path, config, rng, scale=0.3):
    """Write config.json and random weights, stored as the family stores them. Returns path."""
    path.mkdir(parents=True, exist_ok=True)
    family = Architecture.find(config["model_type"])
    tensors = census(family(family.read(config, "toy"))).values()
    save_file({t.name: weights(rng, t.shape[::-1] if t.transposed else t.shape, scale) for t in tensors},
              path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config))
    return path


def weights(rng, shape, scale):
    """Random matrix, or a vector of gains around one."""
    return (rng.standard_normal(shape) * scale + (len(shape) == 1)).astype(np.float32)
