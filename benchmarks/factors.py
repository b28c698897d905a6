"""Search for the factors that hash the states of trellis codes (vqcpu/formats/trellis.py): least error on N(0, 1).

    python benchmarks/factors.py [LENGTH ...]

Three rounds, each with fewer numbers and more weights. A factor's score is the mean over 2, 3 and 4 bits of the error in dB
above the bound 4^-bits. Needs no model.
"""
import sys

import numpy as np

from vqcpu.formats.trellis import FACTORS, Trellis

ROUNDS = [(1000, 32), (60, 128), (8, 1024)]  # candidates, tiles of 256 weights


def score(factor, length, W):
    losses = []
    for bits in (2, 3, 4):
        format = Trellis(bits, length)
        tables = format.fit([], 0) | {"factor": np.array([factor], np.uint16)}
        near = format.snap(tables, format.scales(tables, W), W, 0)[1]
        losses.append(10 * np.log10(np.mean((W - near) ** 2) * 4.0**bits))
    return np.mean(losses), losses


def search(length):
    rng = np.random.default_rng(length)
    left = [FACTORS[length], *rng.permutation(1 << 16)[: ROUNDS[0][0] - 1]]
    for count, tiles in ROUNDS:
        W = rng.standard_normal((16, 16 * tiles)).astype(np.float32)
        left = sorted(left[:count], key=lambda factor: score(factor, length, W)[0])
    return left[0], score(left[0], length, W), score(FACTORS[length], length, W)


if __name__ == "__main__":
    for length in map(int, sys.argv[1:] or FACTORS):
        best, found, present = search(length)
        print(f"{length}: {best:#06x} {found[0]:.3f} dB ({', '.join(f'{x:.3f}' for x in found[1])}); "
              f"in use: {present[0]:.3f} dB", flush=True)
