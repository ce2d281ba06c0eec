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
from typing import Any, TypeVar

from PIL import Image

from jpegdl.data.config import OBJECT, DataConfig
from jpegdl.data.sources.base import Parts, Sets, Source
from jpegdl.data.sources.labels import check_classes, check_range
from jpegdl.data.sources.listing import warn_passed
from jpegdl.errors import UsageError, some_of, warn_of_data
from jpegdl.random import dealt, evenly, stratified
from jpegdl.user_code import is_own

_NAMED = 3  # of the classes that nothing is held out of, in a message
Opener = Callable[[DataConfig], Sets]
T = TypeVar("T", bound=Opener)


@dataclass(frozen=True)
class Reader:
    """What opens a set; and what opens it without a training part, where the reader can do that."""

    open: Opener
    open_test: Opener


_registered: dict[str, Reader] = {}


def register_set(*names: str, open_test: Opener | None = None) -> Callable[[T], T]:
    """Make sets of a function that opens them: ``--data.name NAME``.

    Args:
        names: of the sets; one that ends in / is a prefix, which the set's own name follows.
        open_test: opens the test images alone, where that can be.

    Returns:
        What is put above the function.

    Raises:
        ValueError: there is such a set already.
    """

    def register(function: T) -> T:
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


def open_sets(config: DataConfig, sets: tuple[Any, ...] | None = None, *, test_only: bool = False) -> Parts:
    """Open the training, test and validation images of a set, without decoding them, and the names of its classes.

    Args:
        config: which set, and what of it is held out.
        sets: the set itself, for the name ``object``: (train, test), (train, test, classes) or (train, test, classes,
            validation), see :func:`jpegdl.data.sources.python_objects.open_own`.
        test_only: class folders need no training part, and what there is of it is not read: the training images are none, and
            there are none for validation.

    Raises:
        UsageError: the set cannot be read, or not be split as asked for.
    """
    if sets is not None and config.name != OBJECT:
        raise UsageError(f"data.name must be {OBJECT} where the sets are given as Python objects, got {config.name!r}")
    label = f"data.name {config.kind}" + (f", {config.path}" if config.path else "")
    if config.kind == OBJECT or is_own(config.kind):
        from jpegdl.data.sources.python_objects import open_own  # which needs PyTorch

        parts = Parts(*open_own(config, sets, test_only=test_only and config.test_share is None))
        label = "the data set given as Python objects" if config.kind == OBJECT else label
        if parts.test is not None:
            _refuse_test_share(config, label, test_only)
            return _held_out(parts, config, label, test_only)
    else:
        prefix, slash, _ = config.kind.partition("/")
        reader = _readers()[prefix + slash]
        parts = Parts(*(reader.open_test if test_only and config.test_share is None else reader.open)(config))
        passed = sum((Counter(part.passed_over) for part in (parts.train, parts.test, parts.validation) if part), Counter())
        warn_passed(passed, config.path)
    train, test, classes, validation = parts
    if test is None:
        if config.test_share is None:
            raise UsageError(f"{label} has no test images")
        chosen = stratified(train.targets, config.test_share, config.split_seed, "test")
        train, test = _apart(train, chosen)
    else:
        _refuse_test_share(config, label, test_only)
    check_classes(train, test, classes, label)
    if config.limit is not None:
        train, test = (Chosen(part, evenly(part.targets, config.limit)) for part in (train, test))
        if validation is not None:
            validation = Chosen(validation, evenly(validation.targets, config.limit))
        check_classes(train, test, classes, f"data.limit {config.limit} of {label}", limited=True)
    return _held_out(Parts(train, test, classes, validation), config, label, test_only)


def _refuse_test_share(config: DataConfig, label: str, test_only: bool) -> None:
    if config.test_share is not None and not test_only:
        raise UsageError(f"data.test_share {config.test_share:g}: {label} has test images of its own; leave it out")


def _held_out(parts: Parts, config: DataConfig, label: str, test_only: bool) -> Parts:
    """The same set with what settings hold out of training, and without the rest that is not wanted."""
    if test_only:
        return parts._replace(train=Chosen(parts.train, []), validation=None)
    asked = config.folds is not None or config.holdout is not None
    if not asked:
        if parts.validation is not None:
            check_range((parts.validation,), len(parts.classes))
            if unseen := sorted(set(parts.validation.targets) - set(parts.train.targets)):
                names = some_of([repr(str(parts.classes[index])) for index in unseen], _NAMED)
                warn_of_data(f"{label}: the images for validation are of {names} too, and no training image is")
            if without := sorted(set(parts.train.targets) - set(parts.validation.targets)):
                names = some_of([repr(str(parts.classes[index])) for index in without], _NAMED)
                warn_of_data(f"{label}: no image for validation is of {names}")
        return parts
    if config.holdout == 0 and config.folds is None:
        return parts._replace(validation=None)
    if parts.validation is not None:
        warn_of_data(
            f"{label} has images for validation of its own, which are not in use: data.holdout and data.folds take training "
            "images"
        )
    targets = parts.train.targets
    if config.folds is not None and config.fold is not None:
        chosen = dealt(targets, config.folds, config.fold, config.split_seed)
    else:
        chosen = stratified(targets, config.holdout or 0.0, config.split_seed, "holdout")
    if not chosen:
        what = f"data.holdout {config.holdout:g}" if config.folds is None else f"data.folds {config.folds}, fold {config.fold}"
        raise UsageError(f"{what}: {label} has too few training images to hold any out: {len(targets)}")
    if without := sorted(set(targets).difference(targets[index] for index in chosen)):
        names = some_of([repr(str(parts.classes[index])) for index in without], _NAMED)
        warn_of_data(f"{label}: nothing is held out of {names}: too few training images")
    train, validation = _apart(parts.train, chosen)
    return parts._replace(train=train, validation=validation)


def _apart(source: Source, chosen: Sequence[int]) -> tuple[Source, Source]:
    """The images of a source that are not chosen, and those that are."""
    left = sorted(set(range(len(source.targets))).difference(chosen))
    return Chosen(source, left), Chosen(source, chosen, counts=False)


class Chosen(Source):
    """Some images of another source, in the order of ``indices``.

    The files that were passed over beside them are this one's too, unless they do not count.
    """

    def __init__(self, source: Source, indices: Sequence[int], *, counts: bool = True) -> None:
        self._source, self._indices = source, indices
        if counts:
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
