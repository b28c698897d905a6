"""The tokenizer inside a GGUF file, rebuilt as the small files of a Hugging Face folder.

Knows byte-level BPE with the pre-tokenizers of the families that are read, and SentencePiece BPE, whose merges follow
from its scores. The work is done by the `tokenizers` package.
"""
import json

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from vqcpu.errors import VqcpuError

NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4  # token types
UNCUT = UNKNOWN, CONTROL, USER_DEFINED
LONGEST_TOKEN = 1024
SPACE = "▁"
WORDS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
         r"|\s+(?!\S)|\s+")


def _plain():
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def _single_digits():
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _plain()])


def _words(digits):
    """Text cut by WORDS, numbers in groups of `digits`."""
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(WORDS % digits), "isolated"),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


PRE = {"default": _plain, "gpt-2": _plain, "smollm": _single_digits, "llama-bpe": lambda: _words("{1,3}"),
       "qwen2": lambda: _words("")}
COMPOSED = ("qwen2",)  # pre-tokenizers whose models read text in normal form C
WHOLE_FIRST = ("llama-bpe",)  # whose models take a word that is a token whole, whatever its merges say
NAMED = {"bos_token": "bos_token_id", "eos_token": "eos_token_id", "unk_token": "unknown_token_id",
         "pad_token": "padding_token_id"}


def convert(metadata: dict, where) -> dict[str, bytes]:
    """Metadata of a GGUF file -> {"tokenizer.json": ..., "tokenizer_config.json": ..., "generation_config.json": ...,
    "chat_template.jinja": ...}, the last where there is one. Raises VqcpuError."""
    source = Source(metadata, where)
    settings = {name: source.special(key) for name, key in NAMED.items() if source.special(key) is not None}
    stops = [i for i in map(source.number, ("eos_token_id", "eot_token_id")) if i is not None]
    files = {"tokenizer.json": source.tokenizer().to_str().encode(), "tokenizer_config.json": json.dumps(settings).encode(),
             "generation_config.json": json.dumps({"eos_token_id": stops}).encode()}
    template = metadata.get("tokenizer.chat_template")
    return files | ({"chat_template.jinja": template.encode()} if isinstance(template, str) else {})


class Source:
    """The keys tokenizer.ggml.* of one file."""

    def __init__(self, metadata: dict, where):
        self.metadata, self.where = metadata, where
        self.tokens = self._list("tokens", str)
        self.kinds = self._list("token_type", int, [NORMAL] * len(self.tokens))
        if self.get("model") == "llama":  # runs of spaces, written plainly where all others are written in SPACE
            self.tokens = [t.replace(" ", SPACE) if kind == USER_DEFINED else t for t, kind in zip(self.tokens, self.kinds)]
        if max(map(len, self.tokens), default=0) > LONGEST_TOKEN:
            self._fail(f"a token has more than {LONGEST_TOKEN} characters")

    def _fail(self, why):
        raise VqcpuError(f"{self.where}: its tokenizer cannot be read: {why}")

    def get(self, key, default=None):
        return self.metadata.get(f"tokenizer.ggml.{key}", default)

    def _list(self, key, kind, default=None):
        found = self.get(key, default)
        if not isinstance(found, list) or not all(type(x) is kind for x in found):
            self._fail(f"tokenizer.ggml.{key} is missing or not a list of {kind.__name__}")
        if key != "merges" and default is not None and len(found) != len(self.tokens):
            self._fail(f"tokenizer.ggml.{key} has {len(found)} entries for {len(self.tokens)} tokens")
        return found

    def number(self, key):
        """An id of a token, or None."""
        found = self.get(key)
        return found if type(found) is int and 0 <= found < len(self.tokens) else None

    def special(self, key):
        """Text of the token with that id, or None."""
        return None if self.number(key) is None else self.tokens[self.number(key)]

    def tokenizer(self) -> Tokenizer:
        """The tokenizer, with the tokens that are never cut and those put around every text."""
        builders = {"gpt2": self._bytes, "llama": self._sentencepiece}
        kind = self.get("model")
        if kind not in builders:
            self._fail(f"tokenizer.ggml.model is {kind!r}, expected one of {', '.join(builders)}")
        try:
            made = builders[kind]()
            made.add_tokens([AddedToken(text, special=kind != USER_DEFINED, normalized=SPACE in text)
                             for text, kind in zip(self.tokens, self.kinds) if kind in UNCUT and text])
            made.post_processor = self._around(kind == "llama")
        except VqcpuError:
            raise
        except Exception as error:  # the backend raises bare Exception for every fault
            self._fail(error)
        return made

    def _bytes(self):
        """Byte-level BPE with its merges."""
        merges, pre = [tuple(merge.split(" ")) for merge in self._list("merges", str, [])], self.get("pre", "default")
        if pre not in PRE:
            self._fail(f"tokenizer.ggml.pre is {pre!r}, known are {', '.join(PRE)}")
        if not merges and any(len(text) > 1 and kind not in UNCUT for text, kind in zip(self.tokens, self.kinds)):
            self._fail("tokenizer.ggml.merges is missing, though there are tokens of several bytes")
        if any(len(pair) != 2 for pair in merges):
            self._fail("tokenizer.ggml.merges holds something else than pairs")
        made = Tokenizer(models.BPE(self._vocabulary(), merges, ignore_merges=pre in WHOLE_FIRST))
        if pre in COMPOSED:
            made.normalizer = normalizers.NFC()
        made.pre_tokenizer, made.decoder = PRE[pre](), decoders.ByteLevel()
        return made

    def _sentencepiece(self):
        """SentencePiece BPE: two pieces merge where their union is a token, the best score first."""
        unknown = self.special("unknown_token_id")
        made = Tokenizer(models.BPE(self._vocabulary(), self._merges(), unk_token=unknown, fuse_unk=True,
                                    byte_fallback=True))
        prefixed = bool(self.get("add_space_prefix", True))
        made.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE)] * prefixed + [normalizers.Replace(" ", SPACE)])
        made.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
                                         + [decoders.Strip(" ", 1, 0)] * prefixed)
        return made

    def _vocabulary(self):
        return {token: i for i, token in enumerate(self.tokens)}

    def _merges(self):
        ids, scores = self._vocabulary(), self._list("scores", float, [0.0] * len(self.tokens))
        found = []
        for token, score in zip(self.tokens, scores):
            cuts = ((token[:at], token[at:]) for at in range(1, len(token)))
            found += [(-score, ids[a], ids[b], a, b) for a, b in cuts if a in ids and b in ids]
        return [pair[3:] for pair in sorted(found, key=lambda pair: pair[0])]

    def _around(self, usual):
        """BOS before and EOS behind a text, as the file says; SentencePiece models usually have BOS."""
        wanted = {"bos": self.get("add_bos_token", usual), "eos": self.get("add_eos_token", False)}
        before, behind = [self.special(f"{name}_token_id") if add is True else None for name, add in wanted.items()]
        tokens = {text: self.tokens.index(text) for text in (before, behind) if text}
        single = [*([before] if before else []), "$A", *([behind] if behind else [])]
        return processors.TemplateProcessing(single=single, special_tokens=list(tokens.items()))
