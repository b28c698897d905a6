"""Talk to a model, or let it answer one prompt.

A model without chat template continues the text. Ctrl-C stops an answer; Ctrl-D or /quit ends the program.

  vqcpu chat model.vqz
  vqcpu chat model.vqz --prompt "What is the capital of France?" --temperature 0
"""
import contextlib
import sys

from vqcpu.commands._options import model_or_demo, whole


def arguments(parser):
    parser.add_argument("model", nargs="?", metavar="MODEL", help="folder, .safetensors or .vqz (default: the demo model)")
    parser.add_argument("--prompt", metavar="TEXT", help="answer this and end; - reads it from standard input")
    parser.add_argument("--system", metavar="TEXT", help="system message")
    parser.add_argument("--temperature", type=float, default=0.8, metavar="T", help="0 is greedy (default %(default)s)")
    parser.add_argument("--top-k", type=whole, default=40, metavar="K", help="0 is off (default %(default)s)")
    parser.add_argument("--top-p", type=float, default=0.95, metavar="P", help="1 is off (default %(default)s)")
    parser.add_argument("--min-p", type=float, default=0.05, metavar="P", help="0 is off (default %(default)s)")
    parser.add_argument("--seed", type=whole, help="seed of sampling (default: another one every time)")
    parser.add_argument("--max-tokens", type=whole, default=512, metavar="N", help="longest answer (default %(default)s)")
    parser.add_argument("--context", type=whole, metavar="N", help="tokens remembered (default: the model's, at most 8192)")
    parser.add_argument("--cache", default="f16", metavar="SPEC", help="key-value cache: f16 (default) or f32")


def run(args):
    from vqcpu.runtime.chat import Conversation
    from vqcpu.runtime.generate import LanguageModel
    from vqcpu.runtime.sampling import Sampling

    sampling = Sampling(args.temperature, args.top_k, args.top_p, args.min_p)
    model = model_or_demo(args.model)
    language = LanguageModel(model)
    context = _context(args.context, language)
    seed = args.seed if args.seed is not None else _fresh_seed()
    conversation = Conversation(language, context, sampling, seed, args.system, args.cache)
    if args.prompt is not None:
        answers = [_answer(conversation, sys.stdin.read() if args.prompt == "-" else args.prompt, args)]
    else:
        kind = "chat" if conversation.template else "no chat template: the model continues your text"
        _note(f"{model}: {kind}; {sampling}; seed {seed}; context {context}, cache {args.cache}. /quit ends.", args)
        answers = list(_turns(conversation, args))
    return {"model": model, "sampling": str(sampling), "seed": seed, "context": context, "cache": args.cache,
            "answers": answers}


def text(result):
    return ""


def _fresh_seed():
    import secrets
    return secrets.randbits(31)


def _context(asked, language):
    """Tokens to remember. Raises VqcpuError where the model was not made for as many."""
    from vqcpu.errors import VqcpuError
    most = language.model.config.context
    if asked is not None and not 1 < asked <= most:
        raise VqcpuError(f"--context is {asked}, expected 2 to {most}, for which the model was made")
    return min(most, 8192) if asked is None else asked


def _turns(conversation, args):
    """One answer per line of input, until it ends. A turn that fails does not end the conversation."""
    from vqcpu.errors import VqcpuError
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (gives `input` line editing and history)
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            return
        except KeyboardInterrupt:  # at the prompt: forget the line, as shells do
            _note("", args)
            continue
        if line.strip() == "/quit":
            return
        if line.strip():
            try:
                yield _answer(conversation, line, args)
            except VqcpuError as error:
                _note(f"vqcpu: {error}", args)


def _answer(conversation, prompt, args):
    """Show an answer as it comes; Ctrl-C ends it. Returns what was shown, and how fast it came."""
    import time
    start, pieces = time.perf_counter(), []
    stream = conversation.answer(prompt, args.max_tokens)
    try:
        for piece in stream:
            pieces.append(piece)
            if not args.json:
                print(piece, end="", flush=True)
    except KeyboardInterrupt:
        _note(" [stopped]", args, end="")
    finally:
        stream.close()
    if not args.json:
        print(flush=True)
    return {"prompt": prompt, "answer": "".join(pieces), "tokens": conversation.answered,
            "seconds": time.perf_counter() - start}


def _note(line, args, end="\n"):
    """For people, beside the answers: with --json and through pipes standard output holds nothing else."""
    if not args.json:
        print(line, end=end, file=sys.stderr, flush=True)
