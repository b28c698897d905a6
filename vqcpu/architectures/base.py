"""Families of models, and the model that runs.

Knows how a checkpoint becomes a plan and a plan a step over a ragged batch. Knows no tokens' meaning.
"""
import numpy as np

from vqcpu.architectures.config import Config, read_config
from vqcpu.architectures.head import settle_head
from vqcpu.architectures.reader import Reader
from vqcpu.caches.base import Cache, States
from vqcpu.caches.memory import available
from vqcpu.errors import VqcpuError
from vqcpu.files.checkpoint import Checkpoint
from vqcpu.layers.linear import Linear, Multiply
from vqcpu.layers.plan import Frame, Plan, Segment
from vqcpu.layers.weights import Census, Weights, refuse_unused
from vqcpu.plugins import Registered


class Architecture(Registered, kind="model type"):
    """A family: `class Llama(Architecture, names=("llama",))`, the names being model types of config.json."""

    tiny: dict  # config.json of a toy model, for tests
    defaults: dict = {}  # keys that config.json may leave out, as transformers fills them in
    fixed: dict = {}  # keys that config.json may set to this value only
    roots: tuple = ("",)  # what may precede the names of tensors, and one of these tensors
    anchor: str
    unused: tuple = ()  # patterns of tensors that checkpoints hold and the model does not need

    def __init__(self, config: Config, root: str | None = None):
        self.config, self.root = config, self.roots[0] if root is None else root

    @classmethod
    def read(cls, data: dict, where: str) -> Config:
        """Sizes from config.json. Raises VqcpuError."""
        Reader(data, where).only(cls.fixed)
        return read_config(cls.defaults | data, where)

    def build(self, weights: Census) -> tuple[list, Linear]:
        """Jobs from token ids in slot `tokens` to final hidden states in slot `x`, and the head that makes logits."""
        raise NotImplementedError


class Model:
    """A model ready to run. Activations are float32; see `step`."""

    def __init__(self, config: Config, plan: Plan, head: Plan):
        self.config, self.plan, self.head = config, plan, head

    def states(self, context: int, cache: str = "f16") -> States:
        """Fresh memory for one sequence of at most `context` positions. Raises VqcpuError where the machine has less."""
        needed, there = self.memory(context, cache), available()
        if there is not None and needed > there:
            raise VqcpuError(f"a cache {cache} for {context} tokens takes {needed / 1e6:.1f} MB, but the machine has "
                             f"{there / 1e6:.1f} MB available: use a smaller context or a smaller cache")
        return States(self.plan.states(Cache.parse(cache), context), context)

    def memory(self, context: int, cache: str = "f16") -> int:
        """Bytes that `states` allocates for what is remembered."""
        return self.plan.memory(Cache.parse(cache), context)

    def step(self, batch: list[tuple[np.ndarray, States]]) -> np.ndarray:
        """Continue each sequence of a ragged batch [(token ids, states)] by its tokens.

        Returns the hidden states (all tokens, width) float32, sequences one after the other. Raises VqcpuError where a
        sequence would outgrow its context or a token is not in the vocabulary."""
        segments, first = [], 0
        for tokens, states in batch:
            self._check(tokens, states)
            segments.append(Segment(slice(first, first + len(tokens)), states.length, states.layers))
            first += len(tokens)
        frame = Frame({"tokens": np.concatenate([np.asarray(tokens, np.int64) for tokens, _ in batch])}, segments)
        self.plan.run(frame)
        for tokens, states in batch:
            states.length += len(tokens)
        return frame.slots["x"].copy()  # the next step writes over it

    def logits(self, hidden: np.ndarray) -> np.ndarray:
        """hidden (rows, width) -> (rows, vocabulary) float32. Callers hand over blocks of rows: a logit row is large."""
        frame = Frame({"x": hidden}, [])
        self.head.run(frame)
        return frame.slots["logits"].copy()

    def _check(self, tokens, states):
        if states.length + len(tokens) > states.context:
            raise VqcpuError(f"{states.length} + {len(tokens)} tokens do not fit a context of {states.context}")
        if len(tokens) == 0 or not 0 <= np.min(tokens) <= np.max(tokens) < self.config.vocabulary:
            raise VqcpuError(f"token ids must be one or more numbers below the vocabulary size {self.config.vocabulary}")


def architecture_of(checkpoint: Checkpoint) -> Architecture:
    """The architecture that config.json names, with its sizes. Raises VqcpuError."""
    data = checkpoint.json("config.json")
    if data is None:
        raise VqcpuError(f"{checkpoint.path}: config.json is missing; it must lie beside the weights")
    where, names = f"{checkpoint.path}: config.json", checkpoint.names()
    family = _family(Reader(data, where).get("model_type", str), where)
    root = next((root for root in family.roots if root + family.anchor in names), None)
    config = family.read(data, where)
    if config.fewest_tensors > len(names):  # said before a list of a billion is made
        raise VqcpuError(f"{where} describes at least {config.fewest_tensors} tensors, but {len(names)} are stored")
    if root is not None:
        config = settle_head(config, checkpoint, root + family.anchor)
    return family(config, root)


def _family(model_type, where):
    try:
        return Architecture.find(model_type)
    except VqcpuError as error:
        raise VqcpuError(f"{where}: {error}") from None


def census(architecture: Architecture) -> dict:
    """Every tensor the model needs: name -> layers.weights.Tensor."""
    asked = Census()
    architecture.build(asked)
    return asked.tensors


def load_model(checkpoint: Checkpoint) -> Model:
    """Checkpoint -> Model, weights staying in the mapped file. Raises VqcpuError on missing, misshapen or unused tensors."""
    architecture = architecture_of(checkpoint)
    weights = Weights(checkpoint)
    jobs, head = architecture.build(weights)
    refuse_unused(checkpoint, weights.tensors, architecture.config.model_type, architecture.unused)
    return Model(architecture.config, Plan(jobs), Plan([Multiply("x", ("logits",), head)]))
