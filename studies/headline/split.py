"""Training images alone, to choose settings by.

``--data.name split:fifth`` tests on every fifth image of each class of a tar of class folders, and trains on the others.
"""

import io
import tarfile
from collections import defaultdict
from pathlib import Path

from PIL import Image
from torch.utils.data import Dataset


class Images(Dataset[tuple[Image.Image, int]]):
    """Images, as the bytes of their files, and their classes."""

    def __init__(self, files: list[tuple[bytes, int]]) -> None:
        self.files = files
        self.targets = [target for _, target in files]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        file, target = self.files[index]
        return Image.open(io.BytesIO(file)).convert("RGB"), target


def fifth(path: str) -> tuple[Images, Images, list[str]]:
    """Of each class, in the order of the names: four images to train on, one to test on, and so on."""
    by_class: dict[str, list[bytes]] = defaultdict(list)
    with tarfile.open(path) as tar:
        for member in sorted((one for one in tar.getmembers() if one.isfile()), key=lambda one: one.name):
            by_class[Path(member.name).parent.name].append(tar.extractfile(member).read())  # type: ignore[union-attr]
    classes = sorted(by_class)
    every = [(file, target, i % 5 == 4) for target, name in enumerate(classes) for i, file in enumerate(by_class[name])]
    train, test = ([(file, target) for file, target, held in every if held is part] for part in (False, True))
    return Images(train), Images(test), classes
