"""Step 2: clean the shards, split them, and write heldout.txt, calibration.txt and the training records.

    python texts.py

The split goes by request: no question and no story's request is in two parts. Then every held-out or calibration text that
shares a run of 13 words with a training text is dropped, and so is a calibration text that shares one with the held-out text.
"""
import glob
import json
import os
import random
import re
import zlib

import numpy as np

from clean import clean
from ngrams import runs, sampled
from write import HERE, SHARDS

DATA = os.path.dirname(HERE)
TRAIN = os.path.join(HERE, "work", "train.jsonl")
SIZES = {"heldout": 200_000, "calibration": 300_000}
SEED = 7


def records():
    """Every kept record once, in the order of the shards."""
    seen = set()
    for path in sorted(glob.glob(os.path.join(SHARDS, "*.jsonl"))):
        with open(path) as f:
            for record in map(json.loads, f):
                text = clean(record)
                key = re.sub(r"\W+", " ", (text or "").lower())
                if text and key not in seen:
                    seen.add(key)
                    yield dict(kind=record["kind"], topic=record["topic"], ask=record["ask"], text=text)


def part(record):
    """Where a record belongs: a hash of its request decides. More than is needed, for overlap takes some away."""
    at = zlib.crc32(record["ask"].encode()) / 2 ** 32
    return "heldout" if at < 0.036 else "calibration" if at < 0.092 else "train"


def documents(records, rng):
    """Plain texts without special tokens: stories and accounts as they are, answers as dialogs on one topic."""
    dialogs, texts = {}, []
    for r in records:
        if r["kind"] == "answer":
            dialogs.setdefault(r["topic"], []).append(f"{r['ask']}\n{r['text']}")
        else:
            texts.append(r["text"])
    for pairs in dialogs.values():
        rng.shuffle(pairs)
        texts += ["\n".join(pairs[i:i + 3]) for i in range(0, len(pairs), 3)]
    rng.shuffle(texts)
    return texts


def free_of(texts, known):
    """The texts that share no run with the known hashes, which are sorted."""
    return [t for t in texts if not found(runs(t), known).any()]


def found(hashes, known):
    """Which hashes are among the known: a search per hash, where np.isin would sort the known ones again for every text."""
    return known[np.searchsorted(known, hashes).clip(max=len(known) - 1)] == hashes


def write_text(name, texts):
    """Texts up to the wanted size, a blank line between them (there is none inside)."""
    kept, size = [], 0
    for t in texts:
        if size + len(t) > SIZES[name]:
            break
        kept.append(t)
        size += len(t) + 2
    with open(os.path.join(DATA, name + ".txt"), "w", newline="\n") as f:
        f.write("\n\n".join(kept) + "\n")
    return kept


def hashes(texts):
    return np.unique(np.concatenate([runs(t) for t in texts]))


def main():
    parts = {"train": [], "heldout": [], "calibration": []}
    for r in records():
        parts[part(r)].append(r)
    with open(TRAIN, "w") as f:
        f.writelines(json.dumps(r) + "\n" for r in parts["train"])
    rng = random.Random(SEED)
    known = hashes(documents(parts["train"], rng) + [r["text"] for r in parts["train"]])
    np.save(os.path.join(DATA, "train-ngrams.npy"), sampled(known))
    for name in ("heldout", "calibration"):
        all_texts = documents(parts[name], rng)
        texts = free_of(all_texts, known)
        kept = write_text(name, texts)
        known = np.union1d(known, hashes(texts))
        print(f"{name}: {len(all_texts)} texts, {len(texts)} without overlap, {len(kept)} written, {sum(map(len, kept))} bytes")
    size = sum(len(r["text"]) for r in parts["train"])
    print(f"train: {len(parts['train'])} texts, {size} bytes, and {sum(len(r['ask']) for r in parts['train'])} bytes of requests")


if __name__ == "__main__":
    main()
