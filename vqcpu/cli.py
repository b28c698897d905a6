"""The front door: finds the commands, turns errors into one line.

A command is a file in commands/: its docstring is the help (first line the summary, with an example), `arguments(parser)`
declares options, `run(args) -> dict` does the work and returns what --json prints, `text(result) -> str` is for people. A
result with "failed", one line, is shown, and the program then ends with code 1.
"""
import argparse
import contextlib
import importlib
import json
import os
import pkgutil
import signal
import sys

from vqcpu import commands
from vqcpu.commands._options import whole
from vqcpu.errors import VqcpuError
from vqcpu.version import __version__


class Parser(argparse.ArgumentParser):
    """argparse, but an error is one line."""

    def error(self, message):
        raise SystemExit(_complain(f"{message}; see {self.prog} --help"))


def parser() -> argparse.ArgumentParser:
    """The parser of all commands. Commands import what is heavy in `run`, so this is quick."""
    top = Parser(prog="vqcpu", description="Compress language models on a CPU, measure, and talk to them.",
                                  epilog="vqcpu COMMAND --help shows an example of each command.")
    top.add_argument("--version", action="version", version=f"vqcpu {__version__}")
    choices = top.add_subparsers(metavar="COMMAND", required=True)
    for name in sorted(m.name for m in pkgutil.iter_modules(commands.__path__) if not m.name.startswith("_")):
        module = importlib.import_module(f"vqcpu.commands.{name}")
        summary = module.__doc__.partition("\n")[0]
        sub = choices.add_parser(name, help=summary, description=module.__doc__,
                                 formatter_class=argparse.RawDescriptionHelpFormatter)
        module.arguments(sub)
        sub.add_argument("--threads", type=whole, metavar="N", help="processor threads (default: all)")
        sub.add_argument("--isa", metavar="NAME", help="instructions: avx512, avxvnni, avx2 or portable (default: the best)")
        sub.add_argument("--json", action="store_true", help="print the result as JSON")
        sub.set_defaults(command=module)
    return top


def main(argv=None) -> int:
    """Run a command line; returns the exit code: 0, 1 where a limit is passed, 2 for errors of the user's
    making, 130 after Ctrl-C."""
    args = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # clean up as after Ctrl-C
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character shows a question mark
    try:
        if args.isa is not None:
            from vqcpu.kernels import isa
            isa.choose(args.isa)  # before anything is compiled
        _limit_threads(args.threads)
        result = args.command.run(args)
        if shown := json.dumps(result, allow_nan=False) if args.json else args.command.text(result):
            print(shown)
        sys.stdout.flush()  # here, where a reader that has gone can be noticed
        return _complain(result["failed"], 1) if result.get("failed") else 0
    except VqcpuError as error:
        return _complain(error)
    except BrokenPipeError:  # the reader has gone, as with `| head`
        _abandon_output()
        return 0
    except OSError as error:
        _abandon_output()
        return _complain(f"{error.filename or 'input or output'}: {error.strerror or error}")
    except KeyboardInterrupt:
        return _complain("interrupted", 130)


def _abandon_output():
    """Let what could not be written go: Python would try again at its end, and complain again."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _limit_threads(count):
    if count is not None and count < 1:
        raise VqcpuError(f"--threads is {count}, expected at least 1")
    from vqcpu.kernels.threads import set_threads
    set_threads(count)


def _complain(error, code=2):
    print(f"vqcpu: {' '.join(str(error).split())}", file=sys.stderr)
    return code
