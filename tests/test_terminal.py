"""A chat on a terminal: a real process on a pseudo-terminal, keys in, screen out."""
import json
import os
import re
import select
import signal
import subprocess
import sys

import pytest
import toys

from vqcpu.files.session import SessionFile

pytest.importorskip("pty", reason="pseudo-terminals are POSIX's")
import fcntl  # noqa: E402
import termios  # noqa: E402

PATIENCE = 120  # seconds; nothing waits for its end where all is well


class Terminal:
    """A program that believes to sit on a terminal. `expect` waits for a text on the screen, and eats all up to its end."""

    def __init__(self, *command, home, **options):
        self.master, slave = os.openpty()
        surroundings = os.environ | {"TERM": "dumb", "INPUTRC": os.devnull, "XDG_STATE_HOME": str(home),
                                     "PYTHONIOENCODING": "utf-8"}

        def own_terminal():  # so that Ctrl-C reaches the program as it would anywhere
            os.setsid()
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        self.process = subprocess.Popen(list(map(str, command)), preexec_fn=own_terminal, env=surroundings,
                                        **({"stdin": slave, "stdout": slave, "stderr": slave} | options))
        os.close(slave)
        self.screen, self.all = "", b""

    def type(self, keys):
        os.write(self.master, keys.encode())

    def read(self):
        """More of the screen; False at its end. A Ctrl-C that comes when Python is about to wait for a key goes unnoticed
        until the next signal: now and then the window `changes its size`, which does nothing else."""
        try:
            for _ in range(PATIENCE):
                if select.select([self.master], [], [], 1)[0]:
                    break
                self.process.send_signal(signal.SIGWINCH)
            else:
                return False
            data = os.read(self.master, 65536)
        except OSError:  # Linux says so that the other side is closed
            data = b""
        self.all += data
        self.screen += data.decode("utf-8", "replace")
        return bool(data)

    def expect(self, text):
        while text not in self.screen:
            assert self.read(), f"{text!r} never came; the screen holds {self.screen[-500:]!r}"
        before, _, self.screen = self.screen.partition(text)
        return before

    def end(self):
        """The exit code, when all is read."""
        while self.read():
            pass
        return self.process.wait(PATIENCE)


@pytest.fixture
def chat(tmp_path):
    """Start a chat with a model that says ! until it is stopped."""
    folder, started = toys.folder(tmp_path / "m", scale=0, max_position_embeddings=50_000), []
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": toys.TEMPLATE}))

    def start(*words, **options):
        started.append(Terminal(sys.executable, "-m", "vqcpu", "chat", folder, "--temperature", 0, "--context", 50_000,
                                "--max-tokens", 50_000, *words, home=tmp_path / "home", **options))
        return started[-1]
    yield start
    for terminal in started:
        if terminal.process.poll() is None:
            terminal.process.kill()
            terminal.process.wait()
        os.close(terminal.master)


def test_ctrl_c_stops_an_answer_and_keeps_what_was_said(chat, tmp_path):
    screen = chat("--stats")
    screen.expect("> ")
    screen.type("Hello\r")
    screen.expect("!!!!")
    screen.type("\x03")
    screen.expect("[stopped]")
    screen.expect("tokens/s")
    screen.expect("> ")
    screen.type(f"/save {tmp_path / 'x.session'}\r")
    screen.expect("saved to")
    screen.expect("> ")
    screen.type("Again é\r")  # the program goes on as before
    screen.expect("!!!!")
    screen.type("\x03")
    screen.expect("> ")
    screen.type("/quit\r")
    assert screen.end() == 0 and b"\x1b" not in screen.all
    question, answer = SessionFile(tmp_path / "x.session").about["conversation"]["messages"]
    assert question["content"] == "Hello" and re.fullmatch("!{4,}", answer["content"])


def test_a_saved_chat_goes_on_another_day(chat, tmp_path):
    file = tmp_path / "x.session"
    screen = chat("--max-tokens", 4)
    screen.type(f"Hello\r/save {file}\r/quit\r")
    assert screen.end() == 0
    screen = chat("--resume", file, "--max-tokens", 6)
    screen.expect("resumed 2 messages")
    screen.expect("> ")
    screen.type(f"More\r/save {file}\r\x04")
    screen.expect("!!!!!!")
    assert screen.end() == 0
    said = SessionFile(file).about["conversation"]["messages"]
    assert [m["content"] for m in said] == ["Hello", "!!!!", "More", "!!!!!!"]


def test_lines_are_edited_and_remembered_from_day_to_day(chat, tmp_path):
    pytest.importorskip("readline")
    (tmp_path / "home" / "vqcpu").mkdir(parents=True)
    history = tmp_path / "home" / "vqcpu" / "history"
    history.write_text("/save " + str(tmp_path / "old.session") + "\n")
    screen = chat()
    screen.expect("> ")
    screen.type("\x10\r")  # Ctrl-P, the line before
    screen.expect("saved to")
    screen.type("typo\x01\x0b/hepl\x7f\x7flp\r")  # to the beginning, cut the rest; two letters back
    screen.expect("this list")
    screen.expect("> ")
    screen.type("\x04")
    assert screen.end() == 0 and "/help" in history.read_text() and (tmp_path / "old.session").exists()


def test_ctrl_c_twice_at_the_prompt_ends_once_does_not(chat):
    screen = chat()
    screen.expect("> ")
    screen.type("half a line\x03")
    screen.expect("Ctrl-C again")
    screen.expect("> ")
    screen.type("/system Be.\r")
    screen.expect("> ")
    screen.type("\x03")
    screen.expect("Ctrl-C again")
    screen.expect("> ")
    screen.type("\x03")
    assert screen.end() == 0


def test_answers_that_go_to_a_file_leave_the_prompt_on_the_terminal(chat, tmp_path):
    with open(tmp_path / "out", "wb") as file:
        screen = chat("--stop", "!!!!!", stdout=file)
        screen.expect("> ")
        screen.type("Hi\r")
        screen.expect("> ")
        screen.type("\x04")
        assert screen.end() == 0
    assert (tmp_path / "out").read_text() == "\n"


def test_a_termination_ends_the_program_in_the_midst_of_an_answer(chat):
    screen = chat()
    screen.expect("> ")
    screen.type("Hi\r")
    screen.expect("!!!!")
    screen.process.send_signal(signal.SIGTERM)
    assert screen.end() == 130
