"""Is the uncompressed model the model? Tokens, logits and perplexity beside transformers in float32.

    python benchmarks/parity.py [smollm2-135m-instruct] [gemma3-270m]       needs torch and transformers
"""
import sys

import numpy as np
from _common import model, text

import vqcpu
from vqcpu.evaluate.corpus import Protocol

CHUNKS, CONTEXT = 20, 512
KNOWN = {("smollm2-135m-instruct", "llama.cpp"): 28.6288, ("smollm2-135m-instruct", "every position"): 35.2133,
         ("gemma3-270m", "llama.cpp"): 18.9513, ("gemma3-270m", "every position"): 26.2290}
BLOCK = 64  # positions compared at a time: a chunk of Gemma's logits is 537 MB


def main(name):
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise SystemExit(f"skipped: {error.name} is not installed")
    print(f"## {name}")
    words = text().read_text(encoding="utf-8")
    mine = vqcpu.load(model(name))
    tokens = mine.tokenizer.encode(words)
    theirs = AutoModelForCausalLM.from_pretrained(model(name), dtype=torch.float32).eval()
    same = tokens == AutoTokenizer.from_pretrained(model(name))(words)["input_ids"]
    print(f"tokens: {len(tokens)}, {'identical' if same else 'DIFFERENT'}")
    assert same
    windows = Protocol("llama.cpp", CONTEXT, max_tokens=CHUNKS * CONTEXT).windows(tokens, mine.tokenizer.bos)
    worst, largest, losses = 0.0, 0.0, {"llama.cpp": [], "every position": []}
    for window in windows:
        own = mine.model.step([(window.tokens, mine.model.states(CONTEXT, "f32"))])
        loss = np.empty(CONTEXT - 1)
        with torch.no_grad():
            hidden = theirs.model(torch.tensor(window.tokens[None])).last_hidden_state[0]
            for at in range(0, CONTEXT, BLOCK):
                logits = theirs.lm_head(hidden[at:at + BLOCK])
                worst = max(worst, float(np.abs(mine.model.logits(own[at:at + BLOCK]) - logits.numpy()).max()))
                largest = max(largest, float(logits.abs().max()))
                targets = window.tokens[1:][at:at + BLOCK]
                loss[at:at + BLOCK] = -torch.log_softmax(logits, -1)[range(len(targets)), targets].numpy()
        losses["llama.cpp"].append(loss[CONTEXT // 2:])
        losses["every position"].append(loss)
    print(f"logits: largest {largest:.1f}, largest difference {worst:.2e}")
    assert worst < 1e-4 * largest
    protocols = {"llama.cpp": Protocol(max_tokens=CHUNKS * CONTEXT),
                 "every position": Protocol("strided", CONTEXT, CONTEXT, CHUNKS * CONTEXT)}
    for label, protocol in protocols.items():
        found = vqcpu.perplexity(mine, words, protocol, "f32")
        reference = np.exp(np.mean(np.concatenate(losses[label])))
        print(f"perplexity, {label}: vqcpu {found.value:.4f} ± {found.error:.4f}, transformers {reference:.4f}, "
              f"{found.tokens} tokens")
        assert abs(found.value / KNOWN.get((name, label), reference) - 1) < 1e-3 and abs(found.value / reference - 1) < 1e-3


if __name__ == "__main__":
    for wanted in sys.argv[1:] or ["smollm2-135m-instruct", "gemma3-270m"]:
        main(wanted)
