"""What a reader gives: two lists of images that can be read one by one; and how it finds its folder."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from PIL import Image

from jpegdl.data.config import DataConfig
from jpegdl.data.digests import UNKNOWN, pixel_digest
from jpegdl.data.sources.listing import is_compressed, refuse_compressed
from jpegdl.errors import UsageError

_FILES = ("samples", "imgs", "_samples", "_image_files", "_images")
# What the parts of a set are called. Where there is no test part, the one for validation is what is tested on.
TRAIN, VALIDATION = ("train", "training"), ("val", "validation")
TEST = ("test", *VALIDATION)


class Source:
    """Where images come from; picklable, and read from several threads and processes at a time.

    Attributes:
        targets: the class index of every image.
        passed_over: how many files beside the images were passed over, by suffix.
    """

    targets: Sequence[int]
    passed_over: Mapping[str, int] = MappingProxyType({})

    def read(self, index: int) -> Image.Image:
        """Return the image, in any size and mode; OSError if its file cannot be decoded."""
        raise NotImplementedError

    def name(self, index: int) -> str:
        """Return the image's file or origin, for messages."""
        raise NotImplementedError

    def key(self, index: int) -> str:
        """Return a name of the image that does not depend on where the set is kept, or in what kind of archive."""
        return str(index)

    def size(self, index: int) -> int:
        """Return the size of the image's file in bytes; 0 where it has none of its own."""
        return 0

    def content(self, index: int) -> str:
        """Return a digest of what an image's file holds; where it has none, of its pixels."""
        return pixel_digest(self.read(index))

    def contents(self, indices: Sequence[int]) -> list[str]:
        """Return the digests of several images; ``UNKNOWN`` for one that cannot be read."""
        found = []
        for index in indices:
            try:
                found.append(self.content(index))
            except Exception:  # whatever Pillow or the user's code raises; found out when it is trained on
                found.append(UNKNOWN)
        return found


class Parts(NamedTuple):
    """A set, in parts.

    Attributes:
        train: the training images.
        test: the test images; None where the set has none and ``data.test_share`` is to take them from the training images.
        classes: names of the classes.
        validation: what is looked at while training, and neither trained nor tested on; None where there is none.
    """

    train: Source
    test: Source | None
    classes: list[str]
    validation: Source | None = None


Sets = tuple[Source, Source, list[str]] | Parts  # what a reader returns: those three, or all four


def folder_path(config: DataConfig, holds: str, *, or_tar: bool = False) -> Path:
    """Return ``data.path``, which must be a folder, or with ``or_tar`` a tar.

    Raises:
        UsageError: it is not given or not such a place; the message says what it should hold (``holds``).
    """
    if config.path is None:
        raise UsageError(f"data.name {config.kind} needs data.path: the folder that holds {holds}")
    root = Path(config.path).expanduser()
    if not root.is_dir() and not (or_tar and root.is_file()):
        if is_compressed(root):
            refuse_compressed(root, f"data.path {root}")
        raise UsageError(f"data.path {root} is not a folder; expected the folder that holds {holds}")
    return root


def kept_files(dataset: Any) -> list[str] | None:
    """Return the names of the files of a data set's images, where it keeps them; None if they are not known."""
    for name in _FILES:
        kept = getattr(dataset, name, None)
        if not isinstance(kept, list | tuple) or len(kept) != len(dataset):
            continue
        files = [entry[0] if isinstance(entry, tuple | list) and entry else entry for entry in kept]
        if files and all(isinstance(file, str | os.PathLike) for file in files) and Path(files[0]).is_file():
            return [os.path.abspath(file) for file in files]  # noqa: PTH100 - for speed
    return None
