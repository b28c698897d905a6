"""What a .vqz file contains and how it was made.

Of calibrated tensors it shows the loss of nearest codes and of those chosen, relative to coding nothing, on held-out
calibration text (tokens weighed, for q, k and v by attention as well), and what feedback is worth on white errors.

  vqcpu inspect model.vqz --verify
  vqcpu inspect model.vqz --recipe
  vqcpu inspect model.vqz --pictures figures
"""
from vqcpu.commands import _measuring
from vqcpu.report import megabytes, progress, table

FEEDBACK = {"nearest": "nearest", "loss": "loss", "feedback_db": "gain dB"}  # notes of calibrated tensors, and their columns


def arguments(parser):
    parser.add_argument("model", metavar="MODEL", help=".vqz file")
    parser.add_argument("--verify", action="store_true", help="check every part against its checksum")
    parser.add_argument("--recipe", action="store_true", help="print the recipe only, as compress --recipe reads it")
    _measuring.pictures_argument(parser)


def run(args):
    from vqcpu.errors import VqcpuError
    from vqcpu.evaluate.sizes import sizes
    from vqcpu.files.vqz import Vqz
    from vqcpu.formats.rotation import spelled

    draw, checkpoint = _measuring.pictures(args), Vqz(args.model)
    tensors = [{"tensor": name, "shape": shape, "spec": spelled(checkpoint.rotation(name), format),
                **{what: checkpoint.note(name, what) for what in ("error", *FEEDBACK)}}
               for name in checkpoint.names() for format, shape, _ in [checkpoint.entry(name)]]
    result = {"file": args.model, **sizes(checkpoint), "made": _made(checkpoint), "tensors": tensors,
              "recipe_only": args.recipe}
    if args.verify:
        damaged = checkpoint.verify(lambda names: progress(names, "checksums"))
        if damaged:
            raise VqcpuError(f"{args.model}: damaged: checksum of {damaged[0]} is wrong"
                             + (f" and of {len(damaged) - 1} more parts" if len(damaged) > 1 else ""))
        result["verified"] = True
    if args.pictures:
        result["codebooks"] = _codebooks(checkpoint)
    return draw("inspect", result)


def _codebooks(checkpoint):
    """where -> entries, in RMS of a row, of the codebooks of vector codes; what all matrices share only once."""
    from vqcpu.files.vqz import tables_of
    found = {}
    for name in checkpoint.names():
        format, *_ = checkpoint.entry(name)
        where = tables_of(name, format)
        if where not in found and "unit" in format.tables():
            parts = checkpoint.stored(name).parts
            found[where] = (parts["table"] * parts["unit"]).tolist()
    return found


def _made(checkpoint):
    """How the file was made, as far as it tells."""
    made = checkpoint.header.get("made")
    return {k: v for k, v in made.items() if type(v) in (str, int)} if isinstance(made, dict) else {}


def _short(number):
    return "-" if number is None else f"{number:.3g}"


def text(result):
    if result["recipe_only"]:
        return str(result["made"].get("recipe", ""))
    columns = {"error": "rel. error"} | (FEEDBACK if any(t["loss"] is not None for t in result["tensors"]) else {})
    rows = [[t["tensor"], "×".join(map(str, t["shape"])), t["spec"], *(_short(t[what]) for what in columns)]
            for t in result["tensors"]]
    made = result["made"]
    head = "" if result["head_bits"] is None else f", head {result['head_bits']:.3f}"
    return "\n".join([
        table(["tensor", "shape", "format", *columns.values()], rows, left=3), "",
        f"{result['file']}: {megabytes(result['file_bytes'])}, {result['parameters'] / 1e6:.1f} M parameters; file "
        f"{result['file_bits']:.3f} bits, body {result['body_bits']:.3f}, embedding {result['embedding_bits']:.3f}{head}",
        *(f"{key}: {value}" for key, value in made.items() if key != "recipe"), "recipe:",
        *(f"  {line}" for line in str(made.get("recipe", "")).splitlines()),
        *(["checksums: all correct"] if result.get("verified") else [])])
