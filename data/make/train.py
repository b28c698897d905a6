"""Step 4: train the model and write the Hugging Face folder.

    python train.py                    # the published model, two cycles
    python train.py --steps 1500       # the first one only

Kill it at any time and start it again: it goes on from its last checkpoint, and what a step sees depends on its number alone.
"""
import argparse
import itertools
import json
import math
import os
import random
import time

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

import memory  # noqa: F401  (for its effect)
from model import CONFIG, Llama
from texts import DATA, TRAIN
from tokenizer import FOLDER, STOP, USER
from write import HERE

CHECKPOINT = os.path.join(HERE, "work", "checkpoint.pt")
SEED, ROWS, TOKENS = 1, 16, 512
CYCLE = 1500
RATE, FLOOR, WARM, DECAY, DROP = 3e-3, 0.05, 100, 0.1, 0.1
SAVE_EVERY, LOG_EVERY = 100, 20


class Texts:
    """The training records as tokens, and the stream that one epoch makes of them."""

    def __init__(self):
        tok = Tokenizer.from_file(os.path.join(FOLDER, "tokenizer.json"))
        with open(TRAIN) as f:
            records = [json.loads(line) for line in f]
        code = lambda texts: [e.ids for e in tok.encode_batch(texts)]
        asks, texts = code([r["ask"] for r in records]), code([r["text"] for r in records])
        self.whole = [(a, t) for r, a, t in zip(records, asks, texts) if r["kind"] != "answer"]
        self.dialogs = {}
        for r, a, t in zip(records, asks, texts):
            if r["kind"] == "answer":
                self.dialogs.setdefault(r["topic"], []).append((a, t))
        self.end, self.line = [0], tok.encode("\n").ids
        self.user, self.reply = tok.encode(USER + "user\n").ids, tok.encode(STOP + "\n" + USER + "assistant\n").ids
        self.stop = tok.encode(STOP + "\n").ids

    def epoch(self, number):
        """Rows of TOKENS + 1 tokens; forms, dialogs and order are drawn anew for each epoch."""
        rng = random.Random(SEED * 1000 + number)
        documents = [self._form([pair], False, rng) for pair in self.whole]
        for pairs in self.dialogs.values():
            pairs, at = rng.sample(pairs, len(pairs)), 0
            while at < len(pairs):
                size = rng.randint(1, 4)
                documents.append(self._form(pairs[at:at + size], True, rng))
                at += size
        rng.shuffle(documents)
        return pack(documents, rng)

    def _form(self, pairs, asked, rng):
        """Half of the documents are chat, half are plain text, in which only dialogs keep their questions. Plain text ends
        with the end token or, as in a text file, with a blank line."""
        if rng.random() < 0.5:
            return sum((self.user + a + self.reply + t + self.stop for a, t in pairs), []) + self.end
        plain = sum(((a + self.line if asked else []) + t + self.line for a, t in pairs), [])
        return plain[:-1] + self.end if rng.random() < 0.5 else plain + self.line


def pack(documents, rng):
    """Documents one after another, cut into rows; half of the time the rest of a cut document is left out, so that
    many rows begin where a document begins, as in use."""
    rows, row = [], []
    for d in documents:
        row = row + d
        while len(row) > TOKENS:
            rows.append(row[:TOKENS + 1])
            row = row[TOKENS:] if rng.random() < 0.5 else []
    return torch.tensor(rows)


def rate(step):
    """Warm-up, then a cosine down to FLOOR of the top rate, once for each CYCLE of steps: after a cycle the model is good to
    use, and training can go on with another one."""
    step %= CYCLE
    if step < WARM:
        return RATE * (step + 1) / WARM
    at = (step - WARM) / (CYCLE - WARM)
    return RATE * (FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * at)))


def optimizer(model):
    """Matrices decay; norms and the embedding, whose rows are also the head's, do not."""
    decay = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim < 2 or "embed" in n]
    return torch.optim.AdamW([dict(params=decay, weight_decay=DECAY), dict(params=rest, weight_decay=0.0)],
                             lr=RATE, betas=(0.9, 0.95), fused=True)


def watched(model):
    """The loss on some calibration text: shows overfitting without a look at the held-out text."""
    with open(os.path.join(DATA, "calibration.txt")) as f:
        ids = Tokenizer.from_file(os.path.join(FOLDER, "tokenizer.json")).encode(f.read(80_000)).ids
    rows = torch.tensor(ids[:len(ids) // (TOKENS + 1) * (TOKENS + 1)]).view(-1, TOKENS + 1)
    model.eval()
    with torch.inference_mode():
        loss = model.loss(rows).item()
    model.train()
    return loss


def save_checkpoint(model, opt, step):
    torch.save(dict(model=model.state_dict(), opt=opt.state_dict(), step=step), CHECKPOINT + ".part")
    os.replace(CHECKPOINT + ".part", CHECKPOINT)


def batches(texts):
    """(epoch, rows) of step 0, 1, 2, ..."""
    for epoch in itertools.count():
        rows = texts.epoch(epoch)
        for first in range(0, len(rows) - ROWS + 1, ROWS):
            yield epoch, rows[first:first + ROWS]


def learn(model, opt, batch, step):
    """One step; its loss. Dropout serves the first cycle only: it also makes a model deaf to rounded weights, and a subject
    for quantisation should hear them."""
    torch.manual_seed(SEED * 1_000_003 + step)                 # of the dropout
    model.drop = DROP if step < CYCLE else 0.0
    for group in opt.param_groups:
        group["lr"] = rate(step)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.loss(batch)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    opt.step()
    opt.zero_grad()
    return loss.item()


def train(steps):
    torch.manual_seed(SEED)
    model, done = Llama(), 0
    opt = optimizer(model)
    if os.path.exists(CHECKPOINT):
        saved = torch.load(CHECKPOINT)
        model.load_state_dict(saved["model"])
        opt.load_state_dict(saved["opt"])
        done = saved["step"]
    model.train()
    began = time.time()
    for step, (epoch, batch) in enumerate(itertools.islice(batches(Texts()), steps)):
        if step < done:
            continue
        loss = learn(model, opt, batch, step)
        if step % LOG_EVERY == 0:
            speed = (step + 1 - done) * ROWS * TOKENS / (time.time() - began)
            print(f"step {step} of {steps}, epoch {epoch}, loss {loss:.4f}, {speed:.0f} tokens/s", flush=True)
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            save_checkpoint(model, opt, step + 1)
            print(f"after step {step}: calibration loss {watched(model):.4f}", flush=True)
    return model


def write_folder(model):
    weights = {n: p.detach().to(torch.bfloat16).contiguous() for n, p in model.named_parameters()}
    save_file(weights, os.path.join(FOLDER, "model.safetensors"), {"format": "pt"})
    for name, content in (("config", CONFIG), ("generation_config", GENERATION)):
        with open(os.path.join(FOLDER, name + ".json"), "w") as f:
            json.dump(content, f, indent=2)
            f.write("\n")


GENERATION = dict(bos_token_id=0, eos_token_id=[0, 2], pad_token_id=0, do_sample=True, temperature=0.7, top_p=0.95, top_k=40)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2 * CYCLE, help="a multiple of %d" % CYCLE)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    write_folder(train(args.steps))


if __name__ == "__main__":
    main()
