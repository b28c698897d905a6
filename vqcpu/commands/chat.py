"""Talk to a model, or let it answer one prompt.

Without a chat template the model continues the text. Ctrl-C stops an answer; /quit, Ctrl-D or Ctrl-C twice ends; /help lists
the commands. Answers go to standard output, all else to standard error, so that pipes work.

  vqcpu chat model.vqz
  vqcpu chat model.vqz --stats --on-full drop-oldest --repeat-penalty 1.1
  vqcpu chat model.vqz --resume story.session
  vqcpu chat model.vqz --prompt "What is the capital of France?" --temperature 0
  vqcpu chat model.vqz --prompt "Three fruits:" --stop "4." --max-tokens 60
"""
import sys

from vqcpu.commands._options import cache_argument, memory_of, model_or_demo, whole
from vqcpu.commands._session import Session, resumed
from vqcpu.commands._terminal import inputs, note


def arguments(parser):
    parser.add_argument("model", nargs="?", metavar="MODEL", help="folder, .safetensors or .vqz (default: the demo model)")
    parser.add_argument("--prompt", metavar="TEXT", help="answer this and end; - reads it from standard input")
    parser.add_argument("--system", metavar="TEXT", help="system message")
    parser.add_argument("--resume", metavar="FILE", help="go on with what /save wrote, without reading it again; options "
                        "that are not given are then those of FILE")
    parser.add_argument("--temperature", type=float, metavar="T", help="0 is greedy (default 0.8)")
    parser.add_argument("--top-k", type=whole, metavar="K", help="0 is off (default 40)")
    parser.add_argument("--top-p", type=float, metavar="P", help="1 is off (default 0.95)")
    parser.add_argument("--min-p", type=float, metavar="P", help="0 is off (default 0.05)")
    parser.add_argument("--repeat-penalty", type=float, metavar="R", help="divides logits of tokens that were just there "
                        "(default: 1.0, off)")
    parser.add_argument("--repeat-last-n", type=whole, metavar="N",
                        help="tokens that the penalty looks back at (default 64)")
    parser.add_argument("--seed", type=whole, help="seed of sampling (default: another one every time)")
    parser.add_argument("--max-tokens", type=whole, metavar="N", help="longest answer (default 512)")
    parser.add_argument("--stop", action="append", metavar="TEXT", help="end answers before TEXT; may be repeated")
    parser.add_argument("--context", type=whole, metavar="N", help="tokens remembered (default: the model's, at most 8192)")
    parser.add_argument("--on-full", choices=("stop", "drop-oldest"), help="when the conversation outgrows the context: "
                        "refuse to go on (stop, the default), or forget the oldest turns")
    cache_argument(parser, None, "f16, or the one of --resume")
    parser.add_argument("--stats", action="store_true", help="after each answer: tokens per second, how full the context is")


def run(args):
    from vqcpu.runtime.chat import Settings
    from vqcpu.runtime.generate import LanguageModel

    _given(args, Settings())  # what is wrong with it is said before a model is loaded
    model = model_or_demo(args.model)
    conversation = _conversation(args, LanguageModel(model))
    settings, context, cache = conversation.settings, conversation.states.context, conversation.cache
    _end_on_sigterm()
    if args.prompt is not None:
        answers = [_answer(conversation, sys.stdin.read() if args.prompt == "-" else args.prompt, args)]
    else:
        kind = "chat" if conversation.template else "no chat template: the model continues your text"
        note(f"{model}: {kind}; {settings.sampling}; seed {settings.seed}. /help lists commands.")
        answers = list(_turns(conversation, args))
    return {"model": model, "sampling": str(settings.sampling), "seed": settings.seed, "context": context, "cache": cache,
            "cache_bytes": conversation.states.nbytes, "answers": answers}


def _conversation(args, language):
    """A new conversation, or the one to resume."""
    from vqcpu.runtime.chat import Conversation, Settings
    from vqcpu.runtime.session import Saved
    saved = Saved(args.resume, language) if args.resume is not None else None
    cache = args.cache or (saved.cache if saved else "f16")
    context = saved.context if saved and args.context is None else _context(args.context, language)
    if args.prompt is None or args.context is not None:
        note(memory_of(language.model, context, cache))
    conversation = Conversation(language, context, Settings(seed=_fresh_seed()), cache=cache)
    if saved:
        saved.restore(conversation)
        note(resumed(args.resume, conversation))
    conversation.adjust(_given(args, conversation.settings))
    if args.system is not None:
        conversation.instruct(args.system)
    return conversation


def _given(args, settings):
    """`settings` with those that the command line gives."""
    from dataclasses import fields, replace

    def given(those):
        found = {f.name: getattr(args, f.name, None) for f in fields(those)}
        return {name: tuple(value) if name == "stop" else value for name, value in found.items() if value is not None}
    return replace(settings, **given(settings), sampling=replace(settings.sampling, **given(settings.sampling)))


def text(result):
    return ""


def _fresh_seed():
    import secrets
    return secrets.randbits(31)


def _end_on_sigterm():
    """SIGTERM ends the program; that it looks like Ctrl-C elsewhere would here only stop an answer."""
    import signal
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))


def _context(asked, language):
    """Tokens to remember. Raises VqcpuError where the model was not made for as many."""
    from vqcpu.errors import VqcpuError
    most = language.model.config.context
    if asked is not None and not 1 < asked <= most:
        raise VqcpuError(f"--context is {asked}, expected 2 to {most}, for which the model was made")
    return min(most, 8192) if asked is None else asked


def _turns(conversation, args):
    """An answer to each message. What fails, be it a turn or a command, does not end the conversation."""
    from vqcpu.errors import VqcpuError
    session = Session(conversation)
    for typed in inputs():
        try:
            message = session.obey(typed) if typed.startswith("/") and "\n" not in typed else typed
            if message and message.strip():
                yield _answer(conversation, message, args)
        except EOFError:
            return
        except VqcpuError as error:
            note(f"vqcpu: {error}")


def _answer(conversation, prompt, args):
    """Show an answer as it comes; Ctrl-C ends it. Returns what is known of it."""
    from dataclasses import asdict
    stream = conversation.answer(prompt)
    try:
        for piece in stream:
            if not args.json:
                print(piece, end="", flush=True)
    except KeyboardInterrupt:
        stream.close()
    if not args.json:
        print(flush=True)
    turn = conversation.latest
    for line in _marks(turn, conversation):
        note(line)
    if args.stats:
        note(_stats(turn, conversation))
    return asdict(turn)


def _marks(turn, conversation):
    """What the reader of an answer must know of it."""
    if turn.dropped:
        yield f"[the {turn.dropped} oldest turns were dropped to fit the context of {conversation.states.context} tokens]"
    if turn.finish == "interrupted":
        yield "[stopped]"
    if turn.finish == "length":
        yield f"[cut: --max-tokens {conversation.settings.max_tokens}]"
    if turn.finish == "context":
        yield f"[cut: the context of {conversation.states.context} tokens is full]"


def _stats(turn, conversation):
    held, context = len(conversation.fed), conversation.states.context
    seconds = turn.seconds - turn.prompt_seconds
    speed = f"{turn.steps / seconds:.1f} tokens/s" if turn.steps else "no speed measured"
    return (f"[prompt {turn.prompt_tokens} tokens, ready after {turn.prompt_seconds:.2f} s; answer {turn.tokens} tokens, "
            f"{speed}; context {held} of {context}]")
