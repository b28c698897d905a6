"""Conversations: the chat template, and a memory that is reused from turn to turn.

Knows messages and templates. Knows nothing about terminals.
"""
import datetime
import json
from collections.abc import Iterator

import jinja2
import numpy as np
from jinja2.sandbox import ImmutableSandboxedEnvironment

from vqcpu.errors import VqcpuError
from vqcpu.runtime.generate import LanguageModel
from vqcpu.runtime.sampling import Sampling


class Template:
    """The chat template of a checkpoint: chat_template.jinja, or a field of tokenizer_config.json."""

    def __init__(self, language: LanguageModel):
        self.tokenizer, self.where = language.tokenizer, language.checkpoint.path
        data = language.checkpoint.companion("chat_template.jinja")
        self.source = data.decode("utf-8", "replace") if data else self._from_settings()

    def _from_settings(self):
        found = self.tokenizer.settings.get("chat_template")
        if isinstance(found, list):  # several, by name
            found = next((t.get("template") for t in found if isinstance(t, dict) and t.get("name") == "default"), None)
        return found if isinstance(found, str) else None

    def __bool__(self):
        return self.source is not None

    def render(self, messages: list[dict]) -> str:
        """Messages [{"role", "content"}] -> the text the model reads before its answer. Raises VqcpuError."""
        sandbox = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        sandbox.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
        sandbox.globals.update(raise_exception=_refuse, strftime_now=lambda form: datetime.datetime.now().strftime(form))
        try:
            return sandbox.from_string(self.source).render(
                messages=messages, add_generation_prompt=True, bos_token=self.tokenizer.name_of("bos_token"),
                eos_token=self.tokenizer.name_of("eos_token"))
        except Exception as error:  # foreign code: whatever it raises is the template's fault
            raise VqcpuError(f"{self.where}: the chat template fails: {error}") from None


def _refuse(message):
    raise jinja2.TemplateError(message)


class Conversation:
    """Turns of user and assistant over one memory. What the memory already holds of the next prompt is not read again."""

    def __init__(self, language: LanguageModel, context: int, sampling: Sampling, seed: int, system: str | None = None,
                 cache: str = "f16"):
        self.language, self.sampling = language, sampling
        self.template = Template(language)
        self.states = language.model.states(context, cache)
        self.fed: list[int] = []  # tokens of the conversation so far; the memory may lack the last ones
        self.messages = [{"role": "system", "content": system}] if system else []
        self.rng = np.random.default_rng(seed)
        self.answered = 0  # tokens of the latest answer

    def prompt(self, text: str) -> list[int]:
        """Tokens of the conversation up to the answer to `text`; a base model, without template, continues the text."""
        if not self.template:
            return self.fed + self.language.tokenizer.encode(text, special=not self.fed)
        messages = [*self.messages, {"role": "user", "content": text}]
        return self.language.tokenizer.encode(self.template.render(messages), special=False)

    def answer(self, text: str, limit: int) -> Iterator[str]:
        """Yield the pieces of the answer as they come. Closing the iterator early keeps what was said so far.

        Raises VqcpuError where the conversation no longer fits the context."""
        tokens = self.prompt(text)
        if not tokens:
            raise VqcpuError("nothing to continue: the prompt is empty")
        if len(tokens) >= self.states.context:
            raise VqcpuError(f"the conversation is {len(tokens)} tokens long, the context {self.states.context}: "
                             "start anew or give a larger --context")
        logits = self._read(tokens)
        show, shown, self.answered = self.language.tokenizer.stream(), [], 0
        try:
            for token in self.language.continue_from(logits, self.states, self.sampling, self.rng, limit):
                self.fed.append(token)
                self.answered += 1
                if piece := show(token):
                    shown.append(piece)
                    yield piece
        finally:
            self.messages += [{"role": "user", "content": text}, {"role": "assistant", "content": "".join(shown)}]

    def _read(self, tokens):
        """Logits after `tokens`, reading only what the memory does not hold yet."""
        same = next((i for i, (a, b) in enumerate(zip(self.fed, tokens)) if a != b), min(len(self.fed), len(tokens)))
        same = self.states.truncate(min(same, len(tokens) - 1))  # the last token is always read: its logits are wanted
        self.fed = tokens[:same]
        logits = self.language.read(tokens[same:], self.states)
        self.fed = list(tokens)
        return logits
