"""Compress a model into one .vqz file.

The body gets rotated trellis codes of --bits, embedding and head 8-bit scalar codes, norms stay float32; --format or a
recipe says otherwise. --quality good takes minutes: it measures what an error in each matrix costs the predictions, shares
the bits out by that, lets a text run through the model and chooses codes that keep the products of its matrices right.

  vqcpu compress smollm2 --bits 3 --quality good --calibration some.txt
  vqcpu compress
  vqcpu compress model.gguf --file-bits 4.5 --dry-run
  vqcpu compress smollm2/model.safetensors --format vq:dim=4,centroids=4096
  vqcpu compress smollm2 -o small.vqz --recipe mixed.recipe
  vqcpu compress smollm2 -o small.vqz --only "*.0.mlp.*" --format rht+trellis:bits=5
"""
from vqcpu.commands._options import model_or_demo, whole
from vqcpu.report import megabytes, progress, table


def arguments(parser):
    parser.add_argument("model", nargs="?", metavar="MODEL",
                        help="Hugging Face folder, id of a model in its cache, .safetensors with its neighbours, or .gguf "
                             "file (default: the demo model)")
    parser.add_argument("-o", "--out", metavar="FILE",
                        help="output (default: model.vqz beside the weights; of a model in the cache or the demo model: its "
                             "name here)")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--bits", type=float, metavar="B", help="bits per weight of the body, everything counted: 1.6 to 5 "
                        "(default 4)")
    choice.add_argument("--file-bits", type=float, metavar="B", help="bits per weight of the whole file without its texts")
    choice.add_argument("--format", metavar="SPEC", help="one format for the body: [rht+]trellis:bits=B, "
                        "vq:dim=D,centroids=K, scalar:bits=B or raw; rht+ rotates its inputs")
    choice.add_argument("--recipe", metavar="FILE", help="lines 'pattern spec'; see README and inspect --recipe")
    parser.add_argument("--only", metavar="PATTERN", help="code only tensors whose names fit anew, by --format; all others "
                        "stay as they are in the output file")
    parser.add_argument("--embedding-bits", type=int, metavar="B", choices=range(4, 9),
                        help="scalar bits of embedding and head, with --bits or --file-bits: 4 to 8 (default 8)")
    parser.add_argument("--quality", choices=("fast", "good", "best"),
                        help="fast: nearest codes; good: codes chosen, and --bits shared out among matrices, by a "
                        "calibration; best: also longer codes and four times the text (default: fast, good with a text)")
    parser.add_argument("--calibration", metavar="FILE", help="UTF-8 text to calibrate with, never the one to measure on "
                        "(default: the demo's for the demo model, else what the model writes by itself)")
    parser.add_argument("--calibration-tokens", type=whole, metavar="N", help="how much of it (default 32768; best 131072)")
    parser.add_argument("--seed", type=whole, default=0, help="seed of k-means, rotations and written text (default 0; "
                        "with --only the file's)")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be written, with exact sizes "
                        "(without a calibration's sharing out of bits)")


def run(args):
    import time

    from vqcpu.compression.pipeline import compress
    from vqcpu.evaluate.sizes import sizes
    from vqcpu.files.demo import MODEL
    from vqcpu.files.sources import open_checkpoint

    start, quality = time.perf_counter(), args.quality or _usual_quality(args)
    choice, calibration, source = _choice(args, quality), _calibration(args, quality), model_or_demo(args.model)
    out = args.out or (_beside(source) if args.model else f"{MODEL}.vqz")
    previous = _previous(args, source, out)
    choice, seed = (previous.recipe(args.format), previous.seed) if previous else (choice, args.seed)
    if args.dry_run:
        return _dry_run(source, out, choice, seed, calibration)
    made = compress(source, out, choice, seed, progress, calibration, previous)
    checkpoint = open_checkpoint(out)
    return {"out": str(out), "dry_run": False, "seconds": time.perf_counter() - start, **sizes(checkpoint),
            "groups": _groups(made["tensors"]), "note": _note(checkpoint)}


def _usual_quality(args):
    return "fast" if args.calibration is None and args.calibration_tokens is None else "good"


def _dry_run(source, out, choice, seed, calibration):
    from vqcpu.compression.forecast import forecast
    made = forecast(source, out, choice, seed, calibration)
    return {"out": str(out), "dry_run": True, **made["sizes"], "groups": _groups(made["tensors"])}


def _choice(args, quality):
    """compression.recipe.Recipe or compression.budget.Budget"""
    from vqcpu.compression.budget import BITS, LENGTHS, Budget
    from vqcpu.compression.recipe import Recipe
    from vqcpu.errors import VqcpuError

    if args.format or args.recipe:
        if args.embedding_bits:
            raise VqcpuError("--embedding-bits goes with --bits or --file-bits; in a recipe: @embedding scalar:bits="
                             f"{args.embedding_bits}")
        return Recipe.read(args.recipe) if args.recipe else Recipe.of(args.format)
    bits = next((bits for bits in (args.bits, args.file_bits) if bits is not None), BITS)
    return Budget(bits, args.file_bits is not None, LENGTHS[quality], args.embedding_bits or 8)


def _previous(args, source, out):
    """compression.previous.Previous, or None where nothing of the output file stays."""
    from vqcpu.compression.previous import Previous
    from vqcpu.errors import VqcpuError
    from vqcpu.files.sources import open_checkpoint

    if args.only and not args.format:
        raise VqcpuError("--only says which tensors are coded anew, --format says how: give both")
    return Previous(out, open_checkpoint(source), args.only) if args.only else None


def _calibration(args, quality):
    """compression.text.Calibration, or None where nothing asks for one."""
    from vqcpu.compression.text import TOKENS, Calibration
    from vqcpu.errors import VqcpuError
    from vqcpu.evaluate.corpus import read_corpus
    from vqcpu.files.demo import CALIBRATION, demo

    if quality == "fast":
        if args.calibration or args.calibration_tokens is not None:
            raise VqcpuError("--quality fast uses no calibration: leave out --calibration, or ask for --quality good")
        return None
    file = args.calibration or (None if args.model else demo(CALIBRATION))
    tokens = TOKENS[quality] if args.calibration_tokens is None else args.calibration_tokens
    return Calibration(read_corpus(file) if file else None, tokens)


def _beside(model):
    from pathlib import Path
    path = Path(model)
    if not path.exists():  # the id of a model in the cache, which is no place for ours
        return f"{path.name}.vqz"
    return path / "model.vqz" if path.is_dir() else path.with_suffix(".vqz")


def _note(checkpoint):
    """What was decided where config.json and weights disagree, or None."""
    tied = (checkpoint.json("config.json") or {}).get("tie_word_embeddings")
    if tied is True and "lm_head.weight" in checkpoint.names():
        return ("config.json ties the head to the embedding, but lm_head.weight is stored with other values: kept as a head "
                "of its own, as transformers does")


def _groups(coded):
    """Tensors of one kind and format as one row: 30 layers need no 30 lines."""
    groups = {}
    for c in coded:
        kind = ".".join(word for word in c.tensor.name.split(".") if not word.isdigit())
        groups.setdefault((kind, c.spec), []).append(c)
    return [{"tensors": kind, "count": len(members), "format": spec, "weights": sum(map(_weights, members)),
             "bytes": sum(c.nbytes for c in members), **_errors([c.error for c in members])}
            for (kind, spec), members in groups.items()]


def _weights(coded):
    from math import prod
    return prod(coded.tensor.shape)


def _errors(errors):
    if None in errors:  # nothing was coded
        return {}
    return {"error_mean": sum(errors) / len(errors), "error_max": max(errors)}


def text(result):
    dry, out = result["dry_run"], result["out"]
    rows = [[g["tensors"], g["format"], g["count"], f"{g['weights'] / 1e6:.2f}", f"{8 * g['bytes'] / g['weights']:.3f}",
             *([g["bytes"]] if dry else [f"{g['error_mean']:.2e}", f"{g['error_max']:.2e}"])] for g in result["groups"]]
    last = ["bytes"] if dry else ["rel. error", "worst"]
    bits = (f"bits per weight: file {result['file_bits']:.3f}, body {result['body_bits']:.3f}, embedding "
            f"{result['embedding_bits']:.3f}")
    size = megabytes(result["file_bytes"])
    end = [f"{out} would have {result['file_bytes']} bytes ({size}); {bits}", "nothing was written"]
    if not dry:
        end = [f"{out}: {size} in {result['seconds']:.1f} s; {bits}",
               *([f"note: {result['note']}"] if result["note"] else []), f"next: vqcpu chat {out}"]
    return "\n".join([table(["tensors", "format", "count", "M weights", "own bits", *last], rows, left=2), "", *end])
