"""What a reader gives: two lists of images that can be read one by one; and how it finds its folder."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from PIL import Image

from jpegdl.data.config import DataConfig
from jpegdl.errors import UsageError

TRAIN, TEST = ("train", "training"), ("test", "val", "validation")  # what the two parts of a set are called


class Source(Protocol):
    """Where images come from; picklable, and read from several threads and processes at a time."""

    @property
    def targets(self) -> Sequence[int]:
        """The class index of every image."""

    def read(self, index: int) -> Image.Image:
        """The image in any size and mode; OSError where its file cannot be decoded."""

    def name(self, index: int) -> str:
        """The image's file or origin, for messages."""

    def key(self, index: int) -> str:
        """A name of the image that does not depend on where the set is kept, or in what kind of archive."""

    def size(self, index: int) -> int:
        """The size of the image's file in bytes; 0 where it has none of its own."""


Sets = tuple[Source, Source, list[str]]  # training images, test images, names of the classes


def folder_path(config: DataConfig, holds: str) -> Path:
    """``data.path``, which must be a folder.

    Raises:
        UsageError: it is not given or not a folder; the message says what it should hold.
    """
    if config.path is None:
        raise UsageError(f"data.name {config.kind} needs data.path: the folder that holds {holds}")
    root = Path(config.path).expanduser()
    if not root.is_dir():
        raise UsageError(f"data.path {root} is not a folder; expected the folder that holds {holds}")
    return root


def evenly(targets: Sequence[int], limit: int) -> list[int]:
    """Indices of at most ``limit`` images: the first of every class, then the second of every class, and so on."""
    seen: Counter[int] = Counter()
    ranked = []
    for index, target in enumerate(targets):
        ranked.append((seen[target], target, index))
        seen[target] += 1
    return sorted(index for _, _, index in sorted(ranked)[:limit])
