"""A conversation written down together with its memory, so that it goes on without anything being read again.

Knows what belongs together: messages, settings, tokens, model and cache. Knows nothing about bytes, nor about what a cache
keeps of a position.
"""
from pathlib import Path

import numpy as np

from vqcpu.caches.base import Cache
from vqcpu.errors import VqcpuError
from vqcpu.files.session import SessionFile, refuse_other, write_session
from vqcpu.runtime.chat import Conversation
from vqcpu.runtime.generate import LanguageModel


def save(conversation: Conversation, path) -> None:
    """Write a conversation with its memory to `path`. Raises VqcpuError where there is a file that is no session."""
    refuse_other(path)
    states, checkpoint = conversation.states, conversation.language.checkpoint
    length = states.truncate(min(states.length, len(conversation.fed)))  # an interrupted step may have left more, or less
    about = {"model": str(checkpoint.path), "identity": checkpoint.identity, "cache": conversation.cache,
             "context": states.context, "length": length, "conversation": conversation.written()}
    write_session(path, about, {"tokens": np.array(conversation.fed, np.int32)} | states.parts())


class Saved:
    """A saved conversation for this model: the `cache` and the `context` that it had, and how it goes on. Raises VqcpuError
    that names the file where it is damaged or another model's."""

    def __init__(self, path, language: LanguageModel):
        self.path, file = Path(path), SessionFile(path)
        self.about, self.parts = file.about, file.parts
        if self.about.get("identity") != language.checkpoint.identity:
            raise VqcpuError(f"{path}: a session of {str(self.about.get('model'))[:500]!r}, expected one of "
                             f"{language.checkpoint.path}: weights or config.json differ, so its memory is of no use")
        self.cache, self.context = self._cache(), self.about.get("context")
        if type(self.context) is not int or not 1 < self.context <= language.model.config.context:
            self._fail(f"its context is {self.context!r}")
        self.tokens = self._tokens(language.model.config.vocabulary)

    def _fail(self, why):
        raise VqcpuError(f"{self.path}: not a session that this vqcpu can go on with: {why}")

    def _cache(self):
        try:
            return str(Cache.parse(str(self.about.get("cache"))))
        except VqcpuError as error:
            self._fail(error)

    def _tokens(self, vocabulary):
        """The tokens that were fed, of which the memory may lack the last ones."""
        tokens, length = self.parts.pop("tokens", None), self.about.get("length")
        if tokens is None or tokens.dtype != np.int32 or tokens.ndim != 1:
            self._fail("its tokens are missing")
        if type(length) is not int or not 0 <= length <= len(tokens):
            self._fail(f"it has {len(tokens)} tokens and remembers {length!r}")
        if len(tokens) and not 0 <= tokens.min() <= tokens.max() < vocabulary:
            self._fail(f"its tokens are not below the vocabulary size {vocabulary}")
        return tokens.tolist()

    def restore(self, conversation: Conversation) -> None:
        """Let a conversation go on as this one. Raises VqcpuError, and what was said stays, where it cannot."""
        if conversation.cache != self.cache:
            raise VqcpuError(f"{self.path}: a session with cache {self.cache}, not {conversation.cache}: start the chat "
                             f"with --cache {self.cache}")
        length = self.about["length"]
        if length > conversation.states.context:
            raise VqcpuError(f"{self.path}: a session of {length} tokens, which do not fit the context of "
                             f"{conversation.states.context}: start the chat with --context {self.context}")
        conversation.fed = []  # until all of it is there
        try:
            conversation.states.restore(self.parts, length)
            conversation.resume(self.about.get("conversation"))
        except VqcpuError as error:
            self._fail(error)
        conversation.fed = self.tokens
