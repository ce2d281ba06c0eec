"""The augmentation of the transformer protocols, all of it timm's: auto-augment, colour jitter, random erasing."""

from collections.abc import Callable
from itertools import chain
from typing import Any, cast

import torch
from PIL import Image
from timm.data import auto_augment
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.random_erasing import RandomErasing
from timm.data.transforms_factory import create_transform
from torch import Tensor

from jpegdl.data.config import DataConfig


def recolour(config: DataConfig) -> Callable[[Image.Image], Image.Image]:
    """Return what timm's ``create_transform`` does between flip and tensor: auto-augment, or colour jitter."""
    _, transform, _ = create_transform(
        config.pixels,
        is_training=True,
        color_jitter=config.color_jitter,  # type: ignore[arg-type]  # None is timm's for none, too
        auto_augment=config.auto_augment,
        interpolation=config.filter,
        separate=True,
    )
    for part in getattr(transform, "transforms", []):
        for operation in (*getattr(part, "ops", []), *chain.from_iterable(getattr(part, "policy", []))):
            if operation.aug_fn is auto_augment.posterize:
                operation.aug_fn = _posterize
    return cast(Callable[[Image.Image], Image.Image], transform)


def _posterize(image: Image.Image, bits_to_keep: int, **others: Any) -> Image.Image:
    """timm's, for Pillow 13 too: some magnitudes keep 0 bits, which is a black image, and Pillow 13 refuses that number."""
    if bits_to_keep < 1:
        return Image.new(image.mode, image.size)
    return cast(Image.Image, auto_augment.posterize(image, bits_to_keep, **others))  # type: ignore[no-untyped-call]


class Erase:
    """timm's random erasing of one rectangle with noise in every pixel, for images that are not normalised yet.

    Noise is N(0, 1) once the backbone has normalised the image with ImageNet's mean and standard deviation: mean + std * noise,
    which leaves [0, 1] in places. Image (3, H, W) to the same.
    """

    def __init__(self, probability: float) -> None:
        self._erase: Any = RandomErasing(probability, mode="pixel", max_count=1, device="cpu")  # type: ignore[no-untyped-call]
        self._mean, self._std = (torch.tensor(x)[:, None, None] for x in (IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD))

    def __call__(self, image: Tensor) -> Tensor:
        noise: Tensor = self._erase(torch.full_like(image, torch.nan))
        return torch.where(noise.isnan(), image, self._mean + self._std * noise)
