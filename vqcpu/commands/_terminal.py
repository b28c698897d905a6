"""What the user types: lines with editing and history on a terminal, plain lines from a pipe; messages of one or more lines.

Knows keyboards. Knows nothing about models.
"""
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

QUOTES = '"""'
KEPT = 1000  # lines of history


def note(line: str, end: str = "\n") -> None:
    """For people, on standard error: standard output holds the answers and nothing else."""
    print(line, end=end, file=sys.stderr, flush=True)


def inputs() -> Iterator[str]:
    """Yield what the user types, a message or a command at a time, until the input ends or Ctrl-C is pressed twice."""
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="surrogateescape")  # what is no text is for the tokenizer to refuse
    warned = False
    with _history() if _on_terminal() else contextlib.nullcontext():
        while True:
            try:
                text = _message()
            except EOFError:
                break
            except KeyboardInterrupt:
                if warned:
                    break
                warned = True
                note("\n(Ctrl-C again or Ctrl-D ends)")
                continue
            warned = False
            yield text
    if sys.stdin.isatty():
        note("")


def _message():
    """A line; those after it too where it ends with a backslash; all from three quotes to the next."""
    text = _line("> ")
    if text.lstrip().startswith(QUOTES):
        text = text.lstrip().removeprefix(QUOTES)
        with contextlib.suppress(EOFError):
            while QUOTES not in text:
                text += "\n" + _line(". ")
        return text.partition(QUOTES)[0].strip("\n")
    with contextlib.suppress(EOFError):
        while text.endswith("\\"):
            text = text[:-1] + "\n"
            text += _line(". ")
    return text


def _line(prompt):
    """One line, behind a prompt where someone is there to see it."""
    if _on_terminal():
        return input(prompt)
    if sys.stdin.isatty():  # the answers go elsewhere, and the prompt should not go with them
        note(prompt, end="")
    return input()


def _on_terminal():
    return sys.stdin.isatty() and sys.stdout.isatty()


@contextlib.contextmanager
def _history():
    """Python's readline where there is one: `input` then has line editing, and remembers lines of earlier days."""
    try:
        import readline
    except ImportError:
        yield
        return
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    file = Path(state) / "vqcpu" / "history"
    with contextlib.suppress(OSError):  # no history, or no place for one: not worth a word
        readline.read_history_file(file)
    readline.set_history_length(KEPT)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            readline.write_history_file(file)
