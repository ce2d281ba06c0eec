"""Data sets to loaders of un-normalised images: RGB in [0, 1], float32, (N, 3, size, size).

What a loader yields depends only on the settings, the seed and the epoch: the order and every random crop, flip and other
augmentation are drawn afresh from (seed, epoch, index), so that a resumed run sees what an uninterrupted one would, and every
arm of a comparison sees the same images in the same order. Several processes share the images out.

Names are imported on first use, so that the settings alone need neither torch nor timm nor Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jpegdl.data.config import NAMES, DataConfig
    from jpegdl.data.images import ImageSet, TestTransform
    from jpegdl.data.module import Data
    from jpegdl.data.sampling import IGNORED, EpochSampler
    from jpegdl.data.sources.base import Sets, Source
    from jpegdl.data.sources.photos import PHOTOGRAPHS, photo_patches, photograph

__all__ = [
    "IGNORED",
    "NAMES",
    "PHOTOGRAPHS",
    "Data",
    "DataConfig",
    "EpochSampler",
    "ImageSet",
    "Sets",
    "Source",
    "TestTransform",
    "photo_patches",
    "photograph",
]

_HOMES = {
    "IGNORED": "sampling",
    "NAMES": "config",
    "PHOTOGRAPHS": "sources.photos",
    "Data": "module",
    "DataConfig": "config",
    "EpochSampler": "sampling",
    "ImageSet": "images",
    "Sets": "sources.base",
    "Source": "sources.base",
    "TestTransform": "images",
    "photo_patches": "sources.photos",
    "photograph": "sources.photos",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
