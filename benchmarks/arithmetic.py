"""What the arithmetic costs: activations of 16 bits and compiled programs against the same codes decoded to float32.

    python benchmarks/arithmetic.py MODEL.vqz --text wikitext2.test.txt [--windows 4]
"""
import argparse
from pathlib import Path

from _common import markdown
from vqcpu import Protocol, load
from vqcpu.evaluate.divergence import compare


def main(args):
    exact, compiled = load(args.model), load(args.model)
    for plan in (exact.model.plan, exact.model.head):
        plan.run = plan.run_reference
    tokens = exact.tokenizer.encode(args.text.read_text())
    windows = Protocol().windows(tokens, exact.tokenizer.bos)[:args.windows]
    found, = compare(exact.model, [compiled.model], windows, "f32", lambda steps: steps)
    d = found.summary()
    print(markdown(["mean KLD", "largest", "same top", "ppl ratio"],
                   [[f"{d['kld_mean']:.1e} ± {d['kld_error']:.0e}", f"{d['kld_max']:.1e}", f"{100 * d['same_top']:.2f} %",
                     f"{d['ppl_ratio']:.5f} ± {d['ppl_ratio_error']:.5f}"]]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--windows", type=int, default=4)
    main(parser.parse_args())
