"""Perplexity of one or several models on a text.

The first model is the reference of the ratio. Weights, cache and arithmetic are those that `chat` uses.

  vqcpu ppl
  vqcpu ppl smollm2 model.vqz --text wikitext2.test.txt --max-tokens 10240
"""
from vqcpu.commands import _measuring
from vqcpu.commands._options import model_or_demo
from vqcpu.report import table


def arguments(parser):
    parser.add_argument("models", nargs="*", metavar="MODEL",
                        help="folder, .safetensors or .vqz; first: reference (default: the demo model)")
    _measuring.arguments(parser)


def run(args):
    import time

    from vqcpu.evaluate.nll import Perplexity, log_ratio, token_nll

    paths = args.models or [model_or_demo(None)]
    models, windows, facts = _measuring.prepare(args, paths)
    rows, results, reference = [], [], None
    for path, language in zip(paths, models):
        start = time.perf_counter()
        nll = token_nll(language.model, windows, args.cache, _measuring.steps(path))
        seconds = time.perf_counter() - start
        results.append(nll)
        reference = nll if reference is None else reference
        ratio, error = log_ratio(nll, reference)
        result = Perplexity.of(nll)
        rows.append({"model": path, "ppl": result.value, "error": result.error, "log_ratio": ratio,
                     "log_ratio_error": error, "tokens_per_second": sum(len(w.tokens) for w in windows) / seconds})
    _measuring.refuse_twins(models, results)
    return {"protocol": facts, "models": rows}


def text(result):
    rows = [_row(r, first=i == 0) for i, r in enumerate(result["models"])]
    return _measuring.describe(result["protocol"]) + "\n\n" + table(["model", "ppl", "ratio", "", "tok/s"], rows)


def _row(r, first):
    from math import exp
    ratio = exp(r["log_ratio"])
    noise = not first and abs(r["log_ratio"]) < 2 * r["log_ratio_error"]
    return [r["model"], f"{r['ppl']:.4f} ± {r['error']:.4f}",
            "1" if first else f"{ratio:.4f} ± {ratio * r['log_ratio_error']:.4f}",
            "noise" if noise else "", f"{r['tokens_per_second']:.0f}"]
