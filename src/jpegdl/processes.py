"""Processes that must not outlive the one that started them."""

import functools
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from jpegdl.errors import UsageError

_STARTER = "JPEGDL_STARTER"  # the environment variable with the id of the process that starts others
_LOOK = 0.5  # seconds between two looks at whether it is still there


@functools.cache  # once is enough
def end_with(parent: int) -> None:
    """From now on, end this process as soon as the one that started it has ended, however that ended.

    A process that leads a group takes the whole group with it.

    Args:
        parent: the id of the process that started this one.
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
            "the processes that load images have too little shared memory (/dev/shm) to hand them over in: give the container "
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
