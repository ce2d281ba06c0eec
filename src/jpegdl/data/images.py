"""Decoded images, cropped and augmented one by one."""

import copy
import functools
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, cast

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate
from torchvision.transforms import v2

from jpegdl.data.config import DataConfig
from jpegdl.data.device import DeviceImages
from jpegdl.data.sampling import IGNORED, Key
from jpegdl.errors import UsageError

CACHE_BYTES = 2**30  # sets smaller than this once decoded are kept in memory


class Source(Protocol):
    """Where images come from; picklable, and read from several threads and processes at a time."""

    targets: list[int]

    def read(self, index: int) -> Image.Image:
        """The image in any size and mode; OSError where its file cannot be decoded."""

    def name(self, index: int) -> str:
        """The image's file or origin, for messages."""


Sets = tuple[Source, Source, list[str]]  # training images, test images, names of the classes


def resized(image: Image.Image, side: int) -> Image.Image:
    """The image in RGB with a short side of ``side`` pixels, by bicubic interpolation."""
    return cast(Image.Image, v2.functional.resize(image.convert("RGB"), [side], v2.InterpolationMode.BICUBIC, antialias=True))


class ImageSet(Dataset[tuple[Tensor, int] | None]):
    """Images and class indices; ``dataset[i]`` is test-time, ``dataset[i, seed]`` augmented with that seed.

    An image is (3, size, size) float32 in [0, 1]. ``dataset[None]`` is no image: black pixels and the class ``IGNORED``. A
    corrupt image that is to be left out is None, and no part of a batch.

    Args:
        source: images and their class indices.
        config: crop, flip, JPEG, and what to do with corrupt files.
        train: whether these are the training images.
    """

    def __init__(self, source: Source, config: DataConfig, *, train: bool) -> None:
        self._source, self._config, self._train = source, config, train
        self._full = train and config.crop == "resized"  # whether whole images are needed
        self.targets = source.targets
        self._cache: list[Tensor] | None = None
        self._copies: dict[torch.device, DeviceImages] = {}
        self._set_transforms()
        if config.cache in ("memory", "device") or (config.cache == "auto" and self._decoded_bytes() < CACHE_BYTES):
            self._decode_all()

    def _set_transforms(self) -> None:
        config = self._config
        fit = [v2.Resize([config.side], v2.InterpolationMode.BICUBIC, antialias=True)] if self._full else []
        encode = (
            [] if self._train or config.jpeg_test is None else [functools.partial(v2.functional.jpeg, quality=config.jpeg_test)]
        )
        to_unit = v2.ToDtype(torch.float32, scale=True)
        self._test = v2.Compose([*fit, v2.CenterCrop(config.size), *encode, to_unit])
        crop: v2.Transform = v2.RandomCrop(config.size, padding=config.pad or None)
        if self._full:
            crop = v2.RandomResizedCrop(config.size, scale=(config.scale, 1.0), interpolation=v2.InterpolationMode.BICUBIC)
        flips = [v2.RandomHorizontalFlip()] if config.flip else []
        # Last, so that crops and flips are the same with and without it.
        files = [] if config.jpeg_train is None else [v2.JPEG(config.jpeg_train)]
        self._augment = v2.Compose([crop, *flips, *files, to_unit])

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
        sound = [(image, target) for image, target in zip(images, self.targets, strict=True) if image is not None]
        if not sound:
            raise UsageError(f"none of the {len(self.targets)} images can be decoded, {self._source.name(0)} for one")
        if left_out := len(images) - len(sound):
            warnings.warn(f"left out {left_out} of {len(images)} images that cannot be decoded", stacklevel=2)
        self._cache, self.targets = [image for image, _ in sound], [target for _, target in sound]

    def _decode_or_skip(self, index: int) -> Tensor | None:
        """(3, H, W) uint8, H and W as the crops need them."""
        try:
            image = self._source.read(index)
            image = image.convert("RGB") if self._full else resized(image, self._config.side)
            return cast(Tensor, v2.functional.pil_to_tensor(image))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow raises on bad files
            if self._config.skip_corrupt:
                return None
            raise UsageError(
                f"image {self._source.name(index)} cannot be decoded ({error}); mend or remove it, or leave such images out "
                "with --data.skip_corrupt true"
            ) from error

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, key: Key) -> tuple[Tensor, int] | None:
        if key is None:
            return torch.zeros(3, self._config.size, self._config.size), IGNORED
        index, seed = key if isinstance(key, tuple) else (key, None)
        image = self._decode_or_skip(index) if self._cache is None else self._cache[index]
        if image is None:
            return None
        if seed is None:
            return self._test(image), self.targets[index]
        # The CPU's generator alone: torch.manual_seed would queue a call for every other device, at every image.
        state = torch.get_rng_state()
        try:
            torch.default_generator.manual_seed(seed)
            return self._augment(image), self.targets[index]
        finally:
            torch.set_rng_state(state)


def collate(items: list[tuple[Tensor, int] | None]) -> Any:
    """Images (N, 3, size, size) and class indices (N,), without the images that were left out."""
    sound = [item for item in items if item is not None]
    if not sound:
        raise UsageError(f"none of a batch's {len(items)} images can be decoded")
    return default_collate(sound)
