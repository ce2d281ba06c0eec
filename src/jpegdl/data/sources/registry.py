"""From a set's name to its images."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from PIL import Image

from jpegdl.data.config import OBJECT, DataConfig
from jpegdl.data.sources.base import Sets, Source
from jpegdl.data.sources.class_folders import open_folder, open_test
from jpegdl.data.sources.fine_grained import open_cub200, open_dogs
from jpegdl.data.sources.imagenet import open_imagenet
from jpegdl.data.sources.labels import check_classes
from jpegdl.data.sources.listing import warn_passed
from jpegdl.data.sources.photos import open_photos
from jpegdl.data.sources.shards import open_shards
from jpegdl.data.sources.synthetic import open_made_up
from jpegdl.data.sources.timm_sets import PACKAGES, open_timm, open_torch
from jpegdl.data.sources.torchvision_sets import SPLITS, open_torchvision
from jpegdl.errors import UsageError
from jpegdl.random import evenly
from jpegdl.user_code import is_own

_OPEN: dict[str, Callable[[DataConfig], Sets]] = {
    "photos": open_photos,
    "made-up": open_made_up,
    "folder": open_folder,
    "imagenet": open_imagenet,
    "cub200": open_cub200,
    "dogs": open_dogs,
    **dict.fromkeys(SPLITS, open_torchvision),
    "wds": open_shards,
    "torch": open_torch,
    **dict.fromkeys(PACKAGES, open_timm),
}


def open_sets(config: DataConfig, sets: tuple[Any, ...] | None = None, *, test_only: bool = False) -> Sets:
    """Training and test images, nothing decoded yet, and the names of the classes.

    Args:
        config: which set.
        sets: the set itself, for the name ``object``: (train, test) or (train, test, classes), see :func:`own.open_own`.
        test_only: class folders need no training part, and what there is of it is not read: the training images are none.

    Raises:
        UsageError: the set cannot be read.
    """
    if sets is not None and config.name != OBJECT:
        raise UsageError(f"data.name must be {OBJECT} where the sets are given as Python objects, got {config.name!r}")
    if config.kind == OBJECT or is_own(config.kind):
        from jpegdl.data.sources.python_objects import open_own  # which needs PyTorch

        return open_own(config, sets, test_only=test_only)
    opener = open_test if test_only and config.kind == "folder" else _OPEN[config.kind.partition("/")[0]]
    train, test, classes = opener(config)
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
