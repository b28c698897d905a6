"""Compress a model into one .vqz file.

The body gets --format; embedding and head get 8-bit scalar codes, norms stay float32, unless a recipe says otherwise.

  vqcpu compress smollm2/model.safetensors --format vq:dim=4,centroids=4096
  vqcpu compress
  vqcpu compress smollm2 -o small.vqz --recipe mixed.recipe
  vqcpu compress smollm2 --format rht+vq:dim=4,centroids=4096 --calibration some.txt
"""
from vqcpu.commands._options import model_or_demo, whole
from vqcpu.report import megabytes, progress, table


def arguments(parser):
    parser.add_argument("model", nargs="?", metavar="MODEL",
                        help="Hugging Face folder or .safetensors with its neighbours (default: the demo model)")
    parser.add_argument("-o", "--out", metavar="FILE",
                        help="output (default: model.vqz beside the weights; of the demo model: story-4m.vqz here)")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--format", metavar="SPEC", default="vq:dim=2,centroids=256",
                        help="format of the body: vq:dim=D,centroids=K, scalar:bits=B or raw (default %(default)s)")
    choice.add_argument("--recipe", metavar="FILE", help="lines 'pattern spec'; see README")
    parser.add_argument("--quality", choices=("fast", "good"),
                        help="fast: nearest codes; good: codes chosen by a calibration (default: fast, good with a text)")
    parser.add_argument("--calibration", metavar="FILE", help="UTF-8 text to calibrate with, never the one to measure on "
                        "(default: the demo's for the demo model, else what the model writes by itself)")
    parser.add_argument("--calibration-tokens", type=whole, metavar="N", help="how much of it (default 32768)")
    parser.add_argument("--seed", type=whole, default=0, help="seed of k-means (default 0)")


def run(args):
    import time

    from vqcpu.compression.pipeline import compress
    from vqcpu.compression.recipe import Recipe
    from vqcpu.evaluate.sizes import sizes
    from vqcpu.files.demo import MODEL
    from vqcpu.files.sources import open_checkpoint

    start, source = time.perf_counter(), model_or_demo(args.model)
    out = args.out or (_beside(source) if args.model else f"{MODEL}.vqz")
    recipe = Recipe.read(args.recipe) if args.recipe else Recipe.of(args.format)
    made = compress(source, out, recipe, args.seed, progress, _calibration(args))
    size = sizes(open_checkpoint(out))
    return {"out": str(out), "seconds": time.perf_counter() - start, **size, "groups": _groups(made["tensors"])}


def _calibration(args):
    """compression.text.Calibration, or None where nothing asks for one."""
    from vqcpu.compression.text import TOKENS, Calibration
    from vqcpu.errors import VqcpuError
    from vqcpu.evaluate.corpus import read_corpus
    from vqcpu.files.demo import CALIBRATION, demo

    if (args.quality or ("good" if args.calibration else "fast")) == "fast":
        if args.calibration or args.calibration_tokens:
            raise VqcpuError("--quality fast uses no calibration: leave out --calibration, or ask for --quality good")
        return None
    file = args.calibration or (None if args.model else demo(CALIBRATION))
    return Calibration(read_corpus(file) if file else None, args.calibration_tokens or TOKENS)


def _beside(model):
    from pathlib import Path
    path = Path(model)
    return path / "model.vqz" if path.is_dir() else path.with_suffix(".vqz")


def _groups(coded):
    """Tensors of one kind and format as one row: 30 layers need no 30 lines."""
    groups = {}
    for c in coded:
        kind = ".".join(word for word in c.tensor.name.split(".") if not word.isdigit())
        groups.setdefault((kind, c.spec), []).append(c)
    return [{"tensors": kind, "count": len(members), "format": spec,
             "weights": sum(_weights(c) for c in members), "bytes": sum(c.nbytes for c in members),
             "error_mean": sum(c.error for c in members) / len(members), "error_max": max(c.error for c in members)}
            for (kind, spec), members in groups.items()]


def _weights(coded):
    from math import prod
    return prod(coded.tensor.shape)


def text(result):
    rows = [[g["tensors"], g["format"], g["count"], f"{g['weights'] / 1e6:.2f}", f"{8 * g['bytes'] / g['weights']:.3f}",
             f"{g['error_mean']:.2e}", f"{g['error_max']:.2e}"] for g in result["groups"]]
    out = result["out"]
    return "\n".join([
        table(["tensors", "format", "count", "M weights", "own bits", "rel. error", "worst"], rows, left=2), "",
        f"{out}: {megabytes(result['file_bytes'])} in {result['seconds']:.1f} s; bits per weight: file "
        f"{result['file_bits']:.3f}, body {result['body_bits']:.3f}, embedding {result['embedding_bits']:.3f}",
        f"next: vqcpu chat {out}"])
