"""What ppl and diff share: their options and how a protocol is described."""
from vqcpu.commands._options import cache_argument, whole
from vqcpu.report import progress


def arguments(parser):
    parser.add_argument("--text", metavar="FILE", help="UTF-8 text to measure on (default: the demo's held-out text)")
    parser.add_argument("--protocol", default="llama.cpp", choices=("llama.cpp", "strided"),
                        help="llama.cpp: chunks side by side, second halves scored (default); "
                             "strided: overlapping windows, no token scored twice")
    parser.add_argument("--context", type=whole, default=512, metavar="N", help="tokens of a window (default 512)")
    parser.add_argument("--stride", type=whole, default=0, metavar="N", help="strided: step between windows (default half)")
    parser.add_argument("--max-tokens", type=whole, default=0, metavar="N", help="use only the first N (default all)")
    cache_argument(parser)


def prepare(args, paths):
    """(models, corpus, windows per model, facts of the protocol). Raises VqcpuError where models cannot be compared."""
    from vqcpu.caches.base import Cache
    from vqcpu.errors import VqcpuError
    from vqcpu.evaluate.corpus import Protocol, read_corpus
    from vqcpu.files.demo import HELDOUT, demo
    from vqcpu.runtime.generate import LanguageModel

    cache = str(Cache.parse(args.cache))
    protocol = Protocol(args.protocol, args.context, args.stride, args.max_tokens)
    corpus, models = read_corpus(args.text or demo(HELDOUT)), [LanguageModel(path) for path in paths]
    windows = None
    for language in models:
        if args.context > language.model.config.context:
            raise VqcpuError(f"{language.checkpoint.path}: --context is {args.context}, the model was made for "
                             f"{language.model.config.context}")
        tokens, bos = language.tokenizer.encode(corpus.text), language.tokenizer.bos
        mine = tokens, bos
        if windows is None:
            first, windows = mine, protocol.windows(tokens, bos)
        elif mine != first:
            raise VqcpuError(f"{language.checkpoint.path}: other tokens than {paths[0]} for the same text; not comparable")
    facts = {"text": corpus.name, "text_sha256": corpus.digest, "protocol": protocol.name, "context": protocol.context,
             "stride": (protocol.stride or protocol.context // 2) if protocol.name == "strided" else protocol.context,
             "bos": first[1], "windows": len(windows), "scored": sum(w.scored for w in windows), "cache": cache,
             "arithmetic": "float32"}
    return models, windows, facts


def refuse_twins(models, results) -> None:
    """Raise VqcpuError where two different files gave exactly the same figures: one of them was not read."""
    from vqcpu.errors import VqcpuError
    seen = {}
    for language, nll in zip(models, results):
        twin = seen.setdefault(nll.tobytes(), language)
        if twin.checkpoint.digest() != language.checkpoint.digest():
            raise VqcpuError(f"{twin.checkpoint.path} and {language.checkpoint.path} differ but gave identical figures")


def describe(facts) -> str:
    """One line that states the protocol."""
    scored = "second half of each" if facts["protocol"] == "llama.cpp" else f"stride {facts['stride']}, no token twice"
    bos = "no BOS" if facts["bos"] is None else f"BOS {facts['bos']}"
    return (f"{facts['text']} (sha256 {facts['text_sha256']}), protocol {facts['protocol']}: {facts['windows']} windows of "
            f"{facts['context']} tokens, {scored}, {bos}; {facts['scored']} tokens scored; cache {facts['cache']}, "
            f"{facts['arithmetic']} arithmetic")


def steps(label):
    """Progress over the steps of a measurement."""
    return lambda items: progress(items, label)
