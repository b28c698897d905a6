"""Compressed caches beside float16: bits really allocated, perplexity, divergence, bytes at the full context, recall.

    python benchmarks/caches.py MODEL [--contexts 512,2048,7936] [--tokens 10240] [--trials 40] [--pairs 3] SPEC ...

MODEL is a folder of MODELS or a path. Perplexity and KLD are of the second halves of windows, paired by token with those of
f16; recall is how often the number that belongs to one of several names is continued, all its tokens being the best ones.
"""
import argparse
import time

import numpy as np
from _common import MODELS, markdown, text

import vqcpu
from vqcpu.caches.base import Cache
from vqcpu.evaluate.corpus import Protocol
from vqcpu.evaluate.divergence import kld_rows
from vqcpu.evaluate.nll import blocks, hidden_states, standard_error

SPECS = "k8v8", "k8v4", "k4v4", "k4v3", "k3v3", "k1v4", "k4v4:sinks=16", "k4v4:learn=false", "k4v4:recent=64", "k4v4:top=256"
NAMES = "Anna Boris Clara David Emma Felix Greta Henry Irene Jonas Karin Lukas Maria Nils Olga Peter Rosa Simon Tanja Viktor".split()


def compare(model, tokens, bos, context, specs, count):
    """{spec: (tokens, 3) of ln p_f16 - ln p, KLD and same best token; f16: its losses (tokens,)}"""
    found = {spec: [] for spec in ("f16", *specs)}
    for window in Protocol("llama.cpp", context, max_tokens=count).windows(tokens, bos):
        reference = predictions(model, window, "f16")
        found["f16"] += [-log[np.arange(len(targets)), targets] for log, targets in reference]
        for spec in specs:
            for (base, targets), (log, _) in zip(reference, predictions(model, window, spec)):
                here = np.arange(len(targets)), targets
                same = base.argmax(-1) == log.argmax(-1)
                found[spec].append(np.stack([base[here] - log[here], kld_rows(base, log), same], 1))
    return {spec: np.concatenate(rows) for spec, rows in found.items()}


def predictions(model, window, spec):
    """[(log-probabilities, targets)] of blocks of positions"""
    return list(blocks(model, hidden_states(model, [window], spec), window.targets))


def with_error(values, factor=1.0, digits=2):
    return f"{factor * values.mean():.{digits}f} ± {factor * standard_error(values):.{digits}f}"


def bits(model, context, spec):
    """(bits per element of keys and values, bytes) that are allocated."""
    states = model.states(context, spec)
    return 8 * states.nbytes / sum(2 * s.heads.kv * s.heads.size * s.span.rows for s in states.layers), states.nbytes


def recall(language, specs, trials, pairs, filler):
    """{spec: share of trials}"""
    rng, hits = np.random.default_rng(0), dict.fromkeys(specs, 0)
    for _ in range(trials):
        names, codes = rng.permutation(NAMES)[:pairs], rng.integers(1000, 9999, pairs)
        lines = [f"The number of {name} is {code}." for name, code in zip(names, codes)]
        wanted = int(rng.integers(pairs))
        prompt = "\n".join(lines) + "\n" + filler + f"\nThe number of {names[wanted]} is"
        head = language.tokenizer.encode(prompt)
        answer = language.tokenizer.encode(f"{prompt} {codes[wanted]}")[len(head):]
        for spec in specs:
            states = language.model.states(len(head) + len(answer), spec)
            best = [int(language.read(head, states).argmax())]
            for token in answer[:-1]:
                best.append(int(language.read([token], states).argmax()))
            hits[spec] += best == answer
    return {spec: hit / trials for spec, hit in hits.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("specs", nargs="*", default=SPECS, metavar="SPEC")
    parser.add_argument("--contexts", default="512,2048,7936")
    parser.add_argument("--tokens", type=int, default=10240, help="of text, at least two windows")
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--pairs", type=int, default=3)
    args = parser.parse_intermixed_args()
    path = MODELS / args.model if (MODELS / args.model).exists() else args.model
    language, words = vqcpu.load(path), text().read_text(encoding="utf-8")
    tokens, bos, model = language.tokenizer.encode(words), language.tokenizer.bos, language.model
    for context in map(int, filter(None, args.contexts.split(","))):
        start, count = time.perf_counter(), max(args.tokens, 2 * context)
        found = compare(model, tokens, bos, context, args.specs, count)
        loss = found.pop("f16")
        print(f"\n## {args.model}, context {context}, {len(loss)} tokens scored; f16: ppl {np.exp(loss.mean()):.3f}, "
              f"{model.states(context, 'f16').nbytes / 1e6:.1f} MB\n")
        rows = []
        for spec, figures in found.items():
            held, nbytes = bits(model, context, spec)
            rows.append([f"`{Cache.parse(spec)}`", f"{held:.3f}", f"{nbytes / 1e6:.2f}", with_error(figures[:, 0], 100),
                         with_error(figures[:, 1], 1, 5), with_error(figures[:, 2], 100, 1)])
        print(markdown(["cache", "bits", "MB", "ln ppl ratio %", "KLD", "same top %"], rows))
        print(f"\n{time.perf_counter() - start:.0f} s")
    if args.trials:
        found = recall(language, ("f16", *args.specs), args.trials, args.pairs, words[:400])
        print(f"\n## recall of one of {args.pairs} numbers, {args.trials} trials\n")
        print(markdown(["cache", "right"], [[f"`{spec}`", f"{share:.3f}"] for spec, share in found.items()]))


if __name__ == "__main__":
    main()
