"""Processes: how they start, that they end with the one that started them, and what other packages log in them."""

import functools
import gc
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jpegdl.errors import UsageError

_STARTER = "JPEGDL_STARTER"  # the environment variable with the id of the process that starts others
_CGROUPS = Path("/sys/fs/cgroup")
_LOOK = 0.5  # seconds between two looks at whether it is still there


@functools.cache  # once is enough
def end_with(parent: int) -> None:
    """From now on, end this process as soon as the one that started it, ``parent``, has ended, however that ended.

    A process that leads a group takes the whole group with it.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK)
        end_all()

    threading.Thread(target=watch, name="jpegdl-end-with-parent", daemon=True).start()


def end_all() -> None:
    """End this process and, where it leads a group, all of that, at once and without a word."""
    if os.getpgrp() == os.getpid():
        os.killpg(os.getpgrp(), signal.SIGKILL)
    os._exit(1)


def end_with_starter() -> None:
    """:func:`end_with` for a process that was started within :func:`starting`; nothing for any other."""
    if (starter := os.environ.get(_STARTER)) and int(starter) != os.getpid():
        end_with(int(starter))


#: What PyTorch says where its processes have no room to hand images over in.
_NO_ROOM = ("shared memory", "unable to write to file </torch_", "signal: Bus error")


@contextmanager
def room_for_images() -> Iterator[None]:
    """Make the errors of too small a /dev/shm, as containers have it, ones that say the way out.

    Raises:
        UsageError: loading processes have no shared memory left.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        said = " ".join(str(error).split())
        if not any(words in said for words in _NO_ROOM):
            raise
        raise UsageError(
            "the processes that load images have too little shared memory (/dev/shm): give the container "
            f"more (docker run --shm-size 2g), or load in this process with --data.workers 0; {said}"
        ) from error


@contextmanager
def starting() -> Iterator[None]:
    """Let processes that are started in here know by whom, for :func:`end_with_starter`."""
    before = os.environ.get(_STARTER)
    os.environ[_STARTER] = str(os.getpid())
    try:
        yield
    finally:
        os.environ.pop(_STARTER, None)
        if before is not None:
            os.environ[_STARTER] = before


@contextmanager
def lean_imports() -> Iterator[None]:
    """While a process imports PyTorch, Lightning and timm for the first time, collect no garbage, and never look at what is
    there at its end again.

    The collector would go through these millions of objects many times while they are made, again as the program runs and once
    more as it ends: a third of the time that ``import jpegdl.comparison`` takes. Nothing is done where PyTorch is there
    already.
    """
    if "torch" in sys.modules or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


@contextmanager
def quiet(*names: str) -> Iterator[None]:
    """Have these loggers say errors only; as they were outside, since they are those of all that runs in this process."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def count_cores() -> int:
    """Count the CPU cores that this process may use: those it is bound to, or as much time as its container has, whichever is
    less."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    for files in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):  # cgroups, version 2 and version 1
        with suppress(OSError, ValueError):  # "max" is no number: all there is
            quota, period = (int(number) for file in files for number in (_CGROUPS / file).read_text(encoding="utf-8").split())
            if quota > 0:
                cores = min(cores, math.ceil(quota / period))
    return cores
