"""The sets of the Hugging Face Hub, through timm's reader of them."""

import io
from contextlib import suppress
from typing import Any

from PIL import Image

from jpegdl.data.config import DataConfig
from jpegdl.data.digests import bytes_digest
from jpegdl.data.sources.base import VALIDATION, Parts, Source
from jpegdl.data.sources.labels import class_index, numbered_classes
from jpegdl.data.sources.registry import register_set
from jpegdl.errors import UsageError, warn_of_data
from jpegdl.extras import require
from jpegdl.opener import BadImage, open_image

TEST_SPLITS = ("test", "validation", "val")  # the first that is there and has classes


class _Table(Source):
    """A Hugging Face set, row by row."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        labels = reader.dataset[reader.label_key]
        self.targets = [_target(target, reader.split, index) for index, target in enumerate(labels)]

    def read(self, index: int) -> Image.Image:
        return open_image(io.BytesIO(self._encoded(index)))

    def _encoded(self, index: int) -> bytes:
        try:
            opened: io.BytesIO = self._reader[index][0]
        except (AssertionError, TypeError) as error:  # what timm's reader makes of a row that holds None
            raise BadImage("there is no image in this row") from error
        with opened as file:
            file.seek(0)
            return file.read()

    def name(self, index: int) -> str:
        return f"{self._reader.split}[{index}]"

    def content(self, index: int) -> str:
        return bytes_digest(self._encoded(index))


def _target(value: Any, split: str, index: int) -> int:
    """A class index; -1 where a split that may be tested on says by None that an image has no class."""
    return -1 if value is None and split in TEST_SPLITS else class_index(value, f"{split}[{index}]")


@register_set("hfds/")
def open_hugging_face(config: DataConfig) -> Parts:
    """Open a set named hfds/NAME; its split for validation is that where there is one to test on beside it.

    Raises:
        UsageError: a package is not installed, or the set cannot be read.
    """
    require(f"data.name {config.kind} needs", "datasets")
    train, classes = _open(config, "train")
    problems: list[str] = []
    passed: list[str] = []  # splits that are there, and are not what is tested on
    for split in TEST_SPLITS:
        try:
            test, _ = _open(config, split)
        except _NoSplitError as error:
            problems.append(str(error))
            if not isinstance(error.__cause__, ValueError):  # which says no such split; else it was not to be had now
                passed.append(problems[-1])
            continue
        if min(test.targets, default=-1) >= 0:
            if passed:
                warn_of_data(f"{config.kind} is tested on its split {split!r}: {'; '.join(passed)}")
            validation = None if split in VALIDATION else _beside(config)
            return Parts(train, test, classes or numbered_classes(train, test), validation)
        partly = max(test.targets, default=-1) >= 0
        first = next((index for index, target in enumerate(test.targets) if target < 0), 0)
        problems.append(
            f"its split {split!r} has no classes{f' for some images, such as {test.name(first)}' if partly else ''}"
        )
        passed.append(problems[-1])
    if config.test_share is not None:
        return Parts(train, None, classes or numbered_classes(train))
    why = "; ".join(passed or problems)
    raise UsageError(
        f"{config.kind} has no images to test on: tried the splits {', '.join(TEST_SPLITS)} ({why}). "
        f"--data.test-share 0.2 takes a fifth of the training images of each class"
    )


def _beside(config: DataConfig) -> Source | None:
    """Return the split for validation, where there is one whose images all have classes."""
    for split in VALIDATION:
        with suppress(_NoSplitError):
            source, _ = _open(config, split)
            return source if min(source.targets, default=-1) >= 0 else None
    return None


class _NoSplitError(UsageError):
    """A split that cannot be opened; most often there is none of that name."""


def _open(config: DataConfig, split: str) -> tuple[Source, list[str]]:
    from timm.data.readers.reader_factory import create_reader

    label = f"{config.kind}, split {split!r},"
    try:
        reader: Any = create_reader(config.kind, config.path, split, download=True)
    except Exception as error:  # the packages raise whatever comes: no network, no such set, no such split, no such column
        raise _NoSplitError(f"{label} cannot be read ({type(error).__name__}: {error})") from error
    try:
        source = _Table(reader)
    except UsageError:
        raise
    except Exception as error:  # no such column, a row that cannot be decoded
        raise UsageError(f"{label} cannot be read ({type(error).__name__}: {error})") from error
    return source, sorted(reader.class_to_idx, key=reader.class_to_idx.get)
