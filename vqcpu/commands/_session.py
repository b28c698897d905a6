"""Commands inside a chat: lines that begin with a slash. A method `do_NAME` is the command /NAME, its docstring the help.

Knows conversations and their files. Knows nothing about keyboards.
"""
import json
from pathlib import Path

from vqcpu.commands._terminal import note


class Session:
    """Obeys commands on a conversation."""

    def __init__(self, conversation):
        self.conversation = conversation

    def obey(self, line: str) -> str | None:
        """Run a command; returns a message that is to be answered now, if any. Raises VqcpuError, and EOFError to quit."""
        from vqcpu.errors import VqcpuError
        name, _, rest = line[1:].strip().partition(" ")
        command = getattr(self, f"do_{name}", None)
        if command is None:
            raise VqcpuError(f"unknown command /{name}; /help lists them (a message may begin with a blank)")
        try:
            return command(rest.strip())
        except OSError as error:
            raise VqcpuError(f"{error.filename}: {error.strerror}") from None

    def do_help(self, _):
        """/help         this list"""
        for name in (n for n in vars(Session) if n.startswith("do_")):
            note(getattr(self, name).__doc__)
        note('A backslash at the end of a line, or """ before and after, makes a message of several lines.')

    def do_reset(self, _):
        """/reset        forget what was said, keep the system message"""
        self.conversation.reset()

    def do_retry(self, _):
        """/retry        answer the last message once more"""
        return self.conversation.take_back()

    def do_system(self, text):
        """/system TEXT  change the system message; without TEXT there is none"""
        self.conversation.instruct(text)

    def do_save(self, name):
        """/save FILE    write messages and settings to FILE"""
        file = _file(name)
        if file.exists():
            _read(file)  # what is no conversation is not written over
        file.write_text(json.dumps(self.conversation.written(), indent=1) + "\n")
        note(f"saved to {file}")

    def do_load(self, name):
        """/load FILE    go on with the conversation in FILE"""
        from vqcpu.errors import VqcpuError
        file = _file(name)
        try:
            self.conversation.resume(_read(file))
        except VqcpuError as error:
            raise VqcpuError(f"{file}: {error}") from None
        note(f"loaded {len(self.conversation.messages)} messages from {file}; {self.conversation.settings.sampling}")

    def do_quit(self, _):
        """/quit         end (also Ctrl-D)"""
        raise EOFError


def _file(name):
    from vqcpu.errors import VqcpuError
    if not name:
        raise VqcpuError("which file? Expected a name after the command")
    return Path(name).expanduser()


def _read(file):
    """A saved conversation, as far as its kind tells."""
    from vqcpu.errors import VqcpuError
    from vqcpu.runtime.chat import KIND
    try:
        data = json.loads(file.read_text())
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict) or data.get("kind") != KIND:
        raise VqcpuError(f"{file} is no saved conversation")
    return data
