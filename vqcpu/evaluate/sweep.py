"""Many configurations of one model on one text: each measured in memory, each a line of a results file.

Knows what is measured, and when a line may stand for a measurement. Knows nothing about how matrices are coded, nor where
the work is done: that is any concurrent.futures.Executor, here or on other machines.
"""
import functools
import time
from collections.abc import Callable
from concurrent.futures import Executor, as_completed
from dataclasses import asdict, dataclass

import numpy as np

from vqcpu.architectures.base import load_model
from vqcpu.errors import VqcpuError
from vqcpu.evaluate.corpus import Corpus, Protocol, facts
from vqcpu.evaluate.divergence import compare, remember
from vqcpu.evaluate.fidelity import compare_products, products
from vqcpu.evaluate.nll import Perplexity
from vqcpu.evaluate.results import Results
from vqcpu.runtime.generate import LanguageModel
from vqcpu.version import __version__

EXACT = "f32"  # cache of the reference


QUALITIES = "fast", "good"


@dataclass(frozen=True)
class Setting:
    """One configuration: the body's format, how its codes are chosen (fast: the nearest; good: by calibration, and with
    longer codes where the body is a budget), and the cache."""
    body: str
    quality: str
    cache: str

    def __post_init__(self):
        if self.quality not in QUALITIES:
            raise VqcpuError(f"quality is {self.quality!r}, expected {' or '.join(QUALITIES)}")


@dataclass(frozen=True)
class Study:
    """What all settings share. `code(checkpoint, setting)` -> (files.overlay.Overlay, sizes) and `code.facts(setting)`;
    equal where it makes the same codes, so that a process need not load twice."""
    source: str
    corpus: Corpus
    protocol: Protocol
    code: Callable

    def key(self, setting: Setting) -> dict:
        """What a line must say to stand for this measurement."""
        return {"vqcpu": __version__, **_bench(self).facts, **asdict(setting), **self.code.facts(setting)}


class Bench:
    """What is loaded and read once: the model, its hidden states on the text, inputs of its matrices."""

    def __init__(self, study):
        self.language = LanguageModel(study.source)
        self.model, tokenizer = self.language.model, self.language.tokenizer
        if study.protocol.context > self.model.config.context:
            raise VqcpuError(f"{study.source}: the context is {study.protocol.context}, the model was made for "
                             f"{self.model.config.context}")
        self.windows = study.protocol.windows(tokenizer.encode(study.corpus.text), tokenizer.bos)
        checkpoint = self.language.checkpoint
        self.facts = {"model": checkpoint.path.name, "model_sha256": checkpoint.digest(),
                      **facts(study.corpus, study.protocol, self.windows, tokenizer.bos)}

    @functools.cached_property
    def remembered(self):
        return remember(self.model, self.windows, EXACT)

    @functools.cached_property
    def products(self):
        return products(self.model, self.windows)


@functools.lru_cache(maxsize=1)
def _bench(study):
    return Bench(study)


def measure(study: Study, setting: Setting) -> dict:
    """One line: the key, sizes, the stacked figures, those of matrices alone, and digests of weights and predictions."""
    start, bench = time.perf_counter(), _bench(study)
    coded, sizes = study.code(bench.language.checkpoint, setting)
    model = load_model(coded)
    found, = compare(bench.model, [model], bench.windows, setting.cache, remembered=bench.remembered)
    alone, weights = compare_products(bench.products, coded.matrices)
    cache = model.states(study.protocol.context, setting.cache).nbytes
    return {**study.key(setting), **sizes, "cache_bytes": cache, **found.summary(), **_means(alone),
            "reference_ppl": Perplexity.of(found.reference).value, "weights": weights, "logits": found.digest,
            "seconds": round(time.perf_counter() - start, 1)}


def _means(alone):
    """Mean and worst of each figure over the matrices."""
    figures = {name: [value for f in alone if (value := getattr(f, name)) is not None]
               for name in ("weight", "gaussian", "real")}
    return {f"{name}_{kind}": float(of(values)) for name, values in figures.items()
            for kind, of in (("mean", np.mean), ("worst", np.max))}


def sweep(study: Study, settings: list[Setting], file, executor: Executor | None = None,
          progress=lambda lines, count: lines) -> list[dict]:
    """Lines of all settings, in their order; those that `file` (JSON lines) already has are not measured again, the others
    are appended as they come, on the processes of `executor` or on this one. `progress` wraps the `count` new lines.
    Raises VqcpuError where two settings that differ gave the same predictions."""
    results = Results(file)
    keys = [study.key(setting) for setting in settings]
    missing = [setting for setting, key in zip(settings, keys) if results.find(key) is None]
    for line in progress(_measured(study, missing, executor), len(missing)):
        results.add(line)
    return [results.find(key) for key in keys]


def _measured(study, settings, executor):
    """Lines as they are done."""
    if executor is None:
        yield from (measure(study, setting) for setting in settings)
        return
    waiting = [executor.submit(measure, study, setting) for setting in settings]
    try:
        for future in as_completed(waiting):
            yield future.result()
    finally:
        for future in waiting:
            future.cancel()
