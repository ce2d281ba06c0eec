"""Decoded images, cropped and augmented one by one."""

import copy
import functools
import hashlib
import struct
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import v2

from jpegdl.data.augment import Erase, recolour
from jpegdl.data.config import DataConfig
from jpegdl.data.digests import DIGITS
from jpegdl.data.pixels import middle, orientation_note, resized, to_rgb
from jpegdl.data.sampling import IGNORED, Key
from jpegdl.data.sources.base import Source
from jpegdl.errors import UsageError, how_many, warn_of_data
from jpegdl.layer.jpeg_function import jpeg
from jpegdl.opener import BadImage
from jpegdl.random import seeded

CACHE_BYTES = 2**30  # sets smaller than this once decoded are kept in memory

# What Pillow raises on bad files, which a data set of somebody else's may open by itself.
_BAD_FILE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error, Image.DecompressionBombError)
_NAMED = 5  # of the images that cannot be decoded, in messages
_WORTH_A_KERNEL = 96**2  # pixels; with 64 x 64 a file takes as long, with 224 x 224 it takes 1.7 times as long
_MEASURED = 9  # images, for the time that one takes
_LOOKED_AT = 256  # images of a set that is not kept decoded, for their orientation


class ImageSet(Dataset[tuple[Tensor, int]]):
    """Images and class indices; ``dataset[i]`` is test-time, ``dataset[i, seed]`` augmented with that seed.

    An image is (3, size, size) float32 in [0, 1]. ``dataset[None]`` is no image: black pixels and the class ``IGNORED``.

    Args:
        source: images and their class indices.
        config: crop, flip, other augmentation, JPEG, and what to do with corrupt files.
        train: whether these are the training images.
        called: what messages call them. Default: training or test.

    Attributes:
        targets: class indices of the images in use: without the corrupt ones, once :meth:`load` has decoded them all.
        left_out: the names of those, where they are left out.
    """

    def __init__(self, source: Source, config: DataConfig, *, train: bool, called: str | None = None) -> None:
        self._source, self._config, self._train = source, config, train
        self.called = called or ("training" if train else "test")
        self._full = train and config.crop == "resized"  # whether whole images are needed
        self.targets: Sequence[int] = source.targets
        self._indices: Sequence[int] = range(len(source.targets))  # in the source, of the images in use
        self._cache: list[Tensor] | None = None
        self._loaded = False
        self.left_out: list[str] = []
        self._turned: list[int] = []  # decoded images that the EXIF orientation says to turn; threads add to it
        self._set_transforms()

    def load(self) -> None:
        """Decode all images, if they are kept decoded. Further calls do nothing.

        Raises:
            UsageError: one of them cannot be decoded.
        """
        if self._loaded or not self._indices:
            return
        kept = self.kept_decoded
        if kept or self._config.skip_corrupt:  # the first batch needs to know which are left out
            self._decode_all(keep=kept)
        self._warn_of_turned(kept or self._config.skip_corrupt)
        self._loaded = True

    def check(self) -> None:
        """Decode all images once, without keeping them, to find those that are damaged, if training would keep them decoded.

        Raises:
            UsageError: names those that cannot be decoded.
        """
        if not self._loaded and self._indices and self.kept_decoded:
            self._decode_all(keep=False)
            self._warn_of_turned(all_decoded=True)
            self._indices, self._turned = range(len(self._source.targets)), []
            self.targets = self._source.targets

    @functools.cached_property
    def kept_decoded(self) -> bool:
        """Whether all images are decoded once and kept."""
        cache = self._config.cache
        return cache == "memory" or (cache == "auto" and self._decoded_bytes() < CACHE_BYTES)

    def seconds(self) -> float:
        """Measure how long one image takes in each epoch of training, in seconds: to decode, unless it is kept decoded, and to
        augment. It is the median of a few images, and 0 where none of these can be decoded."""
        spent = []
        for index in range(0, len(self.targets), max(1, len(self.targets) // _MEASURED)):
            with suppress(Exception):  # said when it is trained on
                begin = time.perf_counter()
                image = self._decode(index)
                decoded = time.perf_counter()
                with seeded(index, everywhere=self._timm):
                    self._augment(image)
                spent.append(time.perf_counter() - (decoded if self.kept_decoded else begin))
        self._turned = []
        return sorted(spent)[len(spent) // 2] if spent else 0.0

    def _set_transforms(self) -> None:
        config = self._config
        mode = v2.InterpolationMode(config.filter)
        fit = [v2.Resize([config.side], mode, antialias=True)] if self._full else []
        to_unit = v2.ToDtype(torch.float32, scale=True)
        self._test = v2.Compose([*fit, _middle(config.pixels, None if self._train else config.jpeg_test)])
        crop: v2.Transform = v2.RandomCrop(config.pixels, padding=config.pad or None)
        if self._full:
            crop = v2.RandomResizedCrop(config.pixels, scale=(config.scale, 1.0), interpolation=mode)
        flips = [v2.RandomHorizontalFlip()] if config.flip else []
        # The order of timm's create_transform. Crops and flips come first, and are the same with and without all that follows.
        recolours = config.auto_augment is not None or config.color_jitter is not None
        self._timm = recolours or config.erase > 0
        colours: list[Callable[[Any], Any]] = []
        if recolours:
            colours = [v2.functional.to_pil_image, recolour(config), v2.functional.pil_to_tensor]
        files = [] if config.jpeg_train is None else [_JpegFiles(config.jpeg_train)]
        erase = [Erase(config.erase)] if config.erase else []
        self._augment = v2.Compose([crop, *flips, *colours, *files, to_unit, *erase])

    def with_config(self, config: DataConfig) -> "ImageSet":
        """Return the same decoded images under a config that differs in ``jpeg_train`` and ``jpeg_test`` only."""
        other = copy.copy(self)
        other._config = config
        other._set_transforms()
        return other

    def undecoded(self, config: DataConfig) -> "ImageSet":
        """Return the same images under a config that chooses the same, to be decoded as it says."""
        return ImageSet(self._source, config, train=self._train, called=self.called)

    @functools.cached_property
    def contents(self) -> np.ndarray[Any, np.dtype[np.bytes_]]:
        """A digest of the content of each image, corrupt ones too; empty where it is not known."""
        return np.array(self._source.contents(range(len(self._source.targets))), dtype=f"S{DIGITS}")

    @functools.cached_property
    def fingerprint(self) -> dict[str, Any]:
        """Number of the images, corrupt ones too, and two digests of them in order, each of 16 hex digits.

        ``digest`` is that of their names, sizes in bytes and classes; ``content`` that of what their files hold, or of their
        pixels where they have no files, and of their classes.
        """
        digest, content = hashlib.sha256(), hashlib.sha256()
        for index, (target, held) in enumerate(zip(self._source.targets, self.contents.tolist(), strict=True)):
            digest.update(f"{self._source.key(index)}\0{self._source.size(index)}\0{target}\n".encode(errors="surrogateescape"))
            content.update(b"%s\0%d\n" % (held, target))
        return {"images": len(self._source.targets), "digest": digest.hexdigest()[:16], "content": content.hexdigest()[:16]}

    def in_several_classes(self) -> list[list[str]]:
        """Return the names of images whose content comes again under another class; those of one content in one list."""
        _, group = np.unique(self.contents, return_inverse=True)
        targets = np.asarray(self._source.targets, dtype=np.int64)
        pairs = np.unique(np.stack([group, targets], axis=1), axis=0)
        several = np.flatnonzero(np.bincount(pairs[:, 0]) > 1)
        where = np.flatnonzero(np.isin(group, several) & (self.contents != b""))
        found: dict[int, list[str]] = {}
        for index in where.tolist():
            found.setdefault(int(group[index]), []).append(self._source.name(index))
        return list(found.values())

    @property
    def passed_over(self) -> Mapping[str, int]:
        """How many files beside the images were passed over, by suffix."""
        return self._source.passed_over

    def _decoded_bytes(self) -> float:
        count = len(self.targets)
        if not self._full:
            return count * self._config.side**2 * 3 * 1.5
        some = []
        for index in range(0, count, max(1, count // 16)):
            with suppress(BadImage):
                some.append(self._decode(index).numel())
        self._turned = []
        return count * sum(some) / max(1, len(some))

    def _decode_all(self, *, keep: bool) -> None:
        """Decode every image, to keep them or to know which are sound."""

        def decode(index: int) -> Tensor | BadImage | None:
            try:
                image = self._decode(index)
                return image if keep else None
            except BadImage as error:
                return error.with_traceback(None)  # the traceback holds the pixels decoded so far

        indices = range(len(self.targets))
        with ThreadPoolExecutor(max(1, self._config.workers)) as pool:
            found = list(pool.map(decode, indices))
        bad = {self._source.name(index): str(error) for index, error in enumerate(found) if isinstance(error, BadImage)}
        sound = [index for index, image in enumerate(found) if not isinstance(image, BadImage)]
        if bad and (not self._config.skip_corrupt or not sound):
            raise UsageError(_refusal(bad, len(indices), self._config.skip_corrupt))
        self._indices = sound
        self.left_out = list(bad)
        if bad:
            text = f"left out {len(bad)} of {how_many(len(indices), 'image')} that cannot be decoded: {_listed(bad)}"
            warn_of_data(" ".join(text.split()))
        self._cache = [cast(Tensor, found[index]) for index in self._indices] if keep else None
        self.targets = [self._source.targets[index] for index in self._indices]

    def _decode(self, index: int) -> Tensor:
        """(3, H, W) uint8, H and W as the crops need them.

        Raises:
            BadImage: it cannot be decoded.
        """
        config = self._config
        try:
            image = self._source.read(index)
            if self._cache is None and orientation_note(image) != 1:
                self._turned.append(index)
            if not self._full:
                return _scaled(image, config)
            return cast(Tensor, v2.functional.pil_to_tensor(middle(to_rgb(image, config.orientation))))
        except BadImage:
            raise
        except _BAD_FILE as error:
            raise BadImage(bad_file(error)) from error

    def _decode_or_refuse(self, index: int) -> Tensor:
        try:
            return self._decode(self._indices[index])
        except BadImage as error:
            raise UsageError(_refusal({self._source.name(self._indices[index]): str(error)}, 1, False)) from error

    def _warn_of_turned(self, all_decoded: bool) -> None:
        """Count the images whose camera says to turn them, where that is not followed."""
        count, looked_at = len(set(self._turned)), len(self.targets)
        if not all_decoded:
            some = range(0, looked_at, max(1, looked_at // _LOOKED_AT))
            count, looked_at = 0, len(some)
            for index in some:
                with suppress(*_BAD_FILE):  # decoding it says what is wrong
                    count += orientation_note(self._source.read(index)) != 1
        if count and self._config.orientation == "stored":
            which = f"{self.called} images{'' if all_decoded else ' looked at'}"
            warn_of_data(
                f"{count} of {looked_at} {which} should be turned, by their EXIF orientation; they are "
                "read as they are stored, as torchvision and timm do: --data.orientation follow turns them"
            )

    def __len__(self) -> int:
        return len(self.targets)

    def key(self, index: int) -> str:
        """Return a name of an image that does not depend on where the set is kept: of class folders CLASS/.../NAME."""
        return self._source.key(self._indices[index])

    def stored_size(self, index: int) -> tuple[int, int]:
        """Return the width and height of an image as it is stored, in pixels; raise what its reader raises."""
        return self._source.read(self._indices[index]).size

    def __getitem__(self, key: Key) -> tuple[Tensor, int]:
        if key is None:
            return torch.zeros(3, self._config.pixels, self._config.pixels), IGNORED
        index, seed = key if isinstance(key, tuple) else (key, None)
        image = self._decode_or_refuse(index) if self._cache is None else self._cache[index]
        if seed is None:
            return self._test(image), self.targets[index]
        with seeded(seed, everywhere=self._timm):
            return self._augment(image), self.targets[index]


class TestTransform:
    """A transform from a PIL image to what a test sees of it: RGB, scaled to a short side of ``data.side``, its middle.

    It returns the same pixels as ``Data(config).test[i][0]``, (3, size, size) float32 in [0, 1], with ``data.jpeg_test`` too.

    Args:
        config: ``size``, ``resize``, ``interpolation``, ``orientation`` and ``jpeg_test`` count.

    Attributes:
        size: side of the crop, in pixels.
        side: short side of the image that it is cut from, in pixels.
        interpolation: how the image is scaled.
    """

    __test__ = False  # it is not a test of pytest

    def __init__(self, config: DataConfig) -> None:
        self.size, self.side, self.interpolation = config.pixels, config.side, config.filter
        self._config, self._crop = config, _middle(config.pixels, config.jpeg_test)

    def __call__(self, image: Image.Image) -> Tensor:
        """An image of any size and mode to (3, size, size), float32 in [0, 1].

        Raises:
            BadImage: it cannot be decoded, or its pixels have no range.
        """
        return self._crop(_scaled(image, self._config))

    def __repr__(self) -> str:
        jpeg = f", JPEG of quality {self._config.jpeg_test}" if self._config.jpeg_test is not None else ""
        scaled = f"short side {self.side} ({self.interpolation})"
        return f"{type(self).__name__}(RGB, {scaled}, center crop {self.size} x {self.size}{jpeg}, [0, 1])"


def _scaled(image: Image.Image, config: DataConfig) -> Tensor:
    """(3, H, W) uint8 with a short side of ``data.side``."""
    return cast(Tensor, v2.functional.pil_to_tensor(resized(image, config.side, config.filter, config.orientation)))


def _middle(size: int, jpeg: int | None) -> Callable[[Tensor], Tensor]:
    """The center crop of a uint8 image, through a JPEG file of that quality if any, in [0, 1]."""
    encode = [] if jpeg is None else [functools.partial(_through_file, quality=jpeg)]
    crop: Callable[[Tensor], Tensor] = v2.Compose([v2.CenterCrop(size), *encode, v2.ToDtype(torch.float32, scale=True)])
    return crop


class _JpegFiles(v2.JPEG):  # type: ignore[misc]  # whose base is Any for mypy
    """Images through JPEG files of qualities that torchvision draws."""

    def transform(self, inpt: Tensor, params: dict[str, Any]) -> Tensor:
        return _through_file(inpt, params["quality"])


def _through_file(image: Tensor, quality: int) -> Tensor:
    """The pixels that a JPEG file (4:2:0) gives back of a uint8 image: the same from a file as from the codec's kernels, which
    take less time for large images."""
    if image.shape[-2] * image.shape[-1] < _WORTH_A_KERNEL:
        return cast(Tensor, v2.functional.jpeg(image, quality))
    return jpeg(image, quality, subsampling="4:2:0")


def bad_file(error: Exception) -> str:
    """Return what is wrong with a file, on one line: the system's words, or those of a reader."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())


def _listed(bad: Mapping[str, str]) -> str:
    some = ", ".join(f"{name} ({reason})" for name, reason in list(bad.items())[:_NAMED])
    return some + (f", and {len(bad) - _NAMED} more" if len(bad) > _NAMED else "")


def _refusal(bad: Mapping[str, str], count: int, skipping: bool) -> str:
    """Put them into one line: the last of what a loader process hands on."""
    if skipping:
        return f"none of the {how_many(count, 'image')} can be decoded: {_listed(bad)}"
    text, them = f"{len(bad)} of {count} images cannot be decoded: {_listed(bad)}", "them"
    if len(bad) == 1:
        ((name, reason),) = bad.items()
        text, them = f"image {name} cannot be decoded ({reason})", "it"
    return " ".join(f"{text}; repair or remove {them}, or leave such images out with --data.skip-corrupt true".split())
