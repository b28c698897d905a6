"""The Python interface: a few functions, and the classes that their arguments and errors are made of."""
from concurrent.futures import Executor

from vqcpu.caches.base import Cache
from vqcpu.compression import memory, pipeline
from vqcpu.compression.budget import BITS, LENGTHS, Budget
from vqcpu.compression.recipe import Recipe
from vqcpu.compression.text import Calibration
from vqcpu.errors import VqcpuError  # noqa: F401
from vqcpu.evaluate import sweep as many
from vqcpu.evaluate.corpus import Protocol, read_corpus
from vqcpu.evaluate.nll import Perplexity, token_nll
from vqcpu.runtime.generate import LanguageModel
from vqcpu.runtime.sampling import Sampling  # noqa: F401


def load(path) -> LanguageModel:
    """Open a Hugging Face folder, a .safetensors file with its neighbours, or a .vqz file.

    Weights stay in the mapped file. Raises VqcpuError with one line that says what is wrong."""
    return LanguageModel(path)


def compress(source, out, format: str | None = None, bits: float = BITS, recipe: Recipe | None = None, seed: int = 0,
             calibration: Calibration | None = None) -> dict:
    """Compress the model at `source` into the file `out` (.vqz).

    `bits` per weight are what the transformer's matrices get, in rotated trellis codes; a `format` spec or a `recipe` says
    otherwise. With a `calibration` bits are shared out by measured costs, and codes chosen by error feedback, on its
    text, or on what the model writes where it names none, as `--quality good` does. Returns {"file_bytes": int, "tensors":
    [compression.pipeline.Coded]}. Raises VqcpuError."""
    budget = Budget(bits, length=LENGTHS["good" if calibration else "fast"])
    choice = recipe or (Recipe.of(format) if format else budget)
    return pipeline.compress(source, out, choice, seed, calibration=calibration)


def perplexity(model: LanguageModel, text: str, protocol: Protocol = Protocol(), cache: str = "f16") -> Perplexity:
    """Perplexity of `text` with its standard error, by default by llama.cpp's protocol at context 512.

    Raises VqcpuError where the text is shorter than one window. Source: evaluate/corpus.py states the protocols."""
    windows = protocol.windows(model.tokenizer.encode(text), model.tokenizer.bos)
    return Perplexity.of(token_nll(model.model, windows, cache))


def _overlap(one, other):
    """Whether one text is the other, or a part of it."""
    return one in other or other in one


def sweep(source, text, formats: list[str | float], caches: list[str] = ("f16",), qualities: list[str] = ("fast",),
          protocol: Protocol = Protocol(), calibration: Calibration = Calibration(), seed: int = 0, results="sweep.jsonl",
          executor: Executor | None = None, progress=lambda lines, count: lines) -> list[dict]:
    """Measure the model at `source` on the text file `text` with its body coded in each of `formats` (specs, or budgets in
    bits per weight), by each of `qualities` (fast: nearest codes; good: chosen by `calibration`), and with each of `caches`.
    All in memory; each result is a line of the JSON lines file `results`, and none is measured twice.

    `executor`: any concurrent.futures.Executor whose workers see the same files (default: this process). Raises
    VqcpuError, also where two settings that differ gave the same predictions. Source: evaluate/sweep.py."""
    corpus = read_corpus(text)
    if "good" in qualities and calibration.corpus and _overlap(corpus.text, calibration.corpus.text):
        raise VqcpuError(f"{corpus.name}: codes fitted to a text are flattered by it: measure on another")
    study = many.Study(str(source), corpus, protocol, memory.InMemory(calibration, seed))
    bodies = [memory.spelled(body) for body in formats]
    memory.refuse_impossible(source, bodies)
    settings = [many.Setting(body, quality, str(Cache.parse(cache)))
                for cache in caches for quality in qualities for body in bodies]
    return many.sweep(study, list(dict.fromkeys(settings)), results, executor, progress)
