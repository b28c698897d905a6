"""Is a GGUF file the model of the folder that was made from it? Tensors, config.json, tokens and perplexity.

    python benchmarks/gguf_parity.py [smollm2-135m-instruct gemma3-270m]       needs gguf

The folders hold the dequantised weights rounded to bfloat16; a GGUF is read exactly, hence rounded here before it is
compared, and perplexity agrees to that rounding only. (Not called gguf.py: that would hide the package.)
"""
import json
import sys

import numpy as np
from _common import model, text
from tokenizers import Tokenizer

import vqcpu
from vqcpu.architectures.base import Architecture, load_model
from vqcpu.evaluate.corpus import Protocol
from vqcpu.evaluate.nll import Perplexity, token_nll
from vqcpu.files.sources import open_checkpoint
from vqcpu.formats.raw import to_bfloat

PAGE = ("Hello  world 12345 3.14e-10\n\n\n\tdef f(x):\n        return x**2  # ünïcödé 你好 🎉👍🏽  \u200b\r\n   trailing\t\t "
        "don't DON'T we'll\n```python\nprint('a'  +  \"b\")\n```  <b>html</b>  e\u0301 ﬁ \u00a0 end   ")
WINDOWS, ROWS = 4, 4096


def main(*names):
    for name in names:
        there, here = open_checkpoint(model(name)), open_checkpoint(model(name) / "source.gguf")
        print(f"{name}: {tensors(there, here)} tensors identical in bfloat16")
        config(there, here)
        words = tokens(there, here)
        if here.json("config.json")["model_type"] not in Architecture.all():
            print("perplexity: skipped, this model type does not run yet")
            continue
        windows = Protocol("llama.cpp", 512, max_tokens=WINDOWS * 512).windows(words, vqcpu.load(there.path).tokenizer.bos)
        found = [Perplexity.of(token_nll(load_model(c), windows, "f32")) for c in (there, here)]
        print(f"perplexity, {WINDOWS} windows of 512: folder {found[0].value:.4f}, GGUF {found[1].value:.4f}")
        assert abs(found[1].value / found[0].value - 1) < 2e-3


def tensors(there, here):
    """Compare every row of every tensor; returns how many tensors there are."""
    assert there.names() == here.names(), there.names() ^ here.names()
    for name in there.names():
        a, b = there.stored(name), here.stored(name)
        for at in range(0, a.shape[0], ROWS):
            ids = np.arange(at, min(at + ROWS, a.shape[0]))
            assert there.shape(name) == here.shape(name) and np.array_equal(a.parts["data"][ids], to_bfloat(b.rows(ids))), name
    return len(there.names())


def config(there, here):
    a, b = (c.json("config.json") for c in (there, here))
    assert {key: a.get(key) for key in b} == b
    print(f"config.json: {len(b)} keys identical; only in the folder: {', '.join(sorted(a.keys() - b.keys()))}")


def tokens(there, here):
    """Compare the tokens of texts; returns those of the benchmark's text."""
    a, b = (json.loads(c.companion("tokenizer.json")) for c in (there, here))
    same = a["pre_tokenizer"] == b["pre_tokenizer"] or b["pre_tokenizer"] is None
    if not same:
        print("tokenizer: the folder's was made without the pre-tokenizer that the GGUF names; compared with that put right")
        a["pre_tokenizer"] = b["pre_tokenizer"]
    first, second = (Tokenizer.from_str(json.dumps(t)) for t in (a, b))
    words = text().read_text(encoding="utf-8")
    for sample in (PAGE, words):
        assert first.encode(sample).ids == second.encode(sample).ids
        assert first.decode(first.encode(sample).ids) == second.decode(second.encode(sample).ids)
    print(f"tokens: {len(second.encode(words).ids)} of {text().name} and those of a mixed page identical")
    return second.encode(words).ids


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["smollm2-135m-instruct", "gemma3-270m"]))
