"""Running the command in a test, here or in a process of its own."""

import importlib.util
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import torch

from jpegdl.cli import main

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["jpegdl.comparison.worker"])  # the package alone imports nothing


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


#: Takes one case a line: code, packages that are not to be found, a folder for what it prints. Answers with its exit status.
_FRESH = """
import json, os, signal, sys, traceback, warnings
import torch

for line in sys.stdin:
    code, without, folder = json.loads(line)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of threads that libraries have begun
        child = os.fork()
    if child:
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{folder}/{name}", os.O_CREAT | os.O_WRONLY), number)
    status = 0
    signal.alarm(300)
    try:
        sys.modules.update(dict.fromkeys(without))  # None is what is not found
        exec(code, {"__name__": "__main__"})
    except SystemExit as error:
        status = error.code or 0
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
"""


class FreshProcesses:
    """Processes that have imported PyTorch, which takes seconds, and nothing else: forks of one that waits for them."""

    def __init__(self, folder, *options):
        self._folder, self._count = folder, 0
        command = [sys.executable, *options, "-c", _FRESH]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self._waiting = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", env=environment
        )

    def run(self, code, without=()):
        """Run code, without packages of these names, as ``python -c`` would; what came of it."""
        self._count += 1
        folder = Path(self._folder) / str(self._count)
        folder.mkdir()
        self._waiting.stdin.write(json.dumps([code, list(without), str(folder)]) + "\n")
        self._waiting.stdin.flush()
        status = int(self._waiting.stdout.readline())
        out, err = ((folder / name).read_text(encoding="utf-8") for name in ("out", "err"))
        return subprocess.CompletedProcess(code, status, out, err)

    def close(self):
        self._waiting.stdin.close()
        self._waiting.wait(60)


def start(target, *arguments, daemon=True):
    """Start a process that calls ``target``; forked where everything is imported, which takes seconds."""
    process = _FORKS.Process(target=target, args=arguments, daemon=daemon)
    process.start()
    return process


def start_command(log, *arguments, fork_workers=False):
    """Start the command as a shell does in the foreground; stderr goes to the file ``log``, stdout to ``log.out``.

    Args:
        log: that file.
        arguments: of the command.
        fork_workers: have the workers of a comparison forked, see :class:`ForkedWorker`.
    """
    return start(_attend, log, arguments, fork_workers, daemon=not fork_workers)


def _attend(log, arguments, fork_workers):
    os.chdir(log.parent)
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    for number, name, file in ((1, "stdout", log.with_suffix(".out")), (2, "stderr", log)):
        with file.open("w", encoding="utf-8") as stream:
            os.dup2(stream.fileno(), number)
        setattr(sys, name, os.fdopen(number, "w", encoding="utf-8", buffering=1, closefd=False))
    if fork_workers:
        from jpegdl.comparison import workers

        workers.subprocess = ForkedWorker.module(multiprocessing.get_context("fork"))
    # By which Lightning starts further processes.
    sys.argv = ["jpegdl", *arguments]
    sys.modules["__main__"].__spec__ = importlib.util.find_spec("jpegdl.__main__")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Python ignores it where its parent does
    sys.exit(main(list(arguments)))


class ForkedWorker:
    """A worker of a comparison, in the place of the process that ``workers.py`` starts: it need not import everything."""

    def __init__(self, context, command, *, pass_fds, env, **_):
        (handle,) = pass_fds
        self._process = context.Process(target=_work, args=(Connection(os.dup(handle)), env), daemon=True)
        self._process.start()
        self.pid = self._process.pid
        while os.getpgid(self.pid) != self.pid:  # to be killed as a group
            time.sleep(0.001)

    def poll(self):
        return self._process.exitcode

    def wait(self):
        self._process.join()
        return self._process.exitcode

    @classmethod
    def module(cls, context=_FORKS):
        """What takes the place of the module ``subprocess`` there."""
        return SimpleNamespace(Popen=partial(cls, context), DEVNULL=subprocess.DEVNULL)


def _work(connection, environment):
    from jpegdl.comparison import worker

    os.setsid()
    os.dup2(2, 1)
    os.environ.update(environment)
    sys.path[:] = environment["PYTHONPATH"].split(os.pathsep)
    sys.argv = ["", str(os.getppid()), str(os.dup(connection.fileno()))]
    worker.serve()
