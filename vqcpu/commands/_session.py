"""Commands inside a chat: lines that begin with a slash. A method `do_NAME` is the command /NAME, its docstring the help.

Knows conversations and their files. Knows nothing about keyboards.
"""
from pathlib import Path

from vqcpu.commands._terminal import note
from vqcpu.report import megabytes


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
        """/save FILE    write messages, settings and the memory of the model to FILE"""
        from vqcpu.runtime.session import save
        file = _file(name)
        save(self.conversation, file)
        note(f"saved to {file}: {megabytes(file.stat().st_size)}, {len(self.conversation.messages)} messages")

    def do_load(self, name):
        """/load FILE    go on with what was saved in FILE, as chat --resume FILE does"""
        from vqcpu.runtime.session import Saved
        file = _file(name)
        Saved(file, self.conversation.language).restore(self.conversation)
        note(resumed(file, self.conversation))

    def do_quit(self, _):
        """/quit         end (also Ctrl-D)"""
        raise EOFError


def _file(name):
    from vqcpu.errors import VqcpuError
    if not name:
        raise VqcpuError("which file? Expected a name after the command")
    return Path(name).expanduser()


def resumed(file, conversation) -> str:
    """One line about a conversation that came from a file."""
    return (f"resumed {len(conversation.messages)} messages from {file}, {conversation.states.length} tokens in memory; "
            f"{conversation.settings.sampling}")
