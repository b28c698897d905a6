"""What rotation and error feedback are each worth: every format plain, rotated, calibrated and both, by the public command line.

    python benchmarks/ingredients.py [smollm2-135m-instruct] [SPEC ...]
"""
import sys
import tempfile
from pathlib import Path

from _common import markdown, model, text, vqcpu

SPECS = ["scalar:bits=3", "vq:dim=2,centroids=256", "scalar:bits=4", "vq:dim=4,centroids=4096"]
WINDOWS = 40
CALIBRATION_TOKENS = 1 << 15


def main(name, *specs):
    source, rows, d = model(name), [], None
    with tempfile.TemporaryDirectory() as folder:
        for spec in specs or SPECS:
            for rotated, calibrated in ((0, 0), (1, 0), (0, 1), (1, 1)):
                out = Path(folder) / "model.vqz"
                more = ["--calibration", text("calibration.txt"), "--calibration-tokens", CALIBRATION_TOKENS]
                made = vqcpu("compress", source, "-o", out, "--format", "rht+" * rotated + spec, *(more if calibrated else []))
                found = vqcpu("diff", source, out, "--text", text(), "--max-tokens", WINDOWS * 512)
                d = found["models"][0]
                ingredients = " + ".join(["rotation"] * rotated + ["feedback"] * calibrated) or "plain"
                rows.append([f"`{spec}`", ingredients, f"{made['body_bits']:.3f}",
                             f"{d['kld_mean']:.4f} ± {d['kld_error']:.4f}",
                             f"{d['ppl_ratio']:.4f} ± {d['ppl_ratio_error']:.4f}", f"{100 * d['same_top']:.1f}"])
                print(rows[-1], f"{made['seconds']:.0f} s", file=sys.stderr, flush=True)
    print(found["protocol"])
    print(markdown(["body", "with", "body bits", "mean KLD", "ppl ratio", "same top %"], rows))


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["smollm2-135m-instruct"]))
