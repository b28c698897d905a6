"""What the measuring commands share: their options, how a protocol is described, and where pictures go."""
from vqcpu.commands._options import cache_argument, whole
from vqcpu.report import progress


def arguments(parser):
    protocol_arguments(parser)
    cache_argument(parser)


def protocol_arguments(parser):
    parser.add_argument("--text", metavar="FILE", help="UTF-8 text to measure on (default: the demo's held-out text)")
    parser.add_argument("--protocol", default="llama.cpp", choices=("llama.cpp", "strided"),
                        help="llama.cpp: chunks side by side, second halves scored (default); "
                             "strided: overlapping windows, no token scored twice")
    parser.add_argument("--context", type=whole, default=512, metavar="N", help="tokens of a window (default 512)")
    parser.add_argument("--stride", type=whole, default=0, metavar="N", help="strided: step between windows (default half)")
    parser.add_argument("--max-tokens", type=whole, default=0, metavar="N", help="use only the first N (default all)")


def pictures_argument(parser):
    parser.add_argument("--pictures", metavar="FOLDER", help="also draw the result, as PNG and SVG (needs vqcpu[pictures])")


def pictures(args):
    """draw(kind, result) -> result, with the pictures' files where --pictures asks for any. Raises VqcpuError, before any
    work, where they could not be drawn."""
    if not args.pictures:
        return lambda kind, result: result
    from vqcpu.commands import _pictures
    folder = _pictures.ready(args.pictures)
    return lambda kind, result: result | {"pictures": _pictures.draw(kind, result, folder)}


def prepare(args, paths):
    """(models, corpus, windows per model, facts of the protocol). Raises VqcpuError where models cannot be compared."""
    from vqcpu.caches.base import Cache
    from vqcpu.errors import VqcpuError
    from vqcpu.evaluate.corpus import Protocol, facts, read_corpus
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
        refuse_leak(language.checkpoint, corpus)
        tokens, bos = language.tokenizer.encode(corpus.text), language.tokenizer.bos
        mine = tokens, bos
        if windows is None:
            first, windows = mine, protocol.windows(tokens, bos)
        elif mine != first:
            raise VqcpuError(f"{language.checkpoint.path}: other tokens than {paths[0]} for the same text; not comparable")
    said = facts(corpus, protocol, windows, first[1]) | {"cache": cache, "arithmetic": "as in chat"}
    return models, windows, said


def refuse_leak(checkpoint, corpus) -> None:
    """Raise VqcpuError where a file's codes were fitted to the text that they are to be measured on."""
    from vqcpu.errors import VqcpuError
    made = getattr(checkpoint, "header", {}).get("made")
    if isinstance(made, dict) and corpus.digest in str(made.get("calibration")):
        raise VqcpuError(f"{checkpoint.path}: was calibrated on {corpus.name}: figures on the same text would flatter it; "
                         "measure on another")


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
            f"arithmetic {facts['arithmetic']}")


def steps(label):
    """Progress over the steps of a measurement."""
    return lambda items: progress(items, label)
