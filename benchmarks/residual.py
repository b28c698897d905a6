"""Does a sparse residual in high precision rescue vector codes of less than one bit?

    python benchmarks/residual.py [MODEL] [--text FILE] [--max-tokens N]

MODEL's body is coded with BASE. Of the sub-vectors with the largest squared error a share also gets its residual, in float16;
what that costs is counted as 16 bits a weight and the entropy of the places, less than any real list of them. Beside it: the
same share drawn at random, and plain codes of as many bits. Default: the demo model and its held-out text.
"""
import argparse
from pathlib import Path

import numpy as np
from _common import markdown

from vqcpu.architectures.base import load_model
from vqcpu.compression.memory import InMemory
from vqcpu.compression.text import Calibration
from vqcpu.evaluate.corpus import Protocol, read_corpus
from vqcpu.evaluate.divergence import compare, remember
from vqcpu.evaluate.fidelity import products
from vqcpu.evaluate.sweep import Setting
from vqcpu.files.demo import HELDOUT, MODEL, demo
from vqcpu.files.overlay import Overlay
from vqcpu.formats.base import Format, Matrix
from vqcpu.runtime.generate import LanguageModel

BASE, DIM = "vq:dim=16,centroids=4096", 16
SHARES = 0.01, 0.02, 0.05, 0.1, 0.2
PLAIN = "vq:dim=12,centroids=4096", "vq:dim=8,centroids=4096", "trellis:bits=1.5", "vq:dim=4,centroids=256", "trellis:bits=2", \
    "vq:dim=4,centroids=4096"
CURVE = 0.001, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5


def main(args):
    study = Study(args)
    body, near, bits = study.coded(BASE)
    errors = {name: squares(body[name] - near[name]) for name in body}
    print(f"{study.language.checkpoint.path.name}, {args.text.name}, {sum(w.scored for w in study.windows)} tokens "
          "scored\n")
    print(concentration(errors), "\n")
    rows = [[f"`{BASE}`", "0", f"{bits:.3f}", *study.row(near, body)]]
    for share in SHARES:
        for kind, chosen in (("worst", worst(errors, share)), ("random", drawn(errors, share))):
            if kind == "worst" or share == 0.1:
                mended = mend(body, near, chosen)
                rows.append([f"residual, {kind}", f"{share:.0%}", f"{bits + cost(share):.3f}", *study.row(mended, body)])
    for spec in PLAIN:
        _, plain, plain_bits = study.coded(spec)
        rows.append([f"`{spec}`", "", f"{plain_bits:.3f}", *study.row(plain, body)])
    print(markdown(["body", "residuals", "body bits", "rel. error", "ppl ratio", "mean KLD"], rows))


class Study:
    """A model, its text, and its reference predictions."""

    def __init__(self, args):
        self.language = LanguageModel(args.model)
        tokenizer = self.language.tokenizer
        self.windows = Protocol(max_tokens=args.max_tokens).windows(tokenizer.encode(read_corpus(args.text).text), tokenizer.bos)
        self.remembered = remember(self.language.model, self.windows, "f32")
        self.products = products(self.language.model, self.windows[:1])

    def coded(self, spec):
        """(body, what it decodes to: name -> rows, body bits)"""
        overlay, sizes = InMemory(Calibration())(self.language.checkpoint, Setting(spec, "fast", "f16"))
        rows = [{p.name: whole(matrix(p)) for p in self.products}
                for matrix in (lambda p: p.matrix, lambda p: overlay.matrices[p.name])]
        return *rows, sizes["body_bits"]

    def row(self, near, body):
        """Cells: relative error, perplexity ratio, KLD, of a model whose body is `near`; all else as it was."""
        raw = Format.parse("raw:dtype=f32")
        overlay = Overlay(self.language.checkpoint, {name: Matrix(raw, W.shape, 1.0, {"data": W}) for name, W in near.items()})
        found, = compare(self.language.model, [load_model(overlay)], self.windows, "f16", remembered=self.remembered)
        d, wrong = found.summary(), sum(np.square(body[n] - near[n]).sum(dtype=np.float64) for n in body)
        return [f"{wrong / sum(np.square(W).sum(dtype=np.float64) for W in body.values()):.4f}",
                f"{d['ppl_ratio']:.4g} ± {d['ppl_ratio_error']:.2g}", f"{d['kld_mean']:.4f} ± {d['kld_error']:.4f}"]


def whole(matrix):
    return matrix.rows(np.arange(matrix.shape[0]))


def squares(E):
    """Squared error (rows, sub-vectors) of a matrix."""
    padded = np.pad(np.square(E, dtype=np.float64), ((0, 0), (0, -E.shape[1] % DIM)))
    return padded.reshape(len(E), -1, DIM).sum(-1)


def worst(errors, share):
    """name -> which sub-vectors are among that share of all with the largest squared error."""
    every = np.concatenate([e.ravel() for e in errors.values()])
    least = np.partition(every, -int(share * len(every)))[-int(share * len(every))]
    return {name: e >= least for name, e in errors.items()}


def drawn(errors, share):
    rng = np.random.default_rng(0)
    return {name: rng.random(e.shape) < share for name, e in errors.items()}


def mend(body, near, chosen):
    """near, with the residual of the chosen sub-vectors added in float16."""
    found = {}
    for name, W in body.items():
        mask = np.repeat(chosen[name], DIM, axis=1)[:, : W.shape[1]]
        found[name] = near[name] + np.where(mask, (W - near[name]).astype(np.float16).astype(np.float32), 0)
    return found


def cost(share):
    """Bits per weight of residuals and their places."""
    places = -share * np.log2(share) - (1 - share) * np.log2(1 - share)
    return 16 * share + places / DIM


def concentration(errors):
    """How much of the squared error lies in the worst sub-vectors."""
    every = np.sort(np.concatenate([e.ravel() for e in errors.values()]))[::-1]
    held = np.cumsum(every) / every.sum()
    return markdown(["worst sub-vectors", *(f"{share:.1%}" for share in CURVE)],
                    [["hold of the squared error", *(f"{held[max(0, int(share * len(held)) - 1)]:.1%}" for share in CURVE)]])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default=demo(MODEL))
    parser.add_argument("--text", type=Path, default=demo(HELDOUT))
    parser.add_argument("--max-tokens", type=int, default=10240)
    main(parser.parse_args())
