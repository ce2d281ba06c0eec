"""A tar of class folders with an image a class, cut into two halves: tables learned on one are tested on the other.

``--data.name halves:first`` trains on every other class and tests on the rest, ``halves:second`` the other way round. Both know
the names of all classes, so that a network's answer is one of all of them.
"""

import io
import tarfile
from pathlib import Path

from PIL import Image
from torch.utils.data import Dataset


class Images(Dataset[tuple[Image.Image, int]]):
    """Images of a tar, each in a folder that is its class."""

    def __init__(self, path: str, members: list[str], classes: list[str]) -> None:
        with tarfile.open(path) as tar:
            self.files = [tar.extractfile(name).read() for name in members]  # type: ignore[union-attr]
        self.targets = [classes.index(Path(name).parent.name) for name in members]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.open(io.BytesIO(self.files[index])).convert("RGB"), self.targets[index]


def _halves(path: str) -> tuple[Images, Images, list[str]]:
    with tarfile.open(path) as tar:
        names = sorted(member.name for member in tar.getmembers() if member.isfile())
    classes = sorted({Path(name).parent.name for name in names})
    return Images(path, names[::2], classes), Images(path, names[1::2], classes), classes


def first(path: str) -> tuple[Images, Images, list[str]]:
    """Train on the even ones, test on the odd ones."""
    return _halves(path)


def second(path: str) -> tuple[Images, Images, list[str]]:
    """Train on the odd ones, test on the even ones."""
    even, odd, classes = _halves(path)
    return odd, even, classes
