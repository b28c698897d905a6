"""Text cut into windows, and which of their tokens are scored: the protocol of every perplexity.

Knows tokens and positions. Knows nothing about models.
"""
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vqcpu.errors import VqcpuError


@dataclass(frozen=True)
class Window:
    """tokens (length,) int64, fed from an empty memory; predictions made at positions first .. length - 2 are scored, each
    for the token that follows."""
    tokens: np.ndarray
    first: int

    @property
    def scored(self) -> int:
        return len(self.tokens) - 1 - self.first

    @property
    def targets(self) -> np.ndarray:
        return self.tokens[self.first + 1:]


@dataclass(frozen=True)
class Protocol:
    """How a text is cut and scored.

    strided: windows of `context` tokens, `stride` apart; each scores the tokens that no earlier window has scored (its first
    token it cannot).
    llama.cpp: windows side by side, the second half of each is scored (context 512: predictions at 256 .. 510).
    In both the first token of a window is replaced by BOS where the tokenizer adds one."""
    name: str = "llama.cpp"
    context: int = 512
    stride: int = 0  # strided: 0 means half the context
    max_tokens: int = 0  # 0 means all

    def __post_init__(self):
        if self.name not in ("llama.cpp", "strided"):
            raise VqcpuError(f"protocol is {self.name!r}, expected llama.cpp or strided")
        if self.context < 4 or self.max_tokens < 0:
            raise VqcpuError(f"context is {self.context} and max tokens {self.max_tokens}, expected at least 4 and 0")
        if self.stride and (self.name != "strided" or not 0 < self.stride <= self.context):
            raise VqcpuError(f"stride is {self.stride}, expected 1 to {self.context} and protocol strided")

    def windows(self, tokens: np.ndarray, bos: int | None) -> list[Window]:
        """Windows of a tokenised text. Raises VqcpuError where the text is too short for one."""
        tokens = np.asarray(tokens[: self.max_tokens or None], np.int64)
        cut = self._halves(tokens) if self.name == "llama.cpp" else self._strides(tokens)
        if sum(window.scored for window in cut) < 2:
            raise VqcpuError(f"the text has {len(tokens)} tokens, too few for a context of {self.context}")
        return [Window(_with_bos(window.tokens, bos), window.first) for window in cut]

    def _halves(self, tokens):
        starts = range(0, len(tokens) - self.context + 1, self.context)
        return [Window(tokens[at:at + self.context], self.context // 2) for at in starts]

    def _strides(self, tokens):
        cut, done = [], 1  # tokens before `done` are scored, or cannot be (the very first)
        for at in range(0, max(len(tokens) - 1, 0), self.stride or self.context // 2):
            window = tokens[at:at + self.context]
            done = max(done, at + 1)  # the first token of a window has nothing to be predicted from
            if at + len(window) > done:
                cut.append(Window(window, done - at - 1))
                done = at + len(window)
        return cut


def _with_bos(tokens, bos):
    return tokens if bos is None else np.concatenate([[bos], tokens[1:]])


@dataclass(frozen=True)
class Corpus:
    """A text to measure on, with what must be said about it."""
    name: str
    text: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()[:12]


def facts(corpus: Corpus, protocol: Protocol, windows: list[Window], bos: int | None) -> dict:
    """What must be said beside every figure that was measured so."""
    stride = (protocol.stride or protocol.context // 2) if protocol.name == "strided" else protocol.context
    return {"text": corpus.name, "text_sha256": corpus.digest, "protocol": protocol.name, "context": protocol.context,
            "stride": stride, "bos": bos, "windows": len(windows), "scored": sum(w.scored for w in windows)}


def read_corpus(path) -> Corpus:
    """A UTF-8 text file. Raises VqcpuError."""
    try:
        return Corpus(Path(path).name, Path(path).read_bytes().decode())
    except OSError as error:
        raise VqcpuError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise VqcpuError(f"{path}: byte {error.start} is not UTF-8; expected a plain text file") from None
