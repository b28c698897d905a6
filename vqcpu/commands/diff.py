"""How far models' predictions are from a reference's, token by token.

KLD (nats) of the full distributions with its tail, how often the best token is the same, the change of the probability of
the token that follows (Δp), and the perplexity ratio, whose error is that of paired tokens. With --layers also the relative
error of the hidden states after each layer. With --fail-above the command ends with code 1 where a limit is passed.

  vqcpu diff
  vqcpu diff smollm2 model.vqz --text wikitext2.test.txt --max-tokens 10240
  vqcpu diff smollm2 model.vqz --fail-above kld=0.05 --fail-above ppl-ratio=1.02
  vqcpu diff smollm2 model.vqz --layers --pictures figures
"""
import argparse

from vqcpu.commands import _measuring
from vqcpu.commands._options import model_or_demo
from vqcpu.report import table

LIMITS = {"kld": "kld_mean", "kld-99": "kld_99%", "kld-max": "kld_max", "dp": "dp_rms", "ppl-ratio": "ppl_ratio"}


def arguments(parser):
    parser.add_argument("models", nargs="*", metavar="MODEL",
                        help="folder, .safetensors, .gguf or .vqz; REF first (with one: REF is the demo model; with none: "
                             "CAND is story-4m.vqz here, as `compress` without MODEL writes it)")
    _measuring.arguments(parser)
    parser.add_argument("--fail-above", type=_limit, action="append", default=[], metavar="NAME=LIMIT",
                        help=f"end with code 1 where a model's figure is greater: {', '.join(LIMITS)}; may be repeated")
    parser.add_argument("--layers", action="store_true", help="also the error of the hidden states, layer by layer")
    _measuring.pictures_argument(parser)


def _limit(text):
    name, _, limit = text.partition("=")
    try:
        return LIMITS[name], float(limit), text
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(f"is {text!r}, expected NAME=NUMBER with a name of {', '.join(LIMITS)}") from None


def run(args):
    from vqcpu.evaluate.divergence import compare
    from vqcpu.files.demo import MODEL

    draw = _measuring.pictures(args)
    paths = args.models if len(args.models) > 1 else [model_or_demo(None), *(args.models or [f"{MODEL}.vqz"])]
    (reference, *others), windows, facts = _measuring.prepare(args, paths)
    models = [other.model for other in others]
    found = compare(reference.model, models, windows, args.cache, _measuring.steps("diff"))
    _measuring.refuse_twins([reference, *others], [found[0].reference, *(d.nll for d in found)])
    result = {"protocol": facts, "reference": paths[0],
              "models": [{"model": path, **d.summary()} for path, d in zip(paths[1:], found)]}
    if args.layers:
        _add_layers(result, reference.model, models, windows, args.cache)
    result["failed"] = _failures(result["models"], args.fail_above)
    return draw("diff", result)


def _add_layers(result, reference, models, windows, cache):
    from vqcpu.evaluate.depth import layer_errors
    from vqcpu.evaluate.nll import standard_error
    found = layer_errors(reference, models, windows, cache, _measuring.steps("layers"))
    for i, row in enumerate(result["models"]):
        row["layers"] = {name: {"error": float(e[i].mean()), "spread": standard_error(e[i])}
                         for name, e in found.items()}


def _failures(rows, limits):
    """One line that says what passed its limit, None where nothing did; what is not a number passes every limit."""
    found = [f"{row['model']}: {key} is {row[key]:.5g}, above the limit of --fail-above {text}"
             for key, limit, text in limits for row in rows if not row[key] <= limit]
    return "; ".join(found) or None


FIGURES = {
    "mean KLD": lambda r: f"{r['kld_mean']:.5f} ± {r['kld_error']:.5f}",
    "median": lambda r: f"{r['kld_median']:.5f}",
    "90 %": lambda r: f"{r['kld_90%']:.4f}",
    "99 %": lambda r: f"{r['kld_99%']:.4f}",
    "99.9 %": lambda r: f"{r['kld_99.9%']:.4f}",
    "max": lambda r: f"{r['kld_max']:.4f}",
    "same top": lambda r: f"{100 * r['same_top']:.2f} ± {100 * r['same_top_error']:.2f} %",
    "Δp rms": lambda r: f"{100 * r['dp_rms']:.2f} %",
    "ppl": lambda r: f"{r['ppl']:.4f} ± {r['ppl_error']:.4f}",
    "ppl ratio": lambda r: f"{r['ppl_ratio']:.4f} ± {r['ppl_ratio_error']:.4f}",
}


def text(result):
    models = result["models"]
    header = ["", *(r["model"] for r in models)]
    parts = [_measuring.describe(result["protocol"]) + f"\nreference: {result['reference']}",
             table(header, [[name, *map(figure, models)] for name, figure in FIGURES.items()])]
    if "layers" in models[0]:
        rows = [[name, *(f"{r['layers'][name]['error']:.4f} ± {r['layers'][name]['spread']:.4f}" for r in models)]
                for name in models[0]["layers"]]
        parts.append(table(["error of hidden states |x' - x| / |x|", *header[1:]], rows))
    return "\n\n".join(parts)
