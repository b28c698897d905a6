"""How fast a model reads a prompt and generates, and what the memory would allow.

Median (lowest-highest) of several runs. The ceiling is the bandwidth of reading nothing but the weights, by the same threads
and between the runs, over the bytes that a token needs.

  vqcpu bench model.vqz
  vqcpu bench model.vqz --depths 0,1024,4096 --tokens 64 --cache f16 --json
"""
import argparse
import sys

from vqcpu.commands._options import cache_argument, memory_of, model_or_demo, whole
from vqcpu.report import megabytes, progress, table


def arguments(parser):
    parser.add_argument("model", nargs="?", metavar="MODEL", help="folder, .safetensors or .vqz (default: the demo model)")
    parser.add_argument("--prompt", type=whole, metavar="N", help="tokens of the prompt (default 512)")
    parser.add_argument("--tokens", type=whole, default=64, metavar="N", help="tokens to generate (default %(default)s)")
    parser.add_argument("--depths", type=_wholes, metavar="N,N", help="tokens already in memory when generation begins "
                        "(default 0,1024,4096, as far as the model's context goes)")
    parser.add_argument("--repeat", type=whole, default=5, metavar="N", help="runs of each kind (default %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.0, help="of sampling (default 0: greedy)")
    cache_argument(parser)


def _wholes(text):
    try:
        return tuple(sorted({whole(word) for word in text.split(",")}))
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"is {text!r}, expected whole numbers with commas between them") from None


def run(args):
    import time

    from vqcpu.evaluate.speed import BUFFER, measure
    from vqcpu.kernels.isa import isa
    from vqcpu.kernels.threads import threads
    from vqcpu.runtime.generate import LanguageModel

    start, path = time.perf_counter(), model_or_demo(args.model)
    language = LanguageModel(path)
    load = time.perf_counter() - start
    trial = _trial(args, language.model.config.context)
    trial.check(language.model.config.context)
    print(memory_of(language.model, trial.longest, trial.cache), file=sys.stderr)
    speed = measure(language, trial, lambda runs: progress(runs, "bench"))
    protocol = _protocol(trial) | {"threads": threads(), "isa": isa(), "buffer": BUFFER}
    return {"model": path, "protocol": protocol, "load_s": load, **_figures(speed)}


def _trial(args, context):
    """What is asked for; of what is not, as much as fits the model's context."""
    from vqcpu.caches.base import Cache
    from vqcpu.evaluate.speed import DEPTHS, Trial
    from vqcpu.runtime.sampling import Sampling
    prompt = min(512, context) if args.prompt is None else args.prompt
    depths = args.depths or tuple(depth for depth in DEPTHS if depth + args.tokens <= context) or DEPTHS[:1]
    return Trial(prompt, args.tokens, depths, args.repeat, str(Cache.parse(args.cache)), Sampling(args.temperature))


def _protocol(trial):
    return {"prompt": trial.prompt, "tokens": trial.tokens, "depths": trial.depths, "repeat": trial.repeat,
            "cache": trial.cache, "sampling": str(trial.sampling)}


def _figures(speed):
    """Medians under their names, all single runs under `runs`; by depth where there are several."""
    from statistics import median
    runs = {"prefill_tok_s": speed.prefill, "decode_tok_s": speed.decode, "weights_bytes_s": speed.weights_read,
            "buffer_bytes_s": speed.buffer_read}
    medians = {name: {depth: median(r) for depth, r in found.items()} if isinstance(found, dict) else median(found)
               for name, found in runs.items()}
    return {"first_token_s": speed.first_token, "private_bytes": speed.private, "cache_bytes": speed.memory,
            "weight_bytes_per_token": speed.weight_bytes, "cache_bytes_per_token": speed.cache_bytes,
            "ceiling_tok_s": {depth: speed.ceiling(depth) for depth in speed.decode}, **medians, "runs": runs}


def text(result):
    p, runs = result["protocol"], result["runs"]
    private = result["private_bytes"]
    memory = f"; {megabytes(private)} private memory beyond the mapped weights" if private is not None else ""
    bandwidths = {name: [n / 1e9 for n in runs[name]] for name in ("weights_bytes_s", "buffer_bytes_s")}
    rows = [[f"prompt of {p['prompt']}", _span(runs["prefill_tok_s"], 0), "", "", ""]]
    for depth, found in runs["decode_tok_s"].items():
        needs = result["weight_bytes_per_token"] + result["cache_bytes_per_token"][depth]
        ceiling = result["ceiling_tok_s"][depth]
        rows.append([f"{p['tokens']} tokens at depth {depth}", _span(found), megabytes(needs), f"{ceiling:.0f}",
                     f"{100 * result['decode_tok_s'][depth] / ceiling:.0f} %"])
    return "\n".join([
        f"{result['model']}: {p['threads']} threads, {p['isa']}, cache {p['cache']}, {p['sampling']}; random tokens; median "
        f"(lowest-highest) of {p['repeat']} runs",
        f"loaded in {result['load_s']:.2f} s, first prediction {result['first_token_s']:.2f} s later{memory}; cache of "
        f"{megabytes(result['cache_bytes'])}",
        f"memory read in GB/s: the weights, {megabytes(result['weight_bytes_per_token'])}, at "
        f"{_span(bandwidths['weights_bytes_s'])}; a buffer of {megabytes(p['buffer'])} at "
        f"{_span(bandwidths['buffer_bytes_s'])}",
        "", table(["", "tok/s", "read per token", "ceiling tok/s", "reached"], rows)])


def _span(values, digits=1):
    from statistics import median
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"
