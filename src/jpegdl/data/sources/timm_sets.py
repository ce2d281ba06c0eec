"""What timm reads by prefix: Hugging Face's, TensorFlow's and more of torchvision's sets."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from jpegdl.data.config import DataConfig, Orientation
from jpegdl.data.digests import UNKNOWN, bytes_digest, pixel_digest
from jpegdl.data.pixels import resized, to_rgb
from jpegdl.data.sources.base import Sets, Source
from jpegdl.data.sources.labels import class_index, numbered_classes
from jpegdl.data.sources.torchvision_sets import TorchvisionImages, class_names, download_folder, download_once
from jpegdl.errors import UsageError
from jpegdl.extras import require
from jpegdl.opener import open_image

PACKAGES = {"hfds": ("datasets",), "hfids": ("datasets",), "tfds": ("tensorflow", "tensorflow_datasets")}
TEST_SPLITS = ("test", "validation", "val")  # the first that is there and has classes
STREAM_BYTES = 2**34  # streamed sets are held in memory


class _Table(Source):
    """A Hugging Face set, row by row."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader
        labels = reader.dataset[reader.label_key]
        self.targets = [class_index(target, f"{reader.split}[{index}]") for index, target in enumerate(labels)]

    def read(self, index: int) -> Image.Image:
        return open_image(io.BytesIO(self._encoded(index)))

    def _encoded(self, index: int) -> bytes:
        with self._reader[index][0] as file:
            file.seek(0)
            content: bytes = file.read()
            return content

    def name(self, index: int) -> str:
        return f"{self._reader.split}[{index}]"

    def contents(self, indices: Sequence[int]) -> list[str]:
        found = []
        for index in indices:
            try:
                found.append(bytes_digest(self._encoded(index)))
            except Exception:  # whatever the package raises; found out when it is trained on
                found.append(UNKNOWN)
        return found


class _Stream(Source):
    """A set that can be read from beginning to end only: read once, and held in memory."""

    def __init__(self, reader: Any, side: int | None, interpolation: str, orientation: Orientation) -> None:
        self._split, self._images, self._contents = reader.split, list[Any](), list[str]()
        targets: list[int] = []
        size = 0
        for image, target in reader:
            self._contents.append(pixel_digest(image))  # at its full size, which training and test images may not be kept in
            pixels = np.asarray(
                to_rgb(image, orientation) if side is None else resized(image, side, interpolation, orientation)
            )
            self._images.append(pixels)
            targets.append(class_index(target, f"{reader.split}[{len(targets)}]"))
            size += pixels.nbytes
            if size > STREAM_BYTES:
                raise UsageError(
                    f"a streamed set is held in memory, and this one takes over {STREAM_BYTES / 2**30:.0f} GiB; take hfds/, "
                    "wds/, folders or tars, or a smaller --data.resize"
                )
        self.targets = targets

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(self._images[index])

    def name(self, index: int) -> str:
        return f"{self._split}[{index}]"

    def contents(self, indices: Sequence[int]) -> list[str]:
        return [self._contents[index] for index in indices]


def open_timm(config: DataConfig) -> Sets:
    """A set named PREFIX/NAME.

    Raises:
        UsageError: a package is not installed, or the set cannot be read.
    """
    prefix = config.kind.partition("/")[0]
    require(f"data.name {config.kind} needs", *PACKAGES[prefix])
    whole = None if config.crop == "resized" else config.side
    train, classes = _open(config, "train", whole)
    unlabelled: list[str] = []
    for split in TEST_SPLITS:
        try:
            test, _ = _open(config, split, config.side)
        except UsageError as error:
            problem = error
            continue
        if min(test.targets, default=-1) >= 0:
            return train, test, classes or numbered_classes(train, test)
        partly = max(test.targets, default=-1) >= 0
        unlabelled.append(f"its split {split!r} has no classes{' for some images' if partly else ''}")
    why = "; ".join(unlabelled) or problem
    raise UsageError(f"{config.kind} has no images to test on: tried the splits {', '.join(TEST_SPLITS)} ({why})")


def _open(config: DataConfig, split: str, side: int | None) -> tuple[Source, list[str]]:
    from timm.data.readers.reader_factory import create_reader

    try:
        reader: Any = create_reader(config.kind, config.path, split, download=True)
        source = _Table(reader) if config.kind.startswith("hfds/") else _Stream(reader, side, config.filter, config.orientation)
    except UsageError:
        raise
    except Exception as error:  # the packages raise whatever comes: no network, no such set, no such split, no such column
        raise UsageError(f"{config.kind}, split {split!r}, cannot be read ({type(error).__name__}: {error})") from error
    return source, sorted(reader.class_to_idx, key=reader.class_to_idx.get)


def open_torch(config: DataConfig) -> Sets:
    """One of the torchvision sets that timm knows, by torch/NAME.

    Raises:
        UsageError: timm does not know it, or it is not there and cannot be downloaded.
    """
    from timm.data.dataset_factory import create_dataset

    root = download_folder(config)

    def make(split: str) -> Any:
        def of_timm(download: bool) -> Any:
            return create_dataset(config.kind, str(root), split, download=download)

        return download_once(of_timm, config.kind, root)

    try:
        train, test = make("train"), make("validation")
    except AssertionError as error:
        raise UsageError(f"data.name {config.kind}: {error}") from error
    images = [TorchvisionImages([part], config.kind) for part in (train, test)]
    return images[0], images[1], class_names(train, images[0].targets)
