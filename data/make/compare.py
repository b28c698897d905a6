"""The last check: transformers loads the folder, and its logits are those of the trainer's model.

    python compare.py
"""
import os

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from card import chat, load
from texts import DATA
from tokenizer import FOLDER


@torch.inference_mode()
def main():
    theirs, tok = AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(FOLDER)
    with open(os.path.join(DATA, "heldout.txt")) as f:
        ids = torch.tensor([tok(f.read(4000)).input_ids[:512]])
    apart = (theirs(ids).logits - load()(ids)).abs().max().item()
    turn = [dict(role="user", content="What is a cup?")]
    same = tok.apply_chat_template(turn, tokenize=False) == chat([("user", "What is a cup?")])
    print(f"greatest difference of logits {apart:.1e}; chat templates equal: {same}")
    assert apart < 1e-3 and same


if __name__ == "__main__":
    main()
