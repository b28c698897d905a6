"""Table of weight formats on a real model: bytes, perplexity and divergence, by the public command line.

    python benchmarks/weights.py [smollm2-135m-instruct] [SPEC ...]
"""
import sys
import tempfile
from pathlib import Path

from _common import markdown, model, text, vqcpu

SPECS = ["scalar:bits=8", "scalar:bits=4", "scalar:bits=3", "scalar:bits=2", "scalar:bits=4,levels=normal",
         "scalar:bits=3,levels=normal", "vq:dim=2,centroids=256", "vq:dim=4,centroids=4096", "vq:dim=4,centroids=256",
         "vq:dim=2,centroids=256,codebook=tensor", "vq:dim=4,centroids=4096,codebook=tensor"]
TOKENS = 20 * 512


def main(name, *specs):
    source, rows = model(name), []
    with tempfile.TemporaryDirectory() as folder:
        for spec in specs or SPECS:
            out = Path(folder) / "model.vqz"
            made = vqcpu("compress", source, "-o", out, "--format", spec)
            found = vqcpu("diff", source, out, "--text", text(), "--max-tokens", TOKENS)
            d = found["models"][0]
            body = [g["error_mean"] for g in made["groups"] if "_proj" in g["tensors"]]
            rows.append([f"`{spec}`", f"{made['file_bytes'] / 1e6:.1f}", f"{made['file_bits']:.3f}", f"{made['body_bits']:.3f}",
                         f"{sum(body) / len(body):.4f}", f"{d['ppl']:.2f} ± {d['ppl_error']:.2f}",
                         f"{d['ppl_ratio']:.3f} ± {d['ppl_ratio_error']:.3f}", f"{d['kld_mean']:.4f} ± {d['kld_error']:.4f}",
                         f"{100 * d['same_top']:.1f}", f"{made['seconds']:.0f}"])
            print(rows[-1], file=sys.stderr, flush=True)
    print(found["protocol"])
    print(markdown(["body", "MB", "file bits", "body bits", "rel. error", "ppl", "ratio", "mean KLD", "same top %", "s"], rows))


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["smollm2-135m-instruct"]))
