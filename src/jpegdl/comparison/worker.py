"""A process that trains runs of a comparison, one after another; ``workers.py`` starts it and listens to it.

Its arguments are the parent's id, and the file descriptor of the connection to it.
"""

import os
import pickle
import sys
import threading
import time
import traceback
import warnings
from multiprocessing.connection import Connection
from typing import Any

import torch

from jpegdl.comparison.config import check_compare
from jpegdl.comparison.steps import train_arm
from jpegdl.comparison.workers import Setup
from jpegdl.data import Data
from jpegdl.errors import DataWarning, UsageError
from jpegdl.files import BusyError
from jpegdl.processes import end_all, end_with
from jpegdl.runs.progress import Standing

_OFTEN = 0.2  # seconds between two reports on how far a run is


class _Reporter:
    """Tells the parent what happens; the display of the runs too."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._lock = connection, threading.Lock()
        self._told = 0.0

    def tell(self, *event: Any) -> None:
        with self._lock:
            try:
                self._connection.send(event)
            except (BrokenPipeError, ConnectionResetError):  # the parent was killed: what is saved is saved
                end_all()

    def warn(
        self, message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
    ) -> None:
        """In the place of ``warnings.showwarning``."""
        self.tell("warning", *(_sendable((message, category)) or (str(message), UserWarning)), filename, lineno)

    def show(self, standing: Standing) -> None:
        if time.monotonic() - self._told >= _OFTEN:
            self._told = time.monotonic()
            self.tell("standing", standing)

    def close(self) -> None:
        pass


def serve() -> None:
    """Train what the parent says, until it says no more."""
    end_with(int(sys.argv[1]))
    handle = int(sys.argv[2])
    os.set_inheritable(handle, False)
    connection = Connection(handle)
    reporter = _Reporter(connection)
    setup: Setup = connection.recv()
    _settle(setup)
    warnings.showwarning = reporter.warn
    warnings.simplefilter("ignore", DataWarning)  # the parent has listed the same data
    try:
        check_compare(setup.config)
    except UsageError as error:  # the parent has checked the same
        known = f"{error}; what a script has registered is known in its own process only: train with jobs 1"
        reporter.tell("error", UsageError(known), traceback.format_exc())
        return
    reporter.tell("ready")
    data: Data | None = None
    while True:
        try:
            seed, arm = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        try:
            if data is None:
                data = Data(setup.config.data, seed)
            result = train_arm(setup.config, arm, seed, data, reporter)
        except BusyError:
            reporter.tell("busy")
        except UsageError as error:
            reporter.tell("failed", str(error))
        except Exception as error:
            sent = _sendable(error) or RuntimeError(f"{type(error).__name__}: {error}")
            reporter.tell("error", sent, traceback.format_exc())
        else:
            reporter.tell("finished", result["accuracy"])


def _settle(setup: Setup) -> None:
    """Compute and warn as the parent does."""
    torch.set_num_threads(setup.threads)
    torch.set_float32_matmul_precision(setup.torch["precision"])
    torch.use_deterministic_algorithms(setup.torch["deterministic"], warn_only=setup.torch["warn_only"])
    for name, value in setup.torch["cudnn"].items():
        setattr(torch.backends.cudnn, name, value)
    warnings.resetwarnings()
    for entry in setup.warnings:
        warnings.filterwarnings(*entry)


def _sendable(thing: Any) -> Any:
    """The same, if it can be pickled and made from that again; some errors cannot."""
    try:
        return pickle.loads(pickle.dumps(thing))
    except Exception:
        return None
