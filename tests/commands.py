"""Running the command in a test, here or in a process of its own."""

import multiprocessing
import os
import signal
import sys

import torch

from jpegdl.cli import main

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["jpegdl.comparison.comparison"])  # the package alone imports nothing


def run_command(capsys, *arguments):
    """Its exit status, and what it printed to stdout and stderr."""
    status = main(list(arguments))
    out, err = capsys.readouterr()
    return status, out, err


def one_error(capsys, *arguments):
    """The one line that a wrong command prints."""
    status, _, err = run_command(capsys, *arguments)
    lines = [line for line in err.splitlines() if line.startswith("jpegdl: error:")]
    assert status in (1, 2)
    assert len(lines) == 1
    assert "Traceback" not in err
    return lines[0]


def start(target, *arguments):
    """Start a process that calls ``target``; forked where everything is imported, which takes seconds."""
    process = _FORKS.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def start_command(log, *arguments):
    """Start the command as a shell does in the foreground; what it says on stderr goes to the file ``log``."""
    return start(_attend, log, arguments)


def _attend(log, arguments):
    os.chdir(log.parent)
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    with log.open("w", encoding="utf-8") as stderr:
        os.dup2(stderr.fileno(), 2)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", buffering=1, closefd=False)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Python ignores it where its parent does
    sys.exit(main(list(arguments)))
