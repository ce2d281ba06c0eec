"""The sets that torchvision downloads."""

import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from filelock import FileLock
from PIL import Image

from jpegdl.data.config import DataConfig
from jpegdl.data.digests import Piece, piece_digests
from jpegdl.data.sources.base import Sets, Source, kept_files
from jpegdl.data.sources.labels import class_index
from jpegdl.data.sources.registry import register_set
from jpegdl.errors import UsageError

Splits = tuple[dict[str, Any], ...]

CACHE = Path("~/.cache/jpegdl")  # where sets are downloaded to, unless data.path says otherwise

#: What is trained on and what is tested on, in the words of torchvision's classes. Flowers: the published JPEG-DL runs train on
#: the 1,020 train images and test on the 1,020 val images (dataset/general_dataloader.py of the authors' code); the set's own
#: test images are those of flowers102-official, which trains on both. Textures: partition 1 of 10. Others: the official split.
SPLITS: dict[str, tuple[str, Splits, Splits]] = {
    "cifar10": ("CIFAR10", ({"train": True},), ({"train": False},)),
    "cifar100": ("CIFAR100", ({"train": True},), ({"train": False},)),
    "flowers102": ("Flowers102", ({"split": "train"},), ({"split": "val"},)),
    "flowers102-official": ("Flowers102", ({"split": "train"}, {"split": "val"}), ({"split": "test"},)),
    "pets": ("OxfordIIITPet", ({"split": "trainval"},), ({"split": "test"},)),
    "food101": ("Food101", ({"split": "train"},), ({"split": "test"},)),
    "dtd": (
        "DTD",
        ({"split": "train", "partition": 1}, {"split": "val", "partition": 1}),
        ({"split": "test", "partition": 1},),
    ),
}


class TorchvisionImages(Source):
    """Images of torchvision's data sets, one after the other."""

    def __init__(self, parts: list[Any], name: str) -> None:
        self._parts, self._name = parts, name
        self._ends = list(accumulate(len(part) for part in parts))
        targets = (target for part in parts for target in _targets(part))
        self.targets = [class_index(target, f"{name}[{index}]") for index, target in enumerate(targets)]

    def read(self, index: int) -> Image.Image:
        part = bisect_right(self._ends, index)
        image: Image.Image = self._parts[part][index - (self._ends[part - 1] if part else 0)][0]
        return image

    def name(self, index: int) -> str:
        return f"{self._name}[{index}]"

    def contents(self, indices: Sequence[int]) -> list[str]:
        files = [kept_files(part) for part in self._parts]
        if all(names is not None for names in files):
            every = [name for names in files for name in names or ()]
            return piece_digests([Piece(every[index]) for index in indices])
        return super().contents(indices)


def _targets(part: Any) -> Any:
    for name in ("targets", "_labels"):  # torchvision's own two habits
        if hasattr(part, name):
            return getattr(part, name)
    return [target for _, target in part]


def class_names(part: Any, targets: Sequence[int]) -> list[str]:
    """Return the names that a data set gives its classes, or their numbers."""
    return [str(name) for name in getattr(part, "classes", range(max(targets) + 1))]


def download_folder(config: DataConfig) -> Path:
    """Return where downloaded sets are kept."""
    try:
        return Path(config.path or CACHE).expanduser()
    except RuntimeError as error:  # a user without a home
        raise UsageError(f"data.name {config.kind} needs data.path: there is no home folder to download it to") from error


def download_once(make: Callable[..., Any], name: str, root: Path) -> Any:
    """``make(download=False)``, or where its files are missing ``make(download=True)`` in one process at a time.

    Raises:
        UsageError: the set is not there and cannot be downloaded.
    """
    try:
        return make(download=False)
    except (OSError, RuntimeError):
        pass
    own = root == Path(os.path.expanduser(CACHE))  # noqa: PTH111 - which leaves it as it is where there is no home
    there, lock = root.exists(), root / f".{name.replace('/', '-')}.lock"
    if not there and not root.parent.is_dir() and not own:
        raise UsageError(f"data.path {root} is not a folder, and cannot be made: there is no folder {root.parent}")
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(lock):
            return make(download=True)
    except (OSError, RuntimeError) as error:
        raise UsageError(
            f"{name} is not in {root} and could not be downloaded ({error}); put the archive's folder there, or, if you "
            "have it as class folders, use --data.name folder --data.path FOLDER"
        ) from error
    finally:
        lock.unlink(missing_ok=True)
        if not there and not own and root.is_dir() and not any(root.iterdir()):
            root.rmdir()


@register_set(*SPLITS)
def open_torchvision(config: DataConfig) -> Sets:
    """Return one of :data:`SPLITS`.

    Raises:
        UsageError: the set is not there and cannot be downloaded.
    """
    from torchvision import datasets

    kind, *splits = SPLITS[config.kind]
    root = download_folder(config)

    def make(split: dict[str, Any]) -> Any:
        return download_once(lambda download: getattr(datasets, kind)(root, **split, download=download), config.kind, root)

    train, test = ([make(part) for part in split] for split in splits)
    images = [TorchvisionImages(parts, config.kind) for parts in (train, test)]
    return images[0], images[1], class_names(train[0], images[0].targets)
