"""Parts of tars of class folders, as data sets for ``--data.name jpegdl_studies.cuts:FUNCTION --data.path PATH``.

- ``first`` and ``second``: PATH is a tar; train on one half of its images and test on the other. Both know the names of all
  classes, so that a network's answer is one of all of them.
- ``fold_0`` to ``fold_4``: PATH is a tar; test on every fifth image of each class and train on the others. To choose settings
  by training images alone.
- ``images_5``, ``images_10``, ...: PATH is a folder with train.tar and test.tar; train on that many images of each class, drawn
  by a fixed seed (those of a smaller number are among those of a larger one), and test on the whole test set.
"""

import io
import random
import tarfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from torch.utils.data import Dataset


class Images(Dataset[tuple[Image.Image, int]]):
    """Images of a tar, each in a folder that is its class."""

    def __init__(self, path: str | Path, members: list[str], classes: list[str]) -> None:
        with tarfile.open(path) as tar:
            self.files = [tar.extractfile(name).read() for name in members]  # type: ignore[union-attr]
        self.targets = [classes.index(Path(name).parent.name) for name in members]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.open(io.BytesIO(self.files[index])).convert("RGB"), self.targets[index]


Cut = tuple[Images, Images, list[str]]


def _by_class(path: str | Path) -> dict[str, list[str]]:
    """Return the names in a tar, in order, by class, in order."""
    found: dict[str, list[str]] = defaultdict(list)
    with tarfile.open(path) as tar:
        for name in sorted(member.name for member in tar.getmembers() if member.isfile()):
            found[Path(name).parent.name].append(name)
    return dict(sorted(found.items()))


def _halves(path: str) -> Cut:
    by_class = _by_class(path)
    names, classes = sorted(name for of_class in by_class.values() for name in of_class), list(by_class)
    return Images(path, names[::2], classes), Images(path, names[1::2], classes), classes


def first(path: str) -> Cut:
    """Train on the even ones, test on the odd ones."""
    return _halves(path)


def second(path: str) -> Cut:
    """Train on the odd ones, test on the even ones."""
    even, odd, classes = _halves(path)
    return odd, even, classes


def _fold(number: int) -> Callable[[str], Cut]:
    def cut(path: str) -> Cut:
        by_class = _by_class(path)
        test = [name for of_class in by_class.values() for name in of_class[number::5]]
        train = [name for of_class in by_class.values() for i, name in enumerate(of_class) if i % 5 != number]
        return Images(path, train, list(by_class)), Images(path, test, list(by_class)), list(by_class)

    return cut


fold_0, fold_1, fold_2, fold_3, fold_4 = map(_fold, range(5))


def _few(count: int) -> Callable[[str], Cut]:
    def cut(path: str) -> Cut:
        train_tar, test_tar = Path(path, "train.tar"), Path(path, "test.tar")
        train, test = _by_class(train_tar), _by_class(test_tar)
        drawn = []
        for name, of_class in train.items():
            if len(of_class) < count:
                raise ValueError(f"class {name} has {len(of_class)} training images, fewer than {count}")
            drawn += random.Random(name).sample(of_class, len(of_class))[:count]
        tested = [name for of_class in test.values() for name in of_class]
        return Images(train_tar, drawn, list(train)), Images(test_tar, tested, list(train)), list(train)

    return cut


images_5, images_10, images_20, images_40, images_50, images_200 = map(_few, (5, 10, 20, 40, 50, 200))
