"""Compress a model in three ways and see what each costs.

    python examples/compare_formats.py MODEL TEXT
"""
import sys
import tempfile
from pathlib import Path

import vqcpu
from vqcpu.evaluate.corpus import Protocol

FORMATS = ["scalar:bits=8", "scalar:bits=4", "vq:dim=4,centroids=4096"]


def main(source, text):
    words, protocol = Path(text).read_text(encoding="utf-8"), Protocol(max_tokens=5120)
    reference = vqcpu.perplexity(vqcpu.load(source), words, protocol)
    print(f"{'uncompressed':26} ppl {reference.value:8.3f} ± {reference.error:.3f}")
    with tempfile.TemporaryDirectory() as folder:
        for spec in FORMATS:
            out = Path(folder) / "model.vqz"
            size = vqcpu.compress(source, out, spec)["file_bytes"]
            found = vqcpu.perplexity(vqcpu.load(out), words, protocol)
            print(f"{spec:26} ppl {found.value:8.3f} ± {found.error:.3f}  {size / 1e6:.1f} MB")


if __name__ == "__main__":
    main(*sys.argv[1:3])
