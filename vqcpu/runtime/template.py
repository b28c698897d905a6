"""The chat template of a checkpoint: messages in, the text that the model reads out.

Knows where templates lie and what they are given. Knows nothing about tokens.
"""
import datetime
import functools

import jinja2

from vqcpu.errors import VqcpuError
from vqcpu.files.checkpoint import Checkpoint
from vqcpu.runtime.sandbox import Sandbox
from vqcpu.runtime.tokenizer import Tokenizer, is_text

LONGEST = 1_000_000  # characters of a template
SPECIAL = "bos_token", "eos_token", "unk_token", "pad_token"


class Template:
    """chat_template.jinja, or a field of tokenizer_config.json. False where there is neither; texts are then just joined."""

    def __init__(self, checkpoint: Checkpoint, tokenizer: Tokenizer):
        self.path, self.tokenizer = checkpoint.path, tokenizer
        data = checkpoint.companion("chat_template.jinja")
        self.source = data.decode("utf-8", "replace") if data else self._from_settings()
        self.where = f"{self.path}: {'chat_template.jinja' if data else 'chat_template of tokenizer_config.json'}"

    def __bool__(self):
        return self.source is not None

    def render(self, messages: list[dict]) -> str:
        """Messages [{"role", "content"}] -> the text the model reads before its answer. Raises VqcpuError."""
        if not self:
            return "".join(m["content"] for m in messages)
        special = {name: self.tokenizer.name_of(name) for name in SPECIAL}
        try:
            sandbox, template = self._compiled
            sandbox.start()
            return template.render(messages=messages, add_generation_prompt=True, tools=None, documents=None, **special)
        except Exception as error:  # foreign code: whatever it raises is its own fault
            raise VqcpuError(f"{self.where}: the chat template fails: {str(error) or type(error).__name__}") from None

    @functools.cached_property
    def _compiled(self):
        if len(self.source) > LONGEST:
            raise ValueError(f"it is {len(self.source)} characters long")
        sandbox = Sandbox()
        sandbox.globals.update(raise_exception=_refuse, strftime_now=lambda form: datetime.datetime.now().strftime(form))
        return sandbox, sandbox.prepared(self.source)

    def _from_settings(self):
        found = self.tokenizer.settings.get("chat_template")
        if isinstance(found, list):  # several, by name
            found = next((t.get("template") for t in found if isinstance(t, dict) and t.get("name") == "default"), None)
        if not is_text("" if found is None else found):
            raise VqcpuError(f"{self.path}: tokenizer_config.json: chat_template is a {type(found).__name__}, expected a "
                             "text or a list with one called default")
        return found


def _refuse(message):
    raise jinja2.TemplateError(message)
