"""What surrounds every command: which one is meant, errors on one line, interrupts, exit codes."""

import argparse
import codecs
import io
import os
import shlex
import signal
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from jpegdl import earlier
from jpegdl._version import __version__
from jpegdl.cli.commands import COMMANDS
from jpegdl.cli.help import overview, short_help
from jpegdl.cli.options import COMMAND_LINE
from jpegdl.cli.output import one_line, print_error
from jpegdl.errors import UsageError, did_you_mean
from jpegdl.extras import missing
from jpegdl.processes import lean_imports

_AS_IT_IS = "jpegdl.as-it-is"  # how the output takes what its encoding lacks


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status: 0 done, 1 failed, 2 wrong usage, 130 interrupted, 143 terminated.

    Args:
        arguments: without the program's name; default ``sys.argv``.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    codecs.register_error(_AS_IT_IS, _as_it_is)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_AS_IT_IS)
    interrupts = _Interrupts()
    try:
        with interrupts, warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*|torch\.optim\.lr_scheduler")
            warnings.showwarning = _said_once()
            _find_own_modules()
            _run(arguments)
    except BaseException as error:
        # An interrupt may come out as another exception: of an import that it cut short, or SystemExit from Lightning.
        if interrupts.signal is not None:
            return _interrupted(interrupts.signal, arguments)
        if isinstance(error, BrokenPipeError):  # whoever reads the output has had enough, as head does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        if isinstance(error, ModuleNotFoundError):
            error = missing(error, COMMANDS[arguments[0]].extra if arguments and arguments[0] in COMMANDS else "train") or error
        if isinstance(error, argparse.ArgumentError | UsageError | OSError):
            print_error(f"error: {one_line(error)}")
            return 2 if isinstance(error, argparse.ArgumentError) else 1
        if not isinstance(error, Exception) or os.environ.get("JPEGDL_TRACEBACK"):
            raise
        print_error(f"error: {type(error).__name__}: {one_line(error)} (set JPEGDL_TRACEBACK=1 to see where)")
        return 1
    return 0


def _as_it_is(error: UnicodeError) -> tuple[bytes, int]:
    """Encode what a terminal's encoding lacks: the bytes of a file's name as they are on the disk, other characters escaped."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    odd = error.object[error.start : error.end]
    parts = (c.encode("ascii", "surrogateescape" if "\udc80" <= c <= "\udcff" else "backslashreplace") for c in odd)
    return b"".join(parts), error.end


def _said_once() -> Callable[..., None]:
    """Return what to show warnings with: the same words only once, as each run or trial that lists the same data says them."""
    said: set[str] = set()

    def show(message: Warning | str, *_: object) -> None:
        if (text := one_line(message)) not in said:
            said.add(text)
            print_error(f"warning: {text}")

    return show


def _find_own_modules() -> None:
    """Let ``my_models:make`` name a file in the current folder; one that is called as another module does not hide that."""
    with suppress(FileNotFoundError):  # the current folder was deleted
        if not {"", here := str(Path.cwd())} & set(sys.path):
            sys.path.append(here)


def _run(arguments: list[str]) -> None:
    name, *rest = arguments or ["--help"]
    if name == "help" and rest:
        name, rest = rest[0], ["--help", *rest[1:]]
    if name in ("-h", "--help", "help"):
        print(overview(COMMANDS))
    elif name in ("-V", "--version"):
        print(f"jpegdl {__version__}")
    elif name not in COMMANDS:
        hint = (name in earlier.COMMANDS and f"{earlier.COMMANDS[name]};") or did_you_mean(name, COMMANDS)
        raise argparse.ArgumentError(None, f"no command {name!r}; {hint and f'{hint} '}commands: {', '.join(COMMANDS)}")
    else:
        _run_command(name, rest)


def _run_command(name: str, arguments: list[str]) -> None:
    command = COMMANDS[name]
    with lean_imports():
        parser = command.parser()
    options = arguments[: arguments.index("--")] if "--" in arguments else arguments
    if "--help-all" in options:
        print(parser.format_help().rstrip())
    elif "-h" in options or "--help" in options:
        print(short_help(command))
    else:
        from jpegdl.parsing import parse

        command.run({**parse(parser, arguments), COMMAND_LINE: shlex.join(["jpegdl", name, *arguments])})


class _Interrupts:
    """While the command runs, Ctrl+C and SIGTERM raise KeyboardInterrupt; ``signal`` is the one that came, None before."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "_Interrupts":
        if threading.current_thread() is threading.main_thread():
            for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
                if signal.getsignal(number) == usual:  # what the parent process has us ignore stays ignored
                    self._before[number] = signal.signal(number, self._raise)
        return self

    def _raise(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        raise KeyboardInterrupt

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if isinstance(error, KeyboardInterrupt):
            self.signal = self.signal or signal.SIGINT
        for number, handler in self._before.items():
            signal.signal(number, handler)


def _interrupted(number: int, arguments: list[str]) -> int:
    if os.environ.get("LOCAL_RANK", "0") == "0":  # of the processes that train one model, the first tells
        resumes = COMMANDS[arguments[0]].resumes if arguments and arguments[0] in COMMANDS else None
        way_on = f"; the same command resumes after the last finished {resumes}, if there is one" if resumes else ""
        print_error(f"{'terminated' if number == signal.SIGTERM else 'interrupted'}{way_on}")
    return 128 + number
