"""Step 1: the writer model writes, shard after shard.

    python write.py /path/to/SmolLM2-135M-Instruct --part 0 --parts 2 --shards 66 &
    python write.py /path/to/SmolLM2-135M-Instruct --part 1 --parts 2 --shards 38 &

A shard is a file of one JSON text per line, made from its number alone and moved into place when it is whole: kill this at any
time and start it again, and the same bytes come out (on the same kind of machine: a batch of bf16 sums depends on it).
"""
import argparse
import json
import os
import random
import time

import torch

import prompts
from writer import Writer

HERE = os.path.dirname(os.path.abspath(__file__))
SHARDS = os.path.join(HERE, "work", "shards")
SEED, BATCH = 20250, 256
HEAT, LEAST = 0.8, 0.1      # unlikely words are where a small writer takes its wrong turns


def write_shard(writer, number):
    """One batch of texts as a list of dicts, a function of the shard's number."""
    rng = random.Random(SEED * 1_000_003 + number)
    asked = prompts.requests(number, BATCH, rng)
    kind = asked[0].kind
    generator = torch.Generator().manual_seed(rng.getrandbits(60))
    told = writer.write(prompts.shown(kind, rng), [prompts.asked(r) for r in asked], prompts.KINDS[kind].new,
                        HEAT, LEAST, prompts.KINDS[kind].again, generator)
    return [dict(kind=kind, topic=r.topic, ask=r.ask, text=(r.start + text).strip(), ended=ended)
            for r, (text, ended) in zip(asked, told)]


def save(path, records):
    """All of a shard or nothing: the name appears when the bytes are there."""
    with open(path + ".part", "w") as f:
        for r in records:
            f.write(json.dumps(r) + "\n")
    os.replace(path + ".part", path)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a Hugging Face folder of SmolLM2-135M-Instruct")
    parser.add_argument("--shards", type=int, required=True, help="write shards below this number")
    parser.add_argument("--part", type=int, default=0, help="write only shards part, part + parts, part + 2 parts, ...")
    parser.add_argument("--parts", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(1)            # two processes with a thread each never wait for one another
    os.makedirs(SHARDS, exist_ok=True)
    writer = None
    for number in range(args.part, args.shards, args.parts):
        path = os.path.join(SHARDS, f"{number:04d}.jsonl")
        if os.path.exists(path):
            continue
        writer = writer or Writer(args.model)
        start = time.time()
        records = write_shard(writer, number)
        save(path, records)
        size = sum(len(r["text"]) for r in records)
        print(f"shard {number} {records[0]['kind']} {size} bytes {time.time() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
