"""Training runs side by side: the worker processes as the one that started them sees them.

Each trains one run after another (``worker.py``). A connection tells it what to do and tells what happens there. It imports
nothing of the user's script, and one that dies costs one run.
"""

import os
import pickle
import signal
import socket
import subprocess
import sys
import warnings
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from jpegdl.comparison.config import CompareConfig
from jpegdl.comparison.schedule import Run, Schedule
from jpegdl.errors import UsageError
from jpegdl.runs.progress import Lines

_TICK = 0.5  # seconds between two looks at whether the processes are there, and whether a run can begin


@dataclass(frozen=True)
class Setup:
    """What a worker is told first: the comparison, and how this process computes and warns, for it to do the same."""

    config: CompareConfig
    threads: int  # of each run
    warnings: list[tuple[Any, ...]]  # arguments of ``warnings.filterwarnings``, the first to be asked last
    torch: dict[str, Any]  # PyTorch's settings that numbers depend on


def _setup(config: CompareConfig, threads: int) -> Setup:
    filters = (
        (action, getattr(message, "pattern", message) or "", category, getattr(module, "pattern", module) or "", line)
        for action, message, category, module, line in reversed(warnings.filters)
    )
    return Setup(
        config,
        threads,
        [entry for entry in filters if entry[2].__module__ != "__main__"],  # a worker does not know the user's script
        {
            "precision": torch.get_float32_matmul_precision(),
            "deterministic": torch.are_deterministic_algorithms_enabled(),
            "warn_only": torch.is_deterministic_algorithms_warn_only_enabled(),
            "cudnn": {name: getattr(torch.backends.cudnn, name) for name in ("benchmark", "deterministic", "allow_tf32")},
        },
    )


def train_side_by_side(config: CompareConfig, schedule: Schedule, jobs: int, threads: int) -> None:
    """Train all that a schedule has, ``jobs`` runs at a time, each with so many threads in a process of its own.

    A process that dies takes the run that it was training with it, which counts as failed; another takes its place. None
    outlives this one.

    Raises:
        UsageError: a process cannot start.
        Exception: what nobody foresaw, as it came up in one of the processes.
        KeyboardInterrupt: interrupted.
    """
    workers = _Workers(_setup(config, threads), schedule, jobs)
    try:
        workers.train()
    finally:
        workers.end()


class _Workers:
    """The workers, what they are at, and what they have said."""

    def __init__(self, setup: Setup, schedule: Schedule, jobs: int) -> None:
        self._setup, self._schedule, self._jobs = setup, schedule, jobs
        self._workers: dict[int, _Worker] = {}  # by row of the display
        self._lines = Lines(len(schedule.waiting))
        self._said: dict[str, str] = {}  # which run failed first for a reason
        self._warned: set[tuple[str, type, int]] = set()

    def train(self) -> None:
        """Train all there is."""
        while not self._schedule.over:
            for row in range(self._jobs):
                worker = self._workers.get(row)
                if (worker is None or worker.run is None) and (run := self._schedule.take()) is not None:
                    if worker is None:
                        worker = self._workers[row] = _Worker(row, self._setup)
                    worker.run = run
                    worker.tell(run)
                elif worker is not None and worker.run is None and not self._schedule.waiting:
                    self._workers.pop(row).drop()  # it has memory that the others may need
            for worker in self._workers.values():
                if worker.process.poll() is not None:
                    worker.kill()  # what it has started, which would keep the connection open
            by_connection = {worker.connection: worker for worker in self._workers.values()}
            heard = wait(list(by_connection), _TICK)
            if not heard:
                self._lines.tick()
            for connection in heard:
                worker = by_connection[connection]  # type: ignore[index]  # there are no sockets among them
                try:
                    event = worker.connection.recv()
                except (EOFError, OSError, pickle.UnpicklingError):  # it has ended, maybe in the middle of a word
                    self._bury(worker)
                else:
                    self._take_in(worker, event)

    def end(self) -> None:
        """No worker is left after this."""
        for worker in self._workers.values():
            worker.drop()
        self._lines.close()

    def _take_in(self, worker: "_Worker", event: Any) -> None:
        match event:
            case ("ready",):
                worker.ready = True
            case ("standing", standing):
                self._lines.show(worker.row, worker.title, standing)
            case ("warning", message, category, file, line):
                if (key := (str(message), category, line)) not in self._warned:  # by another worker
                    self._warned.add(key)
                    with tqdm.external_write_mode(file=sys.stderr):
                        warnings.showwarning(message, category, file, line)
            case ("finished", accuracy):
                self._finish(worker, accuracy)
            case ("failed", why):
                self._fail(worker, why)
            case ("busy",):
                assert worker.run is not None
                self._schedule.put_off(worker.run)
                self._lines.drop(worker.row)
                worker.run = None
            case ("error", error, trace):
                raise error from _WorkerError(f'\n"""\n{trace}"""')
            case _:
                raise AssertionError(event)

    def _finish(self, worker: "_Worker", accuracy: float) -> None:
        assert worker.run is not None
        self._schedule.done(worker.run)
        self._lines.end(worker.row, f"{worker.title}: test {100 * accuracy:.1f} %")
        worker.run = None

    def _fail(self, worker: "_Worker", why: str) -> None:
        assert worker.run is not None
        self._schedule.fail(worker.run, why)
        before = self._said.setdefault(why, worker.title)  # one bad file or setting fails all runs
        self._lines.end(worker.row, f"{worker.title}: failed, {why if before == worker.title else f'as {before}'}")
        worker.run = None

    def _bury(self, worker: "_Worker") -> None:
        """A worker has ended, which none does by itself."""
        del self._workers[worker.row]
        worker.drop()
        status = worker.process.wait()
        if status > 0 and not worker.ready:
            raise UsageError(
                f"a worker process could not start (exit status {status}, see above); with jobs 1 runs train in this process"
            )
        if worker.run is None:
            return
        seed, arm = worker.run
        folder = self._schedule.config.run_folder(arm, seed)
        if folder.finished:
            self._finish(worker, folder.result()["accuracy"])
            return
        how = f"exit status {status}" if status >= 0 else f"signal {-status}"
        why = f"the process died ({how}{'; out of memory?' if status == -signal.SIGKILL else ''})"
        if folder.path.is_dir():
            folder.write_failure(why, self._schedule.config.arm_run(arm), arm, seed)
        self._fail(worker, why)


_WORKER = """
from jpegdl.processes import lean_imports
with lean_imports():
    from jpegdl.comparison.worker import serve
serve()
"""


class _WorkerError(Exception):
    """Where in a worker an error came up: its traceback, as text."""


class _Worker:
    """A worker process: what it is training, shown in a row of the display; and the connection for orders and events."""

    def __init__(self, row: int, setup: Setup) -> None:
        self.row, self.ready = row, False  # it is ready once it has begun to listen
        self.run: Run | None = None
        here, there = socket.socketpair()
        self.connection = Connection(here.detach())
        with there:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", _WORKER, str(os.getpid()), str(there.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=2,  # what is printed there is no output of this program
                pass_fds=[there.fileno()],
                env=worker_environment(row, setup.threads, setup.config.device),
                start_new_session=True,  # Ctrl+C in a terminal reaches this process alone, which ends the others
            )
        self.tell(setup)

    @property
    def title(self) -> str:
        return "" if self.run is None else f"{self.run[1]}, seed {self.run[0]}"

    def tell(self, order: Setup | Run) -> None:
        """Say what to do next; nothing happens where the process has ended."""
        with suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(order)

    def kill(self) -> None:
        """End it and what it has started, and wait until it is gone; what it has said can still be heard."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def drop(self) -> None:
        """End it, and hear no more of it."""
        self.kill()
        self.connection.close()


def worker_environment(row: int, threads: int, device: str) -> dict[str, str]:
    """Return the environment of a worker: what this process can import, it can; its share of threads and, unless ``device``
    names one of them, of GPUs."""
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    environment["OMP_NUM_THREADS"] = str(threads)
    # Threads that wait give way: on a busy machine, those that spin take the time of those that they wait for.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    environment.setdefault("GOMP_SPINCOUNT", "0")
    if ":" not in device and (count := torch.cuda.device_count()) > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
        environment["CUDA_VISIBLE_DEVICES"] = visible.split(",")[row % count].strip()
    return environment
