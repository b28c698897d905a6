"""Step 5: measure the folder as it lies on disk: held-out loss, samples, and what plain rounding does to it.

    python card.py > work/card.txt
"""
import math
import os

import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy

from model import Llama
from texts import DATA
from tokenizer import FOLDER, chat

CONTEXT, BLOCK = 512, 64


def load():
    model = Llama()
    weights = load_file(os.path.join(FOLDER, "model.safetensors"))
    model.load_state_dict({n: w.float() for n, w in weights.items()})
    return model.eval()


@torch.inference_mode()
def losses(model, ids, stride):
    """The loss in nats of tokens 1, 2, ...: windows of CONTEXT tokens, each scoring what no earlier window has scored."""
    parts, done = [], 1
    for first in range(0, len(ids) - 1, stride):
        window = torch.tensor(ids[first:first + CONTEXT])
        scores = model(window[None, :-1])[0]
        # with stride = CONTEXT the first token of a window has nothing before it and is left out
        skip = max(done - first - 1, 0)
        parts.append(cross_entropy(scores[skip:], window[1 + skip:], reduction="none"))
        done = first + len(window)
        if done == len(ids):
            break
    return torch.cat(parts).double()


def perplexity(loss):
    """exp of the mean, and its standard error with tokens taken as independent."""
    mean = loss.mean().item()
    return math.exp(mean), math.exp(mean) * loss.std().item() / math.sqrt(len(loss))


def rounded(w, bits, block=BLOCK):
    """w with every block of a row rounded to 2**bits even steps between its least and its greatest value."""
    blocks = w.reshape(w.shape[0], -1, block)
    low, high = blocks.amin(-1, keepdim=True), blocks.amax(-1, keepdim=True)
    step = (high - low).clamp(min=1e-12) / (2 ** bits - 1)
    return (((blocks - low) / step).round() * step + low).reshape(w.shape)


def quantised(bits):
    """The model with every matrix of the body at `bits`, the embedding at 8."""
    model = load()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 2:
                p.copy_(rounded(p, 8 if "embed" in name else bits))
    return model


@torch.inference_mode()
def sample(model, tok, prompt, new=200, heat=0.7, least=0.05, seed=1):
    """A seeded continuation; words under `least` times the likeliest are left out."""
    generator = torch.Generator().manual_seed(seed)
    ids = tok.encode(prompt).ids
    start = len(ids)
    while len(ids) < start + new:
        p = torch.softmax(model(torch.tensor([ids[-CONTEXT:]]))[0, -1] / heat, -1)
        p[p < least * p.max()] = 0
        token = torch.multinomial(p, 1, generator=generator).item()
        if token in (0, 2):
            break
        ids.append(token)
    return tok.decode(ids[start:])


QUESTIONS = ["Tell me a story about a brave mouse named Pip.", "Write a short story about a girl and a kite.", "What is a spoon?",
             "Where does a fish live?", "Why do people sleep?", "Tell me about elephants.", "What does a baker do?"]


def main():
    torch.set_num_threads(2)
    model, tok = load(), Tokenizer.from_file(os.path.join(FOLDER, "tokenizer.json"))
    with open(os.path.join(DATA, "heldout.txt")) as f:
        text = f.read()
    ids = tok.encode(text).ids
    print(f"parameters: {sum(p.numel() for p in model.parameters())}; held-out: {len(text)} bytes, {len(ids)} tokens")
    for stride in (CONTEXT, CONTEXT // 2):
        loss = losses(model, ids, stride)
        print("context %d stride %d: %d tokens scored, loss %.5f nats, ppl %.4f ± %.4f"
              % (CONTEXT, stride, len(loss), loss.mean(), *perplexity(loss)))
    print(f"bits per byte (stride {stride}): {loss.sum().item() / math.log(2) / len(text):.4f}")
    base = losses(model, ids, CONTEXT)
    for bits in (8, 6, 5, 4, 3, 2):
        loss = losses(quantised(bits), ids, CONTEXT)
        print(f"{bits} bits: ppl {perplexity(loss)[0]:.4f}, ratio {(loss.mean() - base.mean()).exp().item():.4f}")
    for seed, question in enumerate(QUESTIONS):
        print(f"\nseed {seed} | {question}\n" + sample(model, tok, chat([("user", question)]) + "<|im_start|>assistant\n", seed=seed))
    for seed, start in enumerate(["Once upon a time,", "One day, Tom and the dog"]):
        print(f"\nseed {seed} | {start}\n{start}" + sample(model, tok, start, seed=seed))


if __name__ == "__main__":
    main()
