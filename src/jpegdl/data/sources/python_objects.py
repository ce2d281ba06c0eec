"""The user's own data sets: Python objects, or what a function makes of them, ``my_package.my_module:make``."""

import functools
import inspect
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Subset

from jpegdl.data.config import OBJECT, DataConfig
from jpegdl.data.digests import UNKNOWN, Piece, piece_digests
from jpegdl.data.pixels import to_rgb
from jpegdl.data.sources.base import Parts, Source, kept_files
from jpegdl.data.sources.labels import check_classes, check_range, class_index, numbered_classes
from jpegdl.errors import UsageError
from jpegdl.random import evenly
from jpegdl.user_code import find_object, said

WHOLE = 10**8  # pixels: images without files are digested all where they have fewer, about two seconds' work
SOME = 256  # images that are digested where they have more
TRIED = 8  # images that are read twice at the beginning
_TARGETS = ("targets", "labels", "_labels")
_ONE = threading.Lock()  # torch reads a data set from one thread at a time; an open file in it would mix up two images


class OwnImages(Source):
    """Images of a map-style data set that the user made, ``dataset[i]`` giving (image, class index).

    Args:
        dataset: an image is a PIL image, a uint8 tensor (C, H, W) or (H, W), or a uint8 array (H, W, C) or (H, W), with C 1 or
            3, and the same at every reading.
        label: what the set is called, for messages.
        limit: use at most this many images, spread evenly over the classes; null for all.

    The class indices come from ``dataset.targets``, ``.labels`` or ``._labels`` where these are as many as the images and agree
    with some that are read; else every item is read once, which decodes all images.

    What the fingerprint sees: where the set keeps the names of its files (``.samples``, ``.imgs``, ``._samples``,
    ``._image_files``, ``._images``), what these hold (and their names and sizes, as earlier versions). Else the
    decoded pixels: of all images in use where these are small (``WHOLE`` pixels in all, CIFAR-10 is one), of ``SOME`` spread
    over the set where they are not; then a change in another image goes unseen. What the set's code does to the pixels of its
    files goes unseen too.

    Raises:
        UsageError: no such set, an image or class index of another kind, or images that change.
    """

    def __init__(self, dataset: Any, label: str, limit: int | None = None) -> None:
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")) or isinstance(dataset, str | Mapping):
            raise UsageError(
                f"{label} must be a map-style data set, with len(dataset) and dataset[i], got {type(dataset).__name__}"
            )
        self._dataset, self._label = dataset, label
        count = len(dataset)
        targets = self._all_targets(count, self._tried(count))
        self._indices: Sequence[int] = range(count) if limit is None else evenly(targets, limit)
        self.targets = [targets[index] for index in self._indices]
        self._files, self._root = _files_of(dataset)
        self._digested = self._to_digest() if self._files is None else range(0)

    def _tried(self, count: int) -> dict[int, int]:
        """Some images' class indices; what is wrong with a whole set shows here, and not in the middle of an epoch."""
        found: dict[int, int] = {}
        problem: Exception | None = None
        for index in range(0, count, max(1, count // TRIED)):
            try:
                image, target = self._item(index)
                again, _ = self._item(index)
                same = image.size == again.size and to_rgb(image).tobytes() == to_rgb(again).tobytes()
            except UsageError:
                raise
            except Exception as error:  # maybe a damaged file: others will do
                problem = problem or UsageError(f"{self._label}[{index}] cannot be read: {said(error)}")
                continue
            if not same:
                raise UsageError(
                    f"{self._label}[{index}] changes each time it is read: take random steps out of the data set's transform. "
                    "Crops and other augmentation are settings (data.crop, flip, auto_augment, ...)"
                )
            found[index] = target
        if problem and not found:
            raise problem
        return found

    def _all_targets(self, count: int, tried: dict[int, int]) -> list[int]:
        targets = _kept_targets(self._dataset, count)
        if targets is not None and all(targets[index] == target for index, target in tried.items()):
            return targets
        read = []
        for index in range(count):
            try:
                read.append(self._item(index)[1])
            except UsageError:
                raise
            except Exception as error:  # whatever the user's code raises
                raise UsageError(f"{self._label}[{index}] cannot be read, nor its class: {said(error)}") from error
        return read

    def _item(self, index: int) -> tuple[Image.Image, int]:
        with _ONE:
            item = self._dataset[index]
        if not isinstance(item, tuple | list) or len(item) != 2:
            got = f"a {type(item).__name__}" + (f" of {len(item)}" if isinstance(item, tuple | list) else "")
            raise UsageError(f"{self._label}[{index}] must be an image and its class index, got {got}")
        target = class_index(item[1], f"{self._label}[{index}]")
        return _to_image(item[0], f"{self._label}[{index}]"), target

    def _to_digest(self) -> Sequence[int]:
        """Positions of the images whose pixels the fingerprint sees."""
        count = len(self.targets)
        sizes = []
        for i in range(0, count, max(1, count // TRIED)):
            with suppress(OSError):
                width, height = self.read(i).size
                sizes.append(width * height)
        small = count * sum(sizes) <= WHOLE * len(sizes)
        return range(0, count, 1 if small else -(-count // SOME))

    def read(self, index: int) -> Image.Image:
        try:
            return self._item(self._indices[index])[0]
        except (OSError, UsageError):
            raise
        except Exception as error:  # whatever the user's code raises
            raise OSError(said(error)) from error

    def name(self, index: int) -> str:
        index = self._indices[index]
        return f"{self._label}[{index}]" if self._files is None else self._files[index]

    def key(self, index: int) -> str:
        if self._files is not None:
            return os.path.relpath(self._files[self._indices[index]], self._root)
        if index not in self._digested:
            return str(index)
        return self._pixels[index][:16] or f"{index} damaged"

    def contents(self, indices: Sequence[int]) -> list[str]:
        if self._files is not None:
            return piece_digests([Piece(self._files[self._indices[index]]) for index in indices])
        return [self._pixels.get(index, UNKNOWN) for index in indices]

    @functools.cached_property
    def _pixels(self) -> dict[int, str]:
        """Digests of the pixels that the fingerprint sees."""
        return dict(zip(self._digested, super().contents(self._digested), strict=True))

    def size(self, index: int) -> int:
        with suppress(OSError):  # what is missing is found out when it is read
            return 0 if self._files is None else Path(self._files[self._indices[index]]).stat().st_size
        return 0


def _to_image(image: Any, label: str) -> Image.Image:
    if isinstance(image, Image.Image):
        return image
    if not isinstance(image, torch.Tensor | np.ndarray):
        raise UsageError(f"{label} must be a PIL image, or a uint8 tensor or array, got {type(image).__name__}")
    if image.dtype not in (torch.uint8, np.uint8):
        raise UsageError(
            f"{label} is a {type(image).__name__} of {str(image.dtype).removeprefix('torch.')}: take the transform (ToTensor, "
            "Normalize, ...) out of the data set; images are cropped, augmented and scaled to [0, 1] here. uint8 is taken too"
        )
    pixels = image.movedim(0, -1).cpu().numpy() if isinstance(image, torch.Tensor) and image.ndim == 3 else np.asarray(image)
    if pixels.ndim == 3 and pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    if pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (3,)) or not pixels.size:
        axes = "a tensor (C, H, W) or (H, W)" if isinstance(image, torch.Tensor) else "an array (H, W, C) or (H, W)"
        raise UsageError(f"{label} must be {axes} with 1 or 3 channels, got {tuple(image.shape)}")
    return Image.fromarray(np.ascontiguousarray(pixels))


def _origin(dataset: Any) -> tuple[Any, Sequence[int]]:
    """The data set that subsets are of, and their indices in it."""
    indices: Sequence[int] = range(len(dataset))
    while type(dataset) is Subset:  # a class of its own may do more than choose
        indices, dataset = [int(dataset.indices[index]) for index in indices], dataset.dataset
    return dataset, indices


def _kept_targets(dataset: Any, count: int) -> list[int] | None:
    """The class indices that a data set keeps, or that the one it is a subset of does; None if there are none to rely on."""
    origin, indices = _origin(dataset)
    if getattr(origin, "target_transform", None) is not None:
        return None
    for name in _TARGETS:
        kept = getattr(origin, name, None)
        if isinstance(kept, list | tuple | np.ndarray | torch.Tensor) and len(kept) == len(origin):
            with suppress(UsageError):  # no numbers, or several of each
                return [class_index(kept[index], name) for index in indices]
    return None


def _files_of(dataset: Any) -> tuple[list[str] | None, str]:
    """The files of the images, and the folder that their names begin at; None if they are not known."""
    origin, indices = _origin(dataset)
    if (kept := kept_files(origin)) is None or not indices:
        return None, ""
    files = [kept[index] for index in indices]
    return files, os.path.commonpath({os.path.dirname(file) for file in files})  # noqa: PTH120 - for speed


def open_own(config: DataConfig, sets: tuple[Any, ...] | None = None, *, test_only: bool = False) -> Parts:
    """Return what ``data.name``, ``my_package.my_module:make``, returns; or a data set that is given as Python objects.

    Args:
        config: its ``name`` is that of a function (or class) that returns the sets. It is called with ``path=data.path`` where
            it has a parameter ``path``, and without arguments else.
        sets: (train, test), (train, test, classes) or (train, test, classes, validation): map-style data sets, see
            :class:`OwnImages`, and the names of their classes. Default of these: ``train.classes`` where it has them, else the
            numbers. ``test`` may be None where ``data.test_share`` takes it from the training images.
        test_only: the training images are none, and ``train`` may be None.

    Raises:
        UsageError: no such function, it fails, or what it returns cannot be used.
    """
    label = "the data set given as Python objects" if config.name == OBJECT else f"data.name {config.name}"
    if config.name == OBJECT and sets is None:
        raise UsageError(
            f"data.name {OBJECT} stands for a data set that was given as Python objects, and they must be given again: "
            "Data(config, sets=(train, test, classes)); or put them in a function, and give --data.name my_module:make"
        )
    given = _made(config, label) if sets is None else sets
    if not isinstance(given, tuple | list) or len(given) not in (2, 3, 4):
        got = f"{len(given)} of them" if isinstance(given, tuple | list) else type(given).__name__
        also = "images for validation may come fourth"
        raise UsageError(f"{label} must be (train, test) or (train, test, classes), got {got}; {also}")
    sets_by_part = {"train": given[0], "test": given[1], "validation": given[3] if len(given) == 4 else None}
    if test_only:
        sets_by_part["validation"] = None
    _check_apart(sets_by_part, label)
    if given[1] is None and config.test_share is None:
        raise UsageError(
            f"{label} has no test images; --data.test-share 0.2 keeps a fifth of the training images of each class for the test"
        )
    limit = None if given[1] is None else config.limit  # else the test images are taken from all of them first
    parts = {
        name: OwnImages(part, f"{label} {name}", limit)
        for name, part in sets_by_part.items()
        if part is not None or (name == "train" and not test_only)
    }
    for name, images in parts.items():
        if not images.targets:
            raise UsageError(f"{label}: {name} has no images")
    classes = _classes(given, list(parts.values()), label)
    none = OwnImages([], f"{label} train")
    if "test" in parts:
        check_classes(
            parts.get("train", none),
            parts["test"],
            classes,
            label,
            known=len(given) >= 3,
            instead="if the network knows it already, return the names of the classes too",
            limited=config.limit is not None,
        )
    train = none if test_only else parts.get("train", none)
    return Parts(train, parts.get("test"), classes, parts.get("validation"))


def _made(config: DataConfig, label: str) -> Any:
    make = find_object(str(config.name), "data.name")
    if not callable(make):
        raise UsageError(f"{label} must be a function that returns (train, test, classes), got {type(make).__name__}")
    try:
        parameters = dict(inspect.signature(make).parameters)
    except (TypeError, ValueError):  # it has no signature
        parameters = {}
    arguments = {"path": config.path} if "path" in parameters and config.path is not None else {}
    if config.path is not None and not arguments:
        raise UsageError(f"data.path {config.path} is given, and {label} has no parameter path to take it")
    required = [
        name
        for name, parameter in parameters.items()
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and name not in arguments
    ]
    if required == ["path"]:
        raise UsageError(f"{label} needs data.path, which it takes as its path")
    if required:
        raise UsageError(f"{label} is called without arguments, or with path=data.path; it asks for {', '.join(required)} too")
    try:
        return make(**arguments)
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise UsageError(f"{label} failed: {said(error)}") from error


def _check_apart(parts: Mapping[str, Any], label: str) -> None:
    """Refuse two parts that are the same object, or subsets of one set that have images in common."""
    there = [(name, part) for name, part in parts.items() if part is not None]
    for (name, one), (other, another) in combinations(there, 2):
        seen = f"the {other} would be on training images" if name == "train" else "the test would be on validation images"
        if one is another:
            raise UsageError(f"{label}: {name} and {other} are the same object, so {seen}")
        if not all(hasattr(part, "__len__") for part in (one, another)):
            continue  # said when it is opened
        (first, some), (second, others) = _origin(one), _origin(another)
        if first is second and (shared := len(set(some) & set(others))):
            raise UsageError(f"{label}: {shared} images are in both {name} and {other}, so {seen}")


def _classes(given: Sequence[Any], parts: Sequence[Source], label: str) -> list[str]:
    """The names of the classes, as many as any class index asks for."""
    origin = next(_origin(part)[0] for part in given[:2] if part is not None)
    named = len(given) == 3 or (len(given) == 4 and given[2] is not None)
    names = given[2] if named else getattr(origin, "classes", None)
    if names is None:
        names = numbered_classes(*parts)
    if isinstance(names, str | int) or not hasattr(names, "__iter__"):
        raise UsageError(f"{label}: the classes must be a list of names, got {names!r}")
    names = [", ".join(map(str, name)) if isinstance(name, tuple | list) else str(name) for name in names]
    check_range(parts, len(names))
    if len(names) < 2:
        raise UsageError(f"{label} has one class only; two or more are needed")
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise UsageError(f"{label}: two classes are named {twice!r}")
    return names
