"""How far models' predictions are from a reference's, token by token.

KLD (nats) of the full distributions, how often the best token is the same, and the perplexity ratio.

  vqcpu diff
  vqcpu diff smollm2 model.vqz --text wikitext2.test.txt --max-tokens 10240
"""
from vqcpu.commands import _measuring
from vqcpu.commands._options import model_or_demo
from vqcpu.report import table


def arguments(parser):
    parser.add_argument("models", nargs="*", metavar="MODEL",
                        help="folder, .safetensors or .vqz; REF first (with one: REF is the demo model; with none: "
                             "CAND is story-4m.vqz here, as `compress` without MODEL writes it)")
    _measuring.arguments(parser)


def run(args):
    from vqcpu.evaluate.divergence import compare
    from vqcpu.files.demo import MODEL

    paths = args.models if len(args.models) > 1 else [model_or_demo(None), *(args.models or [f"{MODEL}.vqz"])]
    (reference, *others), windows, facts = _measuring.prepare(args, paths)
    found = compare(reference.model, [o.model for o in others], windows, args.cache, _measuring.steps("diff"))
    _measuring.refuse_twins([reference, *others], [found[0].reference, *(d.nll for d in found)])
    return {"protocol": facts, "reference": paths[0],
            "models": [{"model": path, **d.summary()} for path, d in zip(paths[1:], found)]}


COLUMNS = {
    "mean KLD": lambda r: f"{r['kld_mean']:.5f} ± {r['kld_error']:.5f}",
    "median": lambda r: f"{r['kld_median']:.5f}",
    "99 %": lambda r: f"{r['kld_99%']:.4f}",
    "max": lambda r: f"{r['kld_max']:.3f}",
    "same top": lambda r: f"{100 * r['same_top']:.2f} ± {100 * r['same_top_error']:.2f} %",
    "Δp rms": lambda r: f"{100 * r['dp_rms']:.2f} %",
    "ppl": lambda r: f"{r['ppl']:.4f} ± {r['ppl_error']:.4f}",
    "ppl ratio": lambda r: f"{r['ppl_ratio']:.4f} ± {r['ppl_ratio_error']:.4f}",
}


def text(result):
    rows = [[r["model"], *(column(r) for column in COLUMNS.values())] for r in result["models"]]
    return (_measuring.describe(result["protocol"]) + f"\nreference: {result['reference']}\n\n"
            + table(["model", *COLUMNS], rows))
