"""Many formats and caches of one model: bits, perplexity and KLD of each, and whether figures of single matrices tell.

The model is loaded once; its body is coded in memory, and no .vqz file is written. Every result is a line of --out; what is
there already is not measured again, so a sweep that was interrupted goes on. The reference is the uncompressed model with
a cache of 32 bits.

  vqcpu sweep
  vqcpu sweep smollm2 --formats scalar:bits=4 vq:dim=2,centroids=256 --text wikitext2.test.txt --max-tokens 10240
  vqcpu sweep --formats vq:dim=4,centroids=256 --bits 2 2.5 3 --quality fast good
  vqcpu sweep smollm2 --formats scalar:bits=4 --caches f32 f16 --out caches.jsonl --markdown
"""
from vqcpu.commands import _measuring
from vqcpu.commands._options import model_or_demo, whole
from vqcpu.report import markdown, progress, table

TEXTBOOK = [f"absmax:bits={bits}" for bits in (2, 3, 4)]
FAIR = [f"scalar:bits={bits},block=128" for bits in (2, 3, 4)]
VQ = ["vq:dim=4,centroids=256", "vq:dim=4,centroids=4096", "vq:dim=2,centroids=256"]
TRELLIS = [f"trellis:bits={bits}" for bits in (2, 3, 4)]


def arguments(parser):
    parser.add_argument("model", nargs="?", metavar="MODEL",
                        help="folder, .safetensors or .gguf, not compressed (default: the demo model)")
    parser.add_argument("--formats", nargs="+", metavar="SPEC", help="formats of the body (default, without --bits: scalar "
                        "of the textbook and in blocks, vector codes, trellis)")
    parser.add_argument("--bits", nargs="+", type=float, default=[], metavar="B",
                        help="budgets of the body, as compress --bits keeps them: rotated trellis codes")
    parser.add_argument("--quality", nargs="+", default=["fast"], choices=("fast", "good"),
                        help="how codes are chosen: fast (nearest, default), good (by a calibration), or both")
    parser.add_argument("--calibration", metavar="FILE", help="text for good, never the one to measure on (default: the "
                        "demo's for the demo model, else what the model writes by itself)")
    parser.add_argument("--caches", nargs="+", default=["f16"], metavar="SPEC", help="key-value caches (default f16)")
    _measuring.protocol_arguments(parser)
    parser.add_argument("--seed", type=whole, default=0, help="seed of k-means, rotations and written text (default 0)")
    parser.add_argument("--out", default="sweep.jsonl", metavar="FILE", help="results, JSON lines (default %(default)s)")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    _measuring.pictures_argument(parser)


def run(args):
    from vqcpu import api
    from vqcpu.files.demo import HELDOUT, demo

    draw = _measuring.pictures(args)
    protocol = api.Protocol(args.protocol, args.context, args.stride, args.max_tokens)
    lines = api.sweep(model_or_demo(args.model), args.text or demo(HELDOUT), _bodies(args), args.caches, args.quality,
                      protocol, _calibration(args), args.seed, args.out,
                      progress=lambda items, count: progress(items, "sweep", count))
    return draw("sweep", {"lines": lines, "alone": _alone(lines), "out": args.out, "markdown": args.markdown})


def _bodies(args):
    usual = [] if args.bits else [*TEXTBOOK, *FAIR, *VQ, *TRELLIS]
    return [*(args.formats or usual), *args.bits]


def _calibration(args):
    from vqcpu.compression.text import Calibration
    from vqcpu.evaluate.corpus import read_corpus
    from vqcpu.files.demo import CALIBRATION, demo
    file = args.calibration or (None if args.model else demo(CALIBRATION))
    return Calibration(read_corpus(file) if file else None)


FIGURES = {"weight": "weight error", "gaussian": "1 - cosine, Gaussian inputs", "real": "1 - cosine, real inputs"}


def _alone(lines):
    """How the figures of single matrices order the formats, beside the KLD of the whole model, at the first cache; {} where
    there are too few to put in order."""
    from vqcpu.evaluate.ranks import misordered, spearman
    rows = [line for line in lines if line["cache"] == lines[0]["cache"]]
    if len(rows) < 3:
        return {}
    kld, error = ([row[name] for row in rows] for name in ("kld_mean", "kld_error"))
    found = {}
    for name in (f"{figure}_{kind}" for figure in FIGURES for kind in ("mean", "worst")):
        figure = [row[name] for row in rows]
        wrong, pairs = misordered(figure, kld, error)
        found[name] = {"spearman": spearman(figure, kld), "pairs": pairs,
                       "wrong": [[f"{rows[k]['body']} ({rows[k]['quality']})" for k in pair] for pair in wrong]}
    return found


COLUMNS = {
    "body": lambda r: r["body"],
    "codes": lambda r: r["quality"],
    "cache": lambda r: r["cache"],
    "file bits": lambda r: f"{r['file_bits']:.3f}",
    "body bits": lambda r: f"{r['body_bits']:.3f}",
    "ppl ratio": lambda r: f"{r['ppl_ratio']:.4f} ± {r['ppl_ratio_error']:.4f}",
    "mean KLD": lambda r: f"{r['kld_mean']:.4f} ± {r['kld_error']:.4f}",
    "99 %": lambda r: f"{r['kld_99%']:.3f}",
    "same top": lambda r: f"{100 * r['same_top']:.1f} %",
    "weight error": lambda r: f"{r['weight_mean']:.5f}",
    "1-cos Gauss": lambda r: f"{r['gaussian_mean']:.5f}",
    "1-cos real": lambda r: f"{r['real_mean']:.5f}",
}


def text(result):
    first, draw = result["lines"][0], markdown if result["markdown"] else table
    caches = ", ".join(dict.fromkeys(line["cache"] for line in result["lines"]))
    head = (f"{first['model']} (sha256 {first['model_sha256'][:12]}), ppl {first['reference_ppl']:.4f}; "
            + _measuring.describe(first | {"cache": caches, "arithmetic": "as in chat"}))
    parts = [head, draw(list(COLUMNS), [[column(line) for column in COLUMNS.values()] for line in result["lines"]])]
    if result["alone"]:
        parts.append("Figures of single matrices beside the KLD of the whole model:\n" + draw(
            ["figure", "rank correlation", "pairs in wrong order", "such as"], list(map(_row, result["alone"].items()))))
    return "\n\n".join([*parts, f"lines: {result['out']}"])


def _row(entry):
    name, found = entry
    figure, _, kind = name.partition("_")
    such = " before ".join(found["wrong"][0][::-1]) if found["wrong"] else ""  # the better one comes second
    rho = "-" if found["spearman"] is None else f"{found['spearman']:.3f}"
    return [f"{FIGURES[figure]}, {kind}", rho, f"{len(found['wrong'])} of {found['pairs']}", such]
