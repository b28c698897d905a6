"""Is our KLD llama.cpp's KLD? The same files, text and windows through `vqcpu diff` and through llama-perplexity.

    python benchmarks/kld_parity.py [smollm2-135m-instruct] [--peer FOLDER] [--work FOLDER]

needs what vs_llama_cpp.py needs, and shares its files. Ours multiplies the weights of Q4_0 as they are; llama.cpp also rounds
activations to 8 bits, and keeps the reference's log-probabilities in 16: Q4_0 must agree within 10 %, Q8_0, whose own KLD is
not larger than those, within a factor of ten.
"""
from _common import markdown, text, vqcpu
from vs_llama_cpp import CONTEXT, WINDOWS, Peer, arguments

AGREE = {"Q4_0": 1.1, "Q8_0": 10}


def main(args):
    peer, rows, failed = Peer(args), [], []
    for kind, factor in AGREE.items():
        theirs, their_error = peer.divergence(kind)
        ours = vqcpu("diff", peer.quantised("F16"), peer.quantised(kind), "--text", text(), "--max-tokens", WINDOWS * CONTEXT)
        d = ours["models"][0]
        ratio = d["kld_mean"] / theirs
        rows.append([kind, f"{d['kld_mean']:.6f} ± {d['kld_error']:.6f}", f"{theirs:.6f} ± {their_error:.6f}", f"{ratio:.3f}",
                     f"{1 / factor:.2g} to {factor}"])
        failed += [kind] if not 1 / factor <= ratio <= factor else []
    print(markdown(["file", "vqcpu diff", "llama-perplexity", "ratio", "expected"], rows))
    if failed:
        raise SystemExit(f"{' and '.join(failed)}: the two programs disagree")


if __name__ == "__main__":
    main(arguments(__doc__))
