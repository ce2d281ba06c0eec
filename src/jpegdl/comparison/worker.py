"""A process that trains runs of a comparison, one after another: ``serve()``, with the parent's id as the argument.

``crew.py`` starts it and says what is pickled to it and from it.
"""

import os
import pickle
import sys
import threading
import time
import traceback
import warnings
from typing import Any, BinaryIO

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


class _Voice:
    """Says to the parent what happens; the display of the runs too."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._lock = stream, threading.Lock()
        self._said = 0.0

    def say(self, *event: Any) -> None:
        with self._lock:
            try:
                self._stream.write(pickle.dumps(event))
                self._stream.flush()
            except BrokenPipeError:  # the parent was killed: nobody is left to tell, and what is saved is saved
                end_all()

    def warn(
        self, message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
    ) -> None:
        """In the place of ``warnings.showwarning``."""
        self.say("warning", *(_sendable((message, category)) or (str(message), UserWarning)), filename, lineno)

    def show(self, standing: Standing) -> None:
        if time.monotonic() - self._said >= _OFTEN:
            self._said = time.monotonic()
            self.say("standing", standing)

    def close(self) -> None:
        pass


def serve() -> None:
    """Train what the parent says, until it says no more."""
    voice = _Voice(os.fdopen(os.dup(1), "wb"))
    os.dup2(2, 1)  # what is printed in this process must not reach the parent as an event
    end_with(int(sys.argv[1]))
    setup: Setup = pickle.load(sys.stdin.buffer)
    _settle(setup)
    warnings.showwarning = voice.warn
    warnings.simplefilter("ignore", DataWarning)  # the parent has listed the same data
    try:
        check_compare(setup.config)
    except UsageError as error:  # the parent has checked the same
        known = f"{error}; what a script has registered is known in its own process only: train with jobs 1"
        voice.say("error", UsageError(known), traceback.format_exc())
        return
    voice.say("ready")
    data: Data | None = None
    while True:
        try:
            seed, arm = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        try:
            if data is None:
                data = Data(setup.config.data, seed)
            result = train_arm(setup.config, arm, seed, data, voice)
        except BusyError:
            voice.say("busy")
        except UsageError as error:
            voice.say("failed", str(error))
        except Exception as error:
            sent = _sendable(error) or RuntimeError(f"{type(error).__name__}: {error}")
            voice.say("error", sent, traceback.format_exc())
        else:
            voice.say("finished", result["accuracy"])


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
