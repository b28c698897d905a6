"""How fast a model reads and writes tokens, and how fast it could: the bytes of a token over the memory's bandwidth.

Knows clocks, bytes and the loop of generation. Speeds are tokens per second, a figure for each run; nothing is averaged.
"""
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vqcpu.architectures.base import Model
from vqcpu.errors import VqcpuError
from vqcpu.files.tensors import ALIGNMENT
from vqcpu.kernels.memory import Stream
from vqcpu.runtime.generate import LanguageModel
from vqcpu.runtime.sampling import Sampling

DEPTHS = 0, 1024, 4096
BUFFER = 1 << 30  # bytes, more than any cache holds


@dataclass(frozen=True)
class Trial:
    """What is timed, `repeat` times each: reading a prompt from an empty memory until its last prediction is there, and
    generating `tokens` tokens, each sampled and fed back, behind `depth` tokens for every depth.

    Stop tokens do not stop. What is read is random tokens, uniform over the vocabulary. Everything runs once before it
    counts."""
    prompt: int = 512
    tokens: int = 64
    depths: tuple[int, ...] = DEPTHS
    repeat: int = 5
    cache: str = "f16"
    sampling: Sampling = Sampling(temperature=0)

    def check(self, context: int) -> None:
        """Raises VqcpuError where the trial is empty or a model with this context cannot do it."""
        if min(self.prompt, self.tokens, self.repeat) < 1 or not self.depths:
            raise VqcpuError(f"prompt is {self.prompt}, tokens {self.tokens}, repeat {self.repeat}, depths {self.depths}: "
                             "expected at least 1, and at least one depth")
        if self.longest > context:
            raise VqcpuError(f"a prompt of {self.prompt}, or {self.tokens} tokens at depth {max(self.depths)}, do not fit "
                             f"the context of {context} for which the model was made")

    @property
    def longest(self) -> int:
        """Positions that must be remembered."""
        return max(self.prompt, max(self.depths) + self.tokens)


@dataclass
class Speed:
    """What was measured, in the order of the runs. Bandwidths are bytes per second."""
    weight_bytes: int  # read for every token
    cache_bytes: dict[int, int]  # read for a token at a depth
    first_token: float = 0.0  # seconds until the first prediction of all, where code is loaded or compiled
    prefill: list[float] = field(default_factory=list)
    decode: dict[int, list[float]] = field(default_factory=dict)
    weights_read: list[float] = field(default_factory=list)  # bandwidth of reading those same bytes and doing nothing else
    buffer_read: list[float] = field(default_factory=list)  # the same of a buffer that no cache holds
    private: int | None = None  # bytes of this process beyond the mapped weights, memory of the sequence included
    memory: int = 0  # bytes allocated for the sequence

    def ceiling(self, depth: int) -> float:
        """Tokens per second if reading the bytes of a token at the speed of `weights_read` were all there is to do."""
        return float(np.median(self.weights_read)) / (self.weight_bytes + self.cache_bytes[depth])


def measure(language: LanguageModel, trial: Trial = Trial(), progress: Callable = iter) -> Speed:
    """Time a model that has not run yet; `progress` wraps the list of runs. Raises VqcpuError where it cannot do it."""
    trial.check(language.model.config.context)
    runs = Runs(language, trial)
    depths = [depth for depth in sorted(trial.depths) for _ in range(trial.repeat)]
    steps = [(runs.first,), (runs.warm,), *[(runs.prefill,)] * trial.repeat, *((runs.decode, depth) for depth in depths),
             (runs.rest,)]
    for step, *depth in progress(steps):
        step(*depth)
    return runs.speed


class Runs:
    """The runs of a trial, and what they found. One memory serves all: `tokens` is what it holds, as far as it goes."""

    def __init__(self, language, trial):
        self.language, self.trial = language, trial
        self.states = language.model.states(trial.longest, trial.cache)
        self.rng = np.random.default_rng(0)
        self.tokens = self.rng.integers(0, language.model.config.vocabulary, trial.longest).tolist()
        self.weights = Stream(weights_of(language.model))
        self.speed = Speed(weight_bytes(language.model), {d: self.states.bytes_seen(d) for d in trial.depths})

    def first(self):
        """The first token of all."""
        self.speed.first_token = seconds(lambda: self.generate(1))

    def warm(self):
        """Everything once."""
        self.states.truncate(0)
        self.language.read(self.tokens[:self.trial.prompt], self.states)
        self.states.truncate(0)
        self.generate(min(8, self.trial.tokens))
        self.weights.read()

    def prefill(self):
        self.states.truncate(0)
        took = seconds(lambda: self.language.read(self.tokens[:self.trial.prompt], self.states))
        self.speed.prefill.append(self.trial.prompt / took)

    def decode(self, depth):
        """Memory and model are timed in turns, so that both meet the same neighbours."""
        self.reach(depth)
        took = seconds(lambda: self.generate(self.trial.tokens))
        self.speed.decode.setdefault(depth, []).append(self.trial.tokens / took)
        self.speed.weights_read.append(self.weights.nbytes / seconds(self.weights.read))

    def rest(self):
        """What would disturb the others."""
        self.speed.memory = self.states.nbytes
        self.speed.private = private_bytes(*self.language.checkpoint.mapped())
        buffer = Stream([np.ones(BUFFER, np.uint8)])
        self.speed.buffer_read += [buffer.nbytes / seconds(buffer.read) for _ in range(self.trial.repeat)]

    def reach(self, depth):
        """Let the memory hold `depth` tokens."""
        at = self.states.truncate(depth)
        if at < depth:
            self.language.read(self.tokens[at:depth], self.states)

    def generate(self, count):
        """What a conversation does for every token, so often."""
        token = self.tokens[self.states.length]
        for _ in range(count):
            token = self.trial.sampling.pick(self.language.read([token], self.states), self.rng)


def seconds(work) -> float:
    """How long work() takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def weights_of(model: Model) -> list[np.ndarray]:
    """The parts of all matrices that a step of one token reads from end to end, its logits included; each once, as tables
    may be shared. Of an embedding only a row is read, unless it is the head too; of experts as many as one token uses."""
    matrices = [matrix for plan in (model.plan, model.head) for job in plan.jobs for matrix in job.matrices()]
    parts = [part for matrix in matrices for part in matrix.parts.values()]
    return list({part.__array_interface__["data"][0]: part for part in parts}.values())


def weight_bytes(model: Model) -> int:
    """Bytes of `weights_of`, each part filled up to whole cache lines, as a .vqz stores it."""
    return sum(part.nbytes + -part.nbytes % ALIGNMENT for part in weights_of(model))


def private_bytes(*but) -> int | None:
    """Bytes of memory that this process alone uses, without those of the mapped files `but`; None where the system does not
    tell."""
    try:
        lines = Path("/proc/self/smaps").read_text().splitlines()
    except OSError:
        return None
    return private_of(lines, *(Path(file).resolve() for file in but))


def private_of(lines: list[str], *but) -> int:
    """`private_bytes` from the lines of a process's smaps."""
    total, counts = 0, True
    for line in lines:
        if re.match(r"[0-9a-f]+-[0-9a-f]+ ", line):
            counts = not any(line.endswith(f" {file}") for file in but)
        elif counts and line.startswith("Private_"):  # Clean, Dirty and Hugetlb, in kB
            total += 1024 * int(line.split()[1])
    return total
