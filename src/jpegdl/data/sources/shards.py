"""WebDataset shards: tars of samples, each an image and its class under one name.

timm streams them; here the tars are indexed once and samples read by their place, so that order and augmentation are the
seed's, and every process sees each test image once.
"""

import json
import posixpath
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from jpegdl.data.config import DataConfig
from jpegdl.data.sources.base import TEST, TRAIN, VALIDATION, Parts, folder_path
from jpegdl.data.sources.encoded import ByteRange, Stored
from jpegdl.data.sources.labels import class_index, numbered_classes
from jpegdl.data.sources.listing import (
    Above,
    Part,
    Passed,
    above,
    enter,
    hidden,
    in_tar,
    is_compressed,
    is_image,
    open_tar,
    refuse_compressed,
    warn_unread,
)
from jpegdl.data.sources.registry import register_set
from jpegdl.errors import UsageError

LABELS = ("cls", "json")  # endings of the files that hold an image's class


def find_shards(root: Path, split: str, synonyms: Sequence[str]) -> list[Path]:
    """Return the tars whose name, or that of a folder they are in, has one of ``synonyms`` as a word.

    Raises:
        UsageError: there are none, or one of them is compressed.
    """
    by_word = _by_word(root, synonyms)
    if found := next(filter(None, by_word), None):
        for file in filter(is_compressed, found):
            refuse_compressed(file)
        others = [str(file.relative_to(root)) for files in by_word for file in files if file not in found]
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        warn_unread(root, split, f"{found[0].relative_to(root)}{more}", others)
        return found
    words = " or ".join(synonyms)
    raise UsageError(
        f"no {split} shards in {root}: expected tars with {words} in their names there, such as {synonyms[0]}-0000.tar"
    )


def _by_word(root: Path, synonyms: Sequence[str]) -> list[list[Path]]:
    """The archives below a folder, however deep, that have each of the words in the names on the way to them."""
    archives = sorted(file for file in _files(root, above(root)) if file.suffix.lower() == ".tar" or is_compressed(file))
    return [
        [file for file in archives if re.search(rf"(?<![a-z]){word}(?![a-z])", str(file.relative_to(root)).lower())]
        for word in synonyms
    ]


def _files(folder: Path, within: Above) -> Iterator[Path]:
    """All that is no folder below a folder, links followed, but not in circles."""
    inside = enter(folder, within)
    if inside is None:
        return
    for path in folder.iterdir():
        if hidden(path.name):
            continue
        if path.is_dir():
            yield from _files(path, inside)
        else:
            yield path


class _Shard:
    """The files of a shard by their names, with what stands before a dot and what comes after it."""

    def __init__(self, file: Path, passed: Passed) -> None:
        self.file, self.passed = file, passed
        self.images: dict[str, ByteRange] = {}  # in the shard's order, by what stands before the last dot of their names
        self.labels: dict[str, tuple[str, int]] = {}  # the file that it is from, and the class index
        with open_tar(file) as tar:
            for parts, place in in_tar(tar, str(file), passed, twice=False):
                if place is not None:
                    self._add(tar, "/".join(parts), place)

    def _add(self, tar: tarfile.TarFile, name: str, place: tuple[int, int]) -> None:
        stem, ending = posixpath.splitext(name)
        ending = ending.lower().removeprefix(".")
        if is_image(name):
            if stem in self.images:
                raise UsageError(f"{self.images[stem].key} and {name} in shard {self.file} are two images of one sample")
            self.images[stem] = ByteRange(name, str(self.file), *place)
        elif ending in LABELS:
            label = self._label(Part(tar, *place).read(), ending, f"{name} in shard {self.file}")
            if label is None:
                return
            if stem in self.labels and self.labels[stem][1] != label:
                other, before = self.labels[stem]
                raise UsageError(f"{other} and {name} in shard {self.file} give one image two classes, {before} and {label}")
            self.labels[stem] = name, label
        else:
            self.passed.add(name)

    @staticmethod
    def _label(text: bytes, ending: str, name: str) -> int | None:
        """The class index in a file; None if it has none."""
        try:
            if ending == "cls":
                value: Any = text.decode().strip()
                value = int(value) if re.fullmatch(r"[+-]?[0-9]+", value) else value
            else:
                value = json.loads(text)
                if not isinstance(value, dict):
                    raise ValueError("it is not an object")
                value = value.get("label")
        except ValueError as error:  # JSON's and Unicode's errors too
            raise UsageError(f"{name} cannot be read: {error}") from error
        if value is None:
            return None
        return class_index(int(value) if isinstance(value, float) and value.is_integer() else value, name)

    def samples(self) -> Iterator[tuple[ByteRange, int]]:
        """Every image with its class.

        ``a.seg.png`` beside ``a.png`` with its class is another picture of that sample, and is passed over.
        """
        for stem, place in self.images.items():
            if stem in self.labels:
                yield place, self.labels[stem][1]
                continue
            folder, _, base = stem.rpartition("/")
            first = f"{folder}/{base.partition('.')[0]}" if folder else base.partition(".")[0]
            if first == stem or first not in self.labels or first not in self.images:
                raise UsageError(f"{place.key} in shard {self.file} has neither a .cls nor a .json with a label beside it")
            self.passed.suffixes[f".{place.key[len(first) + 1 :]}"] += 1
        for stem, (name, _) in self.labels.items():
            if stem not in self.images:
                self.passed.suffixes[f"{posixpath.splitext(name)[1]} without an image"] += 1


def read_shards(root: Path, files: Sequence[Path]) -> Stored:
    """Samples NAME.jpg (png, webp, ...) with NAME.cls, a number, or NAME.json, which holds ``label``; in the tars' order.

    Raises:
        UsageError: a tar is damaged or compressed, a sample has no class, or there are no samples.
    """
    samples: list[tuple[ByteRange, int]] = []
    passed = Passed()
    for file in files:
        try:
            samples += _Shard(file, passed).samples()
        except (tarfile.TarError, OSError) as error:
            raise UsageError(f"shard {file} cannot be read: {error}") from error
    if not samples:
        raise UsageError(f"no images in shard {files[0]} or in {len(files) - 1} more: expected NAME.jpg with NAME.cls in them")
    passed.warn_circles()
    return Stored(root, [place for place, _ in samples], [target for _, target in samples], passed.suffixes)


@register_set("wds/")
def open_shards(config: DataConfig) -> Parts:
    """Open WebDataset shards of training, test and, where there are both, validation images; classes are numbered.

    Raises:
        UsageError: there are none, or they hold no images with classes.
    """
    root = folder_path(config, "shards such as NAME-train-0000.tar and NAME-val-0000.tar")
    train = read_shards(root, find_shards(root, "training", TRAIN))
    tests, others = (any(_by_word(root, words)) for words in (TEST[:1], VALIDATION))
    test = read_shards(root, find_shards(root, "test", TEST[:1] if tests else TEST))
    validation = read_shards(root, find_shards(root, "validation", VALIDATION)) if tests and others else None
    return Parts(train, test, numbered_classes(train, test), validation)
