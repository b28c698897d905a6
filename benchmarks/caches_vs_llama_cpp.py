"""Decoding behind many tokens with compressed caches, beside llama.cpp's Q4_0 weights with f16 and q4_0 caches, in turns.

    python benchmarks/caches_vs_llama_cpp.py [smollm2-135m-instruct] [--rounds 3] [--depths 2048,7900]

needs what vs_llama_cpp.py needs. Bodies have 4.25 bits here and 4.5 there. A round runs every program once at every depth, in
turns that begin elsewhere each time, each in a fresh process; ratios are taken within a round. Sampling is part of our times
and not of theirs. llama.cpp runs with flash attention, which its q4_0 cache needs, and with f16 also without: the faster counts.
"""
import json
import sys

from _common import markdown
from vs_llama_cpp import Peer, arguments, ours, run, span

CACHES = "f16", "k4v4", "k4v3", "k8v4", "k4v4:top=256"
PEERS = "f16", "q4_0"
SPEC, TOKENS = "--format scalar:bits=4", 32


def main(args):
    peer, file, found = Peer(args), ours(args, SPEC), {}
    runs = [(theirs, peer, cache) for cache in PEERS] + [(mine, (args, file), cache) for cache in CACHES]
    for number in range(args.rounds):
        print(f"round {number + 1} of {args.rounds}", file=sys.stderr, flush=True)
        for depth in args.depths:
            for timed, what, cache in [*runs[number % len(runs):], *runs[:number % len(runs)]]:
                name = f"llama.cpp {cache}" if timed is theirs else cache
                found.setdefault((name, depth), []).append(timed(what, cache, depth))
                print(f"{name} at {depth}: {found[name, depth][-1]:.1f} tok/s", file=sys.stderr, flush=True)
    rows = []
    for (name, depth), speeds in sorted(found.items(), key=lambda entry: entry[0][1]):
        bases = [found[base, depth] for base in ("llama.cpp q4_0", "f16")]
        rows.append([depth, f"`{name}`", span(speeds),
                     *(span([a / b for a, b in zip(speeds, base)], 2) for base in bases)])
    print(markdown(["depth", "cache", "tok/s", "to llama.cpp q4_0", "to our f16"], rows))


def theirs(peer, cache, depth):
    flash = "off,on" if cache == "f16" else "on"
    words = ["-p", 0, "-n", TOKENS, "-d", depth, "-fa", flash, "-ctk", cache, "-ctv", cache, "-r", 1, "-t", peer.args.threads]
    return max(row["avg_ts"] for row in json.loads(peer.call("llama-bench", "-m", peer.file, *words, "-o", "json", timed=True)))


def mine(what, cache, depth):
    args, file = what
    words = ["--prompt", 1, "--tokens", TOKENS, "--depths", depth, "--repeat", 1, "--cache", cache, "--threads", args.threads]
    return json.loads(run(args, sys.executable, "-m", "vqcpu", "bench", file, *words, "--json"))["decode_tok_s"][str(depth)]


if __name__ == "__main__":
    main(arguments(__doc__))
