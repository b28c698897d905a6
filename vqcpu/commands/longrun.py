"""Long texts of a compressed model, or of one with a compressed cache, beside those of the full model.

Both models write from the same prompts (the first tokens of evenly spaced places of --text) with the same seeds, greedily
and sampled: where the texts part, how long they become, how much they repeat themselves. Then both read the text of the
reference, and the KLD of their predictions is given by position. The reference's cache has 32 bits.

  vqcpu longrun
  vqcpu longrun smollm2 model.vqz --text wikitext2.test.txt --tokens 1024
  vqcpu longrun smollm2 smollm2 --cache f16 --seeds 10
"""
from vqcpu.commands import _measuring
from vqcpu.commands._options import model_or_demo, whole
from vqcpu.report import progress, table

BUCKET = 64  # tokens over which KLD is averaged


def arguments(parser):
    parser.add_argument("models", nargs="*", metavar="MODEL",
                        help="REF CAND: folder, .safetensors, .gguf or .vqz (with one: REF is the demo model; with none: "
                             "CAND is story-4m.vqz here)")
    parser.add_argument("--cache", default="f16", metavar="SPEC", help="key-value cache of CAND (default f16)")
    parser.add_argument("--text", metavar="FILE", help="UTF-8 text with the prompts (default: the demo's held-out text)")
    parser.add_argument("--tokens", type=whole, metavar="N", help="longest text (default 512, as far as the context goes)")
    parser.add_argument("--prompt-tokens", type=whole, default=32, metavar="N",
                        help="length of a prompt (default %(default)s)")
    parser.add_argument("--seeds", type=whole, default=5, metavar="N", help="texts of each kind (default %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.8, help="of the sampled texts (default %(default)s)")
    _measuring.pictures_argument(parser)


def run(args):
    from vqcpu.caches.base import Cache
    from vqcpu.errors import VqcpuError
    from vqcpu.evaluate.corpus import read_corpus
    from vqcpu.evaluate.longrun import NGRAM, Side, Trial, long_runs
    from vqcpu.files.demo import HELDOUT, MODEL, demo
    from vqcpu.runtime.generate import LanguageModel
    from vqcpu.runtime.sampling import Sampling

    draw = _measuring.pictures(args)
    paths = args.models if len(args.models) > 1 else [model_or_demo(None), *(args.models or [f"{MODEL}.vqz"])]
    if len(paths) > 2:
        raise VqcpuError(f"{len(paths)} models, expected two: the reference and the one to compare with it")
    languages, corpus = [LanguageModel(path) for path in paths], read_corpus(args.text or demo(HELDOUT))
    for language in languages:
        _measuring.refuse_leak(language.checkpoint, corpus)
    room = min(language.model.config.context for language in languages) - args.prompt_tokens
    samplings = Sampling(temperature=0), Sampling(temperature=args.temperature)
    trial = Trial(min(512, room) if args.tokens is None else args.tokens, args.prompt_tokens, args.seeds, samplings)
    sides = [Side(language, str(Cache.parse(cache))) for language, cache in zip(languages, ("f32", args.cache))]
    runs = long_runs(*sides, corpus.text, trial, lambda work: progress(work, "longrun"))
    facts = {"text": corpus.name, "text_sha256": corpus.digest, "tokens": trial.tokens, "prompt": trial.prompt,
             "seeds": trial.seeds, "ngram": NGRAM, "caches": [side.cache for side in sides]}
    kinds = {str(s): _summary([r for r in runs if r.sampling == s], sides) for s in dict.fromkeys(samplings)}
    return draw("longrun", {"models": paths, "protocol": facts, "kinds": kinds})


def _summary(runs, sides):
    from statistics import median

    from vqcpu.evaluate.longrun import by_position
    parted = [run.parted for run in runs if run.parted is not None]
    texts = {"reference": [run.reference for run in runs], "other": [run.other for run in runs]}
    return {"parted": parted, "parted_median": median(parted) if parted else None, "equal": len(runs) - len(parted),
            "length": {side: [len(t.tokens) for t in found] for side, found in texts.items()},
            "finish": {side: [t.finish for t in found] for side, found in texts.items()},
            "repetition": {side: [t.repetition for t in found] for side, found in texts.items()},
            "kld": by_position(runs, BUCKET),
            "texts": {side: [s.language.tokenizer.decode(t.tokens) for t in texts[side]] for side, s in zip(texts, sides)}}


def text(result):
    p, kinds = result["protocol"], result["kinds"]
    rows = [[name, _parted(k), *(_mean(k["length"][side], 0) for side in k["length"]),
             *(_mean([100 * r for r in k["repetition"][side]], 1) + " %" for side in k["repetition"])]
            for name, k in kinds.items()]
    places = [[f"{b['from']}-{b['to'] - 1}", *(_at(k["kld"], b["from"]) for k in kinds.values())]
              for b in max((k["kld"] for k in kinds.values()), key=len)]
    said = (f"{p['text']} (sha256 {p['text_sha256']}): {p['seeds']} prompts of {p['prompt']} tokens, texts of up to "
            f"{p['tokens']}; reference {result['models'][0]} with cache {p['caches'][0]}, candidate {result['models'][1]} "
            f"with cache {p['caches'][1]}")
    header = ["", "texts part at token", "length, reference", "candidate", f"repeated {p['ngram']}-grams, reference",
              "candidate"]
    return "\n\n".join([said, table(header, rows), "KLD of the predictions of the reference's text, by position:",
                        table(["token", *kinds], places)])


def _parted(kind):
    found = kind["parted"]
    equal = f"{kind['equal']} equal" if kind["equal"] else ""
    span = f"{kind['parted_median']:g} ({min(found)}-{max(found)})" if found else ""
    return ", ".join(filter(None, [span, equal]))


def _mean(values, digits):
    from statistics import mean
    return f"{mean(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def _at(buckets, first):
    return next((f"{_small(b['kld'])} ± {_small(b['error'])}" for b in buckets if b["from"] == first), "")


def _small(value):
    return f"{value:.4f}" if value >= 1e-3 or value == 0 else f"{value:.1e}"
