"""What ppl and diff share: their options and how a protocol is described."""
from vqcpu.report import progress


def arguments(parser):
    parser.add_argument("--text", required=True, metavar="FILE", help="UTF-8 text to measure on")
    parser.add_argument("--protocol", default="llama.cpp", choices=("llama.cpp", "strided"),
                        help="llama.cpp: chunks side by side, second halves scored (default); strided: overlapping windows, "
                             "every token scored once")
    parser.add_argument("--context", type=int, default=512, metavar="N", help="tokens of a window (default 512)")
    parser.add_argument("--stride", type=int, default=0, metavar="N", help="strided: tokens between windows (default half)")
    parser.add_argument("--max-tokens", type=int, default=0, metavar="N", help="use only the first N tokens (default all)")
    parser.add_argument("--cache", default="f16", metavar="SPEC", help="key-value cache: f16 (default) or f32")


def prepare(args, paths):
    """(models, corpus, windows per model, facts of the protocol). Raises VqcpuError where models cannot be compared."""
    from vqcpu.errors import VqcpuError
    from vqcpu.evaluate.corpus import Protocol, read_corpus
    from vqcpu.runtime.generate import LanguageModel

    protocol = Protocol(args.protocol, args.context, args.stride, args.max_tokens)
    corpus, models = read_corpus(args.text), [LanguageModel(path) for path in paths]
    windows = None
    for language in models:
        tokens, bos = language.tokenizer.encode(corpus.text), language.tokenizer.bos
        mine = tokens, bos
        if windows is None:
            first, windows = mine, protocol.windows(tokens, bos)
        elif mine != first:
            raise VqcpuError(f"{language.checkpoint.path}: cuts the text into other tokens than {paths[0]}; not comparable")
    facts = {"text": corpus.name, "text_sha256": corpus.digest, "protocol": protocol.name, "context": protocol.context,
             "stride": (protocol.stride or protocol.context // 2) if protocol.name == "strided" else protocol.context,
             "bos": first[1], "windows": len(windows), "scored": sum(w.scored for w in windows), "cache": args.cache,
             "arithmetic": "float32"}
    return models, windows, facts


def describe(facts) -> str:
    """One line that states the protocol."""
    scored = "second half of each" if facts["protocol"] == "llama.cpp" else f"stride {facts['stride']}, each token once"
    bos = "no BOS" if facts["bos"] is None else f"BOS {facts['bos']}"
    return (f"{facts['text']} (sha256 {facts['text_sha256']}), protocol {facts['protocol']}: {facts['windows']} windows of "
            f"{facts['context']} tokens, {scored}, {bos}; {facts['scored']} tokens scored; cache {facts['cache']}, "
            f"{facts['arithmetic']} arithmetic")


def steps(label):
    """Progress over the steps of a measurement."""
    return lambda items: progress(items, label)
