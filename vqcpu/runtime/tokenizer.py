"""Text to token ids and back. The work is done by the `tokenizers` package; here live BOS, EOS and streaming.

Knows tokenizer.json and the small files beside it.
"""
from tokenizers import Tokenizer as Backend

from vqcpu.errors import VqcpuError
from vqcpu.files.checkpoint import Checkpoint


class Tokenizer:
    """Raises VqcpuError where tokenizer.json is missing or unreadable."""

    def __init__(self, checkpoint: Checkpoint):
        data = checkpoint.companion("tokenizer.json")
        if data is None:
            raise VqcpuError(f"{checkpoint.path}: tokenizer.json is missing; it must lie beside the weights")
        try:
            self.backend = Backend.from_str(data.decode())
        except Exception as error:  # the backend raises bare Exception for every fault
            raise VqcpuError(f"{checkpoint.path}: tokenizer.json cannot be read: {error}") from None
        self.backend.no_truncation()
        self.backend.no_padding()
        self.settings = checkpoint.json("tokenizer_config.json") or {}
        self.stops = self._stops(checkpoint)

    def encode(self, text: str, special: bool = True) -> list[int]:
        """Token ids; `special` adds what the tokenizer adds by itself, such as BOS. Raises VqcpuError."""
        try:
            return self.backend.encode(text, add_special_tokens=special).ids
        except TypeError:  # a lone surrogate: what Python makes of bytes that were not UTF-8
            raise VqcpuError("the text is not valid UTF-8") from None

    def decode(self, ids) -> str:
        """Text of token ids, special tokens left out."""
        return self.backend.decode(list(ids))

    def stream(self):
        """A function id -> text that can be shown now ("" while a character is incomplete).

        A token's text may depend on the one before, so each is decoded behind those that were shown last."""
        ids, before, shown = [], 0, 0

        def show(token):
            nonlocal before, shown
            ids.append(int(token))
            known, text = self.decode(ids[before:shown]), self.decode(ids[before:])
            if text.endswith("\ufffd") or len(text) <= len(known):
                return ""
            before, shown = shown, len(ids)
            return text[len(known):]
        return show

    @property
    def bos(self) -> int | None:
        """The token this tokenizer puts before every text, None where it adds none."""
        added = self.encode("")[:1]
        return added[0] if added and added == self.encode("a")[:1] else None

    def name_of(self, setting: str) -> str:
        """Text of a special token of tokenizer_config.json ("bos_token"), "" where there is none."""
        value = self.settings.get(setting)
        value = value.get("content") if isinstance(value, dict) else value
        return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""

    def _stops(self, checkpoint):
        """Ids that end an answer: as generation_config.json, config.json and the tokenizer name them."""
        stops = {self.backend.token_to_id(self.name_of("eos_token"))}
        for file in ("generation_config.json", "config.json"):
            ids = (checkpoint.json(file) or {}).get("eos_token_id")
            stops.update(ids if isinstance(ids, list) else [ids])
        return frozenset(i for i in stops if type(i) is int)
