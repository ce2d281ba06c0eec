"""Class folders and tars of them."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from timm.data.readers.reader_factory import create_reader
from timm.data.readers.reader_image_in_tar import ReaderImageInTar

from jpegdl.data.config import DataConfig
from jpegdl.data.images import Sets
from jpegdl.data.shards import find_shards, read_shards
from jpegdl.data.stored import Place, Stored
from jpegdl.errors import UsageError

TRAIN, TEST = ("train", "training"), ("test", "val", "validation")


def folder_path(config: DataConfig, holds: str) -> Path:
    """``data.path``, which must be a folder.

    Raises:
        UsageError: it is not given or no folder; says what it ``holds``.
    """
    if config.path is None:
        raise UsageError(f"data.name {config.kind} needs data.path: the folder that holds {holds}")
    root = Path(config.path).expanduser()
    if not root.is_dir():
        raise UsageError(f"data.path {root} is no folder; expected the one that holds {holds}")
    return root


def _find(root: Path, split: str, synonyms: Sequence[str]) -> Path:
    tried = [candidate for name in synonyms for candidate in (root / name, root / f"{name}.tar")]
    for candidate in tried:
        if candidate.exists():
            return candidate
    names = ", ".join(f"{path.name}{'' if path.suffix else '/'}" for path in tried)
    raise UsageError(f"no {split} images in {root}: expected one of {names} there, with one folder for each class")


def _read_folders(root: Path) -> tuple[Stored, list[str]]:
    reader: Any = create_reader("", str(root))
    files, targets = zip(*reader.samples, strict=True)
    return Stored([Place(file) for file in files], targets), sorted(reader.class_to_idx, key=reader.class_to_idx.get)


def _read_tars(root: Path) -> tuple[Stored, list[str]]:
    """A tar of class folders, a tar of one tar for each class, or a folder of these."""
    reader: Any = ReaderImageInTar(str(root))  # type: ignore[no-untyped-call]
    places = []
    for member, tar, outer in reader.samples:
        start = member.offset_data + (outer.offset_data if outer is not None else 0)
        places.append(Place(str(root / tar if tar else root), start, member.size, member.name))
    return Stored(places, reader.targets), sorted(reader.class_name_to_idx, key=reader.class_name_to_idx.get)


def _read(root: Path) -> tuple[Stored, list[str]]:
    tars = root.is_file() or (any(root.glob("*.tar")) and not any(path.is_dir() for path in root.iterdir()))
    try:
        return _read_tars(root) if tars else _read_folders(root)
    except Exception as error:  # timm raises whatever comes: RuntimeError, AssertionError, ValueError, tarfile's own
        raise UsageError(f"no images can be read from {root} ({error}); expected one folder for each class") from error


def open_folder(config: DataConfig) -> Sets:
    """Class folders, or tars of them, for training and test.

    Raises:
        UsageError: one is missing or empty, or they differ in their classes.
    """
    root = folder_path(config, "train/ and test/ (or train.tar and test.tar)")
    train, classes = _read(_find(root, "training", TRAIN))
    test, test_classes = _read(_find(root, "test", TEST))
    if classes != test_classes:
        odd = sorted(set(classes) ^ set(test_classes))
        raise UsageError(f"training and test images in {root} have different classes: {', '.join(odd[:5])} in one of them only")
    if len(classes) < 2:
        raise UsageError(f"{root} has one class only, {classes[0]!r}; expected one folder for each of two or more")
    return train, test, classes


def open_imagenet(config: DataConfig) -> Sets:
    """ImageNet-1K: folders or tars of WordNet ids (n01440764, ...), or WebDataset shards.

    Raises:
        UsageError: neither lies there, or classes are no WordNet ids.
    """
    root = folder_path(config, "train/ and val/ of WordNet ids (or train.tar and val.tar, or WebDataset shards)")
    if not any((root / name).exists() for split in (TRAIN, TEST) for name in (*split, *(f"{part}.tar" for part in split))):
        if any(root.glob("ILSVRC2012_img_*.tar")):
            raise UsageError(
                f"{root} holds ImageNet's archives as downloaded; torchvision.datasets.ImageNet(PATH, 'train') and (PATH, "
                "'val') unpack them, with ILSVRC2012_devkit_t12.tar.gz, into the train/ and val/ that are expected there"
            )
        return open_shards(config)
    train, test, classes = open_folder(config)
    if odd := [name for name in classes if not re.fullmatch(r"n\d{8}", name)]:
        raise UsageError(
            f"classes of {root} are no WordNet ids such as n01440764, {odd[0]!r} for one; take --data.name folder, or "
            "wds/ for shards"
        )
    return train, test, classes


def open_shards(config: DataConfig) -> Sets:
    """WebDataset shards of training and test images; classes are numbered.

    Raises:
        UsageError: there are none, or they hold no images with classes.
    """
    root = folder_path(config, "shards such as NAME-train-0000.tar and NAME-val-0000.tar")
    train, test = read_shards(find_shards(root, "training", TRAIN)), read_shards(find_shards(root, "test", TEST))
    return train, test, [str(i) for i in range(max(*train.targets, *test.targets) + 1)]
