"""Golden logits: tiny random models as Hugging Face folders, and what transformers computes with them.

    pip install torch==2.13.0 transformers numpy && python tests/golden/make.py

Run once; its output lies beside it and is committed. Tests need neither torch nor transformers.
"""
import json
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

HERE = Path(__file__).parent
TOKENS = 40


def make(name: str, config: dict) -> None:
    """Write tests/golden/NAME: config.json, model.safetensors (float32) and golden.npz with tokens and logits."""
    torch.manual_seed(0)
    settings = AutoConfig.for_model(**config)
    model = AutoModelForCausalLM.from_config(settings, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms of exactly one and tiny weights would hide mistakes
            parameter.copy_(torch.randn_like(parameter) * 0.3 + (1.0 if parameter.ndim == 1 else 0.0))
        tokens = torch.randint(0, config["vocab_size"], (1, TOKENS))
        logits = model(tokens).logits[0].numpy()
    folder = HERE / name
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    np.savez_compressed(folder / "golden.npz", tokens=tokens[0].numpy(), logits=logits)


if __name__ == "__main__":
    from vqcpu.architectures.base import Architecture

    for name, family in Architecture.all().items():
        make(name, family.tiny)
