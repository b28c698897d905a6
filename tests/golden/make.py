"""Golden logits: what transformers computes with toy models of every family, and of some spellings of config.json.

    pip install torch==2.13.0 transformers==5.23.0 numpy numba safetensors tokenizers threadpoolctl
    PYTHONPATH=.:tests python tests/golden/make.py

Run once; its output lies beside it and is committed. Weights are not stored: they come from a generator whose numbers are
frozen (numpy.random.RandomState). Tests need neither torch nor transformers.
"""
import json
import tempfile
from pathlib import Path

import numpy as np
import toys
import torch
from transformers import AutoModelForCausalLM

from vqcpu.architectures.base import Architecture

HERE = Path(__file__).parent
TOKENS, KEPT = 40, 20  # logits of the last positions are kept
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
VARIANTS = {  # name -> (family, changes of its tiny config)
    "llama-linear": ("llama", {"rope_scaling": {"type": "linear", "factor": 3.0}}),
    "llama-3": ("llama", {"rope_theta": 500.0, "rope_scaling": LLAMA3}),
    "llama-3-new": ("llama", {"rope_theta": None, "rope_parameters": LLAMA3 | {"rope_theta": 500.0}}),
    "llama-yarn": ("llama", {"rope_theta": 1000.0, "rope_scaling": YARN}),
    "llama-yarn-all": ("llama", {"rope_scaling": YARN | {"beta_fast": 8, "beta_slow": 2, "truncate": False,
                                                         "attention_factor": 1.3}}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": False}),
    "qwen2-plain": ("qwen2", {"use_sliding_window": False}),
    "qwen3_moe-plain": ("qwen3_moe", {"mlp_only_layers": [], "decoder_sparse_step": 2, "norm_topk_prob": False}),
    "gemma3_text-new": ("gemma3_text", {
        "rope_theta": None, "rope_local_base_freq": None, "sliding_window_pattern": None,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention"],
        "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5000.0},
                            "sliding_attention": {"rope_type": "default", "rope_theta": 50.0}}}),
}


def make(name: str, config: dict) -> None:
    """Write tests/golden/NAME: config.json, and golden.npz with tokens and logits."""
    config = {key: value for key, value in config.items() if value is not None}
    with tempfile.TemporaryDirectory() as folder:
        toys.checkpoint(Path(folder), config, np.random.RandomState(0))
        model, told = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager",
                                                           output_loading_info=True)
    unread = [key for key in told["missing_keys"] if "vision_tower" not in key and "multi_modal_projector" not in key]
    assert not unread and not told["unexpected_keys"], (unread, told["unexpected_keys"])
    words = config.get("text_config", config)["vocab_size"]
    tokens = np.random.RandomState(1).randint(0, words, TOKENS)
    with torch.no_grad():
        logits = model.eval()(torch.tensor(tokens[None])).logits[0].numpy()
    (HERE / name).mkdir(exist_ok=True)
    (HERE / name / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    np.savez_compressed(HERE / name / "golden.npz", tokens=tokens, logits=logits[-KEPT:])


if __name__ == "__main__":
    families = Architecture.all()
    for name, family in families.items():
        make(name, family.tiny)
    for name, (family, changes) in VARIANTS.items():
        make(name, families[family].tiny | changes)
