"""From a set's name to its images.

A reader registers where it stands, with :func:`register_set` above the function that opens it. The files of this room are
imported when a set is first asked for: none of them is listed here.
"""

import pkgutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from PIL import Image

from jpegdl.data.config import OBJECT, DataConfig
from jpegdl.data.sources.base import Sets, Source
from jpegdl.data.sources.labels import check_classes
from jpegdl.data.sources.listing import warn_passed
from jpegdl.errors import UsageError
from jpegdl.random import evenly
from jpegdl.user_code import is_own

Opener = Callable[[DataConfig], Sets]


@dataclass(frozen=True)
class Reader:
    """What opens a set.

    Attributes:
        open: gives training and test images, and the names of the classes.
        open_test: the same without a training part, where the reader can do that.
    """

    open: Opener
    open_test: Opener


_registered: dict[str, Reader] = {}


def register_set(*names: str, open_test: Opener | None = None) -> Callable[[Opener], Opener]:
    """Make sets of a function that opens them: ``--data.name NAME``.

    Args:
        names: of the sets; one that ends in / is a prefix, which the set's own name follows.
        open_test: opens the test images alone, where that can be.

    Returns:
        What is put above the function.

    Raises:
        ValueError: there is such a set already.
    """

    def register(function: Opener) -> Opener:
        for name in names:
            if name in _registered:
                raise ValueError(f"there is a set {name!r} already")
            _registered[name] = Reader(function, open_test or function)
        _readers.cache_clear()
        return function

    return register


@cache
def _readers() -> dict[str, Reader]:
    for module in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if module.name != "python_objects":  # which opens what has no name of ours, and needs PyTorch
            import_module(f"{__name__.rpartition('.')[0]}.{module.name}")
    return dict(_registered)


def set_names() -> list[str]:
    """Return the names of all sets, those of prefixes last."""
    return sorted(_readers(), key=lambda name: (name.endswith("/"), name))


def open_sets(config: DataConfig, sets: tuple[Any, ...] | None = None, *, test_only: bool = False) -> Sets:
    """Training and test images, nothing decoded yet, and the names of the classes.

    Args:
        config: which set.
        sets: the set itself, for the name ``object``: (train, test) or (train, test, classes), see
            :func:`jpegdl.data.sources.python_objects.open_own`.
        test_only: class folders need no training part, and what there is of it is not read: the training images are none.

    Raises:
        UsageError: the set cannot be read.
    """
    if sets is not None and config.name != OBJECT:
        raise UsageError(f"data.name must be {OBJECT} where the sets are given as Python objects, got {config.name!r}")
    if config.kind == OBJECT or is_own(config.kind):
        from jpegdl.data.sources.python_objects import open_own  # which needs PyTorch

        return open_own(config, sets, test_only=test_only)
    prefix, slash, _ = config.kind.partition("/")
    reader = _readers()[prefix + slash]
    train, test, classes = (reader.open_test if test_only else reader.open)(config)
    label = f"data.name {config.kind}" + (f", {config.path}" if config.path else "")
    warn_passed(Counter(train.passed_over) + Counter(test.passed_over), config.path)
    check_classes(train, test, classes, label)
    if config.limit is not None:
        train, test = _Some(train, config.limit), _Some(test, config.limit)
        check_classes(train, test, classes, f"data.limit {config.limit} of {label}", limited=True)
    return train, test, classes


class _Some(Source):
    """The first images of every class, as many of each as ``limit`` in all allows; in the source's order."""

    def __init__(self, source: Source, limit: int) -> None:
        self._source, self._indices = source, evenly(source.targets, limit)
        self.passed_over = source.passed_over
        self.targets = [source.targets[index] for index in self._indices]

    def read(self, index: int) -> Image.Image:
        return self._source.read(self._indices[index])

    def name(self, index: int) -> str:
        return self._source.name(self._indices[index])

    def key(self, index: int) -> str:
        return self._source.key(self._indices[index])

    def size(self, index: int) -> int:
        return self._source.size(self._indices[index])

    def contents(self, indices: Sequence[int]) -> list[str]:
        return self._source.contents([self._indices[index] for index in indices])
