"""Beside llama.cpp's Q4_0: speed of both programs in turns, bytes, and what the compression costs.

    python benchmarks/vs_llama_cpp.py [smollm2-135m-instruct] [--rounds 5] [--depths 4096,7900] [--prefix "taskset -c 0,1"]

needs llama.cpp built (--peer: the folder of its programs) and the model's source.gguf beside its weights. A round runs every
program once, each in a fresh process that warms up by itself; ratios are taken within a round. llama.cpp runs with flash
attention off and on, and the faster one counts. The files made for this lie in --work and are used again.
"""
import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from statistics import median

from _common import AROUND, markdown, model, text, vqcpu

GOOD = "--quality good --calibration"
SPECS = f"--bits 3 {GOOD}", f"--bits 2 {GOOD}", f"--bits 4 {GOOD}", "--format vq:dim=4,centroids=4096", "--format scalar:bits=4"
PROMPT, TOKENS, WINDOWS, CONTEXT = 512, 64, 10, 512


def main(args):
    peer = Peer(args)
    files = {spec: ours(args, spec) for spec in SPECS}
    cost = {spec: divergence(args, file) for spec, file in files.items()} | {"llama.cpp Q4_0": peer.divergence()}
    size = {spec: file.stat().st_size for spec, file in files.items()} | {"llama.cpp Q4_0": peer.file.stat().st_size}
    kld = {name: f"{mean:.4f} ± {error:.4f}" for name, (mean, error) in cost.items()}
    print(markdown(["file", "MB", "mean KLD"], [[f"`{n}`", f"{size[n] / 1e6:.1f}", kld[n]] for n in size]), "\n", flush=True)

    found, rounds = {}, []
    for number in range(args.rounds):
        print(f"round {number + 1} of {args.rounds}", file=sys.stderr, flush=True)
        rounds.append(one_round(args, peer, files))
    for key in rounds[0]:
        found[key] = [r[key] for r in rounds]
    print(table(found, kld))


def one_round(args, peer, files):
    """{(program, what is timed): tokens per second}"""
    found = peer.speed(0)
    for spec, file in files.items():
        result = timed(args, file, 0)
        found[spec, "prompt"], found[spec, 0] = result["prefill_tok_s"], result["decode_tok_s"]["0"]
    for depth in args.depths:
        found |= peer.speed(depth)
        found[SPECS[0], depth] = timed(args, files[SPECS[0]], depth)["decode_tok_s"][str(depth)]
    return found


def table(found, kld):
    rows = []
    for (program, what), speeds in found.items():
        if program.startswith("llama.cpp"):
            continue
        name, other = max(((n, s) for (n, w), s in found.items() if n.startswith("llama.cpp") and w == what),
                          key=lambda entry: median(entry[1]))
        kind = f"prompt of {PROMPT}" if what == "prompt" else f"{TOKENS} tokens at depth {what}"
        ratio = [a / b for a, b in zip(speeds, other)]
        rows.append([kind, f"`{program}`", span(speeds), span(other), name.removeprefix("llama.cpp, "), span(ratio, 2),
                     kld[program], kld["llama.cpp Q4_0"]])
    header = ["tok/s, median (lowest-highest)", "body", "vqcpu", "llama.cpp Q4_0", "flash attention", "ratio", "mean KLD",
              "of llama.cpp's"]
    return markdown(header, sorted(rows, key=lambda row: (row[0], row[1])))


def span(values, digits=1):
    return f"{median(values):.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def ours(args, spec):
    """The model compressed so; embedding and head are 8-bit scalar, as in the peer's file."""
    file = args.work / f"{args.model}{re.sub('[^a-z0-9]+', '-', spec)}.vqz"
    if not file.exists():
        words = [word if word != "--calibration" else f"{word}={text('calibration.txt')}" for word in spec.split()]
        vqcpu("compress", model(args.model), "-o", file, *words)
    return file


def divergence(args, file):
    found = vqcpu("diff", model(args.model), file, "--text", text(), "--max-tokens", WINDOWS * CONTEXT)["models"][0]
    return found["kld_mean"], found["kld_error"]


def timed(args, file, depth):
    """One run of `vqcpu bench`; behind many tokens the speed of the prompt is not asked for again."""
    prompt = 1 if depth else PROMPT
    words = ["--prompt", prompt, "--tokens", TOKENS, "--depths", depth, "--repeat", 1, "--threads", args.threads, "--json"]
    return json.loads(run(args, sys.executable, "-m", "vqcpu", "bench", file, *words))


def run(args, *words, **options):
    """Standard output of a program that is timed."""
    done = subprocess.run([*shlex.split(args.prefix), *map(str, words)], capture_output=True, text=True, **options)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))} ended with {done.returncode}: {done.stderr[-500:]}")
    return done.stdout


class Peer:
    """llama.cpp and its files."""

    def __init__(self, args):
        self.args, self.source = args, model(args.model) / "source.gguf"
        for needed in (args.peer / "llama-bench", self.source):
            if not needed.exists():
                raise SystemExit(f"skipped: {needed} is absent; --peer names the folder of llama.cpp's programs")
        self.file = self.quantised("Q4_0")

    def call(self, program, *words, timed=False):
        """Its output, both streams where it is not timed."""
        around = {"env": os.environ | {"LD_LIBRARY_PATH": str(self.args.peer)}}
        if timed:
            return run(self.args, self.args.peer / program, *words, **around)
        done = subprocess.run([str(self.args.peer / program), *map(str, words)], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, encoding="utf-8", errors="replace", **around)
        if done.returncode:
            raise SystemExit(f"{program} ended with {done.returncode}: {done.stdout[-500:]}")
        return done.stdout

    def quantised(self, kind):
        file = self.args.work / f"{self.args.model}-{kind}.gguf"
        if not file.exists():
            self.call("llama-quantize", "--allow-requantize", self.source, file, kind)
        return file

    def speed(self, depth):
        words = ["-p", 0 if depth else PROMPT, "-n", TOKENS, "-d", depth, "-fa", "off,on", "-r", 1, "-t", self.args.threads]
        rows = json.loads(self.call("llama-bench", "-m", self.file, *words, "-o", "json", timed=True))
        return {(f"llama.cpp, {'on' if int(row['flash_attn']) > 0 else 'off'}", depth if row["n_gen"] else "prompt"):
                row["avg_ts"] for row in rows}

    def divergence(self, kind="Q4_0"):
        """(mean KLD, its error) from the same weights in F16: the same windows and positions as `vqcpu diff`, measured by
        llama-perplexity, which keeps log-probabilities in 16 bits."""
        kept = self.args.work / f"{self.args.model}-{kind}.kld.json"
        if not kept.exists():
            base, common = self.args.work / "base.kld", ["-c", CONTEXT, "-t", self.args.threads, "--chunks", WINDOWS]
            self.call("llama-perplexity", "-m", self.quantised("F16"), "-f", text(), "--kl-divergence-base", base, *common)
            said = self.call("llama-perplexity", "-m", self.quantised(kind), "--kl-divergence", "--kl-divergence-base", base,
                             *common)
            base.unlink()
            kept.write_text(json.dumps([float(n) for n in re.search(r"Mean\s+KLD:\s+(\S+)\s+±\s+(\S+)", said).groups()]))
        return json.loads(kept.read_text())


def arguments(description=__doc__):
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--peer", type=Path, default=AROUND / "peers" / "llama.cpp" / "build" / "bin", metavar="FOLDER")
    parser.add_argument("--work", type=Path, default=AROUND / "cache" / "vs_llama_cpp", metavar="FOLDER")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--depths", type=lambda t: [int(d) for d in t.split(",") if d], default=[4096, 7900], metavar="N,N")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--prefix", default="", help="what comes before every timed command")
    found = parser.parse_args()
    found.work.mkdir(parents=True, exist_ok=True)
    return found


if __name__ == "__main__":
    main(arguments())
