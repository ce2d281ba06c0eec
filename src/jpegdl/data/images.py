"""Decoded images, cropped and augmented one by one."""

import copy
import functools
import hashlib
import struct
import warnings
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torch.utils.data import Dataset, default_collate
from torchvision.transforms import v2

from jpegdl.data.augment import Erase, recolour, seeded
from jpegdl.data.config import DataConfig
from jpegdl.data.device import DeviceImages
from jpegdl.data.pixels import resized, to_rgb
from jpegdl.data.sampling import IGNORED, Key
from jpegdl.data.sources.base import Source
from jpegdl.errors import UsageError

CACHE_BYTES = 2**30  # sets smaller than this once decoded are kept in memory

#: What Pillow raises on bad files.
BAD_FILE = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error, Image.DecompressionBombError)


class ImageSet(Dataset[tuple[Tensor, int] | None]):
    """Images and class indices; ``dataset[i]`` is test-time, ``dataset[i, seed]`` augmented with that seed.

    An image is (3, size, size) float32 in [0, 1]. ``dataset[None]`` is no image: black pixels and the class ``IGNORED``. A
    corrupt image is None where such images are left out; batches do not contain it.

    Args:
        source: images and their class indices.
        config: crop, flip, other augmentation, JPEG, and what to do with corrupt files.
        train: whether these are the training images.

    Attributes:
        targets: class indices of the images in use: without the corrupt ones, once :meth:`load` has decoded them all.
    """

    def __init__(self, source: Source, config: DataConfig, *, train: bool) -> None:
        self._source, self._config, self._train = source, config, train
        self._full = train and config.crop == "resized"  # whether whole images are needed
        self.targets: Sequence[int] = source.targets
        self._indices: Sequence[int] = range(len(source.targets))  # in the source, of the images in use
        self._cache: list[Tensor] | None = None
        self._copies: dict[torch.device, DeviceImages] = {}
        self._loaded = False
        self._set_transforms()

    def load(self) -> None:
        """Decode all images, where they are kept decoded; the next time there is nothing to do.

        Raises:
            UsageError: one of them cannot be decoded.
        """
        if self._loaded or not self._indices:
            return
        cache = self._config.cache
        if cache in ("memory", "device") or (cache == "auto" and self._decoded_bytes() < CACHE_BYTES):
            self._decode_all()
        self._loaded = True

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
        files = [] if config.jpeg_train is None else [v2.JPEG(config.jpeg_train)]
        erase = [Erase(config.erase)] if config.erase else []
        self._augment = v2.Compose([crop, *flips, *colours, *files, to_unit, *erase])

    def with_config(self, config: DataConfig) -> "ImageSet":
        """The same decoded images under a config that differs in ``jpeg_train`` and ``jpeg_test`` only."""
        other = copy.copy(self)
        other._config = config
        other._set_transforms()
        return other

    def on(self, device: torch.device) -> DeviceImages:
        """The same images kept and augmented on a device; for ``cache`` device.

        Raises:
            UsageError: the device has no room for them.
        """
        if device not in self._copies:
            assert self._cache is not None, "cache device decodes all"
            self._copies[device] = DeviceImages(self._cache, self.targets, self._config, device, whole=self._full)
        return self._copies[device]

    @functools.cached_property
    def fingerprint(self) -> dict[str, Any]:
        """Number of the images, corrupt ones too, and a digest of their names, bytes and classes in order, 16 hex digits."""
        digest = hashlib.sha256()
        for index, target in enumerate(self._source.targets):
            digest.update(f"{self._source.key(index)}\0{self._source.size(index)}\0{target}\n".encode(errors="surrogateescape"))
        return {"images": len(self._source.targets), "digest": digest.hexdigest()[:16]}

    def _decoded_bytes(self) -> float:
        count = len(self.targets)
        if not self._full:
            return count * self._config.side**2 * 3 * 1.5
        some = [image.numel() for i in range(0, count, max(1, count // 16)) if (image := self._decode_or_skip(i)) is not None]
        return count * sum(some) / max(1, len(some))

    def _decode_all(self) -> None:
        indices = range(len(self.targets))
        if self._config.workers:
            with ThreadPoolExecutor(self._config.workers) as pool:
                images = list(pool.map(self._decode_or_skip, indices))
        else:
            images = [self._decode_or_skip(i) for i in indices]
        self._indices = [i for i in indices if images[i] is not None]
        if not self._indices:
            raise UsageError(f"none of the {len(self.targets)} images can be decoded, {self._source.name(0)} for one")
        if left_out := len(images) - len(self._indices):
            warnings.warn(f"left out {left_out} of {len(images)} images that cannot be decoded", stacklevel=2)
        self._cache = [image for image in images if image is not None]
        self.targets = [self._source.targets[i] for i in self._indices]

    def _decode_or_skip(self, index: int) -> Tensor | None:
        """(3, H, W) uint8, H and W as the crops need them."""
        try:
            image = self._source.read(index)
            return cast(Tensor, v2.functional.pil_to_tensor(to_rgb(image))) if self._full else _scaled(image, self._config)
        except BAD_FILE as error:
            if self._config.skip_corrupt:
                return None
            text = (
                f"image {self._source.name(index)} cannot be decoded ({bad_file(error)}); repair or remove it, or leave such "
                "images out with --data.skip_corrupt true"
            )
            raise UsageError(" ".join(text.split())) from error  # one line: the last of what a loader process hands on

    def __len__(self) -> int:
        return len(self.targets)

    def key(self, index: int) -> str:
        """A name of an image that does not depend on where the set is kept: of class folders CLASS/.../NAME."""
        return self._source.key(self._indices[index])

    def __getitem__(self, key: Key) -> tuple[Tensor, int] | None:
        if key is None:
            return torch.zeros(3, self._config.pixels, self._config.pixels), IGNORED
        index, seed = key if isinstance(key, tuple) else (key, None)
        image = self._decode_or_skip(index) if self._cache is None else self._cache[index]
        if image is None:
            return None
        if seed is None:
            return self._test(image), self.targets[index]
        with seeded(seed, everywhere=self._timm):
            return self._augment(image), self.targets[index]


class TestTransform:
    """From a PIL image to what a test sees of it: RGB, scaled to a short side of ``data.side``, its middle.

    A file whose pixels are as stored in a data set gives the very pixels of ``Data(config).test[i][0]``; ``data.jpeg_test``
    counts too.

    Args:
        config: ``size``, ``resize``, ``interpolation`` and ``jpeg_test`` count.

    Attributes:
        size: side of the crop, in pixels.
        side: short side of the image that it is cut from, in pixels.
        interpolation: how the image is scaled.
    """

    __test__ = False  # pytest takes it for one of its own

    def __init__(self, config: DataConfig) -> None:
        self.size, self.side, self.interpolation = config.pixels, config.side, config.filter
        self._config, self._crop = config, _middle(config.pixels, config.jpeg_test)

    def __call__(self, image: Image.Image) -> Tensor:
        """An image of any size and mode to (3, size, size), float32 in [0, 1].

        Raises:
            Exception: one of ``BAD_FILE``, where the image cannot be decoded or has no range.
        """
        return self._crop(_scaled(image, self._config))

    def __repr__(self) -> str:
        jpeg = f", JPEG of quality {self._config.jpeg_test}" if self._config.jpeg_test is not None else ""
        scaled = f"short side {self.side} ({self.interpolation})"
        return f"{type(self).__name__}(RGB, {scaled}, center crop {self.size} x {self.size}{jpeg}, [0, 1])"


def _scaled(image: Image.Image, config: DataConfig) -> Tensor:
    """(3, H, W) uint8 with a short side of ``data.side``."""
    return cast(Tensor, v2.functional.pil_to_tensor(resized(image, config.side, config.filter)))


def _middle(size: int, jpeg: int | None) -> Callable[[Tensor], Tensor]:
    """The center crop of a uint8 image, through a JPEG file of that quality if any, in [0, 1]."""
    encode = [] if jpeg is None else [functools.partial(v2.functional.jpeg, quality=jpeg)]
    crop: Callable[[Tensor], Tensor] = v2.Compose([v2.CenterCrop(size), *encode, v2.ToDtype(torch.float32, scale=True)])
    return crop


def bad_file(error: Exception) -> str:
    """What is wrong with a file: the system's or Pillow's words, or better ones where they are about Pillow's own objects."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, UnidentifiedImageError):
        return "the file is empty, truncated near its beginning, or no image that Pillow reads"
    if "decoder object" in str(error):  # of WebP
        return "the file is truncated or damaged"
    return str(error)


def collate(items: list[tuple[Tensor, int] | None]) -> Any:
    """Images (N, 3, size, size) and class indices (N,), without the images that were left out."""
    sound = [item for item in items if item is not None]
    if not sound:
        raise UsageError(f"none of a batch's {len(items)} images can be decoded")
    return default_collate(sound)
