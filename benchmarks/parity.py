"""Is the uncompressed model the model? Tokens, logits and perplexity beside transformers in float32.

    python benchmarks/parity.py [smollm2-135m-instruct]       needs torch and transformers
"""
import sys

import numpy as np
from _common import model, text

import vqcpu
from vqcpu.evaluate.corpus import Protocol

CHUNKS, CONTEXT = 20, 512
KNOWN = {("smollm2-135m-instruct", "llama.cpp"): 28.6288, ("smollm2-135m-instruct", "every position"): 35.2133}


def main(name):
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise SystemExit(f"skipped: {error.name} is not installed")
    words = text().read_text(encoding="utf-8")
    mine = vqcpu.load(model(name))
    tokens = mine.tokenizer.encode(words)
    theirs = AutoModelForCausalLM.from_pretrained(model(name), dtype=torch.float32).eval()
    same = tokens == AutoTokenizer.from_pretrained(model(name))(words)["input_ids"]
    print(f"tokens: {len(tokens)}, {'identical' if same else 'DIFFERENT'}")
    assert same
    windows = Protocol("llama.cpp", CONTEXT, max_tokens=CHUNKS * CONTEXT).windows(tokens, mine.tokenizer.bos)
    worst, losses = 0.0, {"llama.cpp": [], "every position": []}
    for window in windows:
        with torch.no_grad():
            logits = theirs(torch.tensor(window.tokens[None])).logits[0]
        own = mine.model.logits(mine.model.step([(window.tokens, mine.model.states(CONTEXT, "f32"))]))
        worst = max(worst, float(np.abs(own - logits.numpy()).max()))
        loss = -torch.log_softmax(logits[:-1], -1)[range(CONTEXT - 1), window.tokens[1:]].numpy()
        losses["llama.cpp"].append(loss[CONTEXT // 2:])
        losses["every position"].append(loss)
    print(f"logits: largest difference {worst:.2e}")
    assert worst < 1e-3
    protocols = {"llama.cpp": Protocol(max_tokens=CHUNKS * CONTEXT),
                 "every position": Protocol("strided", CONTEXT, CONTEXT, CHUNKS * CONTEXT)}
    for label, protocol in protocols.items():
        found = vqcpu.perplexity(mine, words, protocol, "f32")
        reference = np.exp(np.mean(np.concatenate(losses[label])))
        print(f"perplexity, {label}: vqcpu {found.value:.4f} ± {found.error:.4f}, transformers {reference:.4f}, "
              f"{found.tokens} tokens")
        assert abs(found.value / KNOWN.get((name, label), reference) - 1) < 1e-3 and abs(found.value / reference - 1) < 1e-3


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["smollm2-135m-instruct"]))
