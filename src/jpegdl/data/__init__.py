"""Data sets to loaders of un-normalised images: RGB in [0, 1], float32, (N, 3, size, size).

What a loader yields depends only on the settings, the seed and the epoch: the order and every random crop, flip and other
augmentation are drawn afresh from (seed, epoch, index), so that a resumed run sees what an uninterrupted one would, and every
arm of a comparison sees the same images in the same order. Several processes share the images out.

Names are imported on first use, so that the settings alone need neither torch nor timm nor Lightning.
"""

from typing import TYPE_CHECKING

from jpegdl.extras import on_first_use

if TYPE_CHECKING:
    from jpegdl.data.config import DataConfig
    from jpegdl.data.images import ImageSet, TestTransform
    from jpegdl.data.loaders import Data
    from jpegdl.data.sampling import IGNORED, EpochSampler
    from jpegdl.data.sources.base import Parts, Sets, Source
    from jpegdl.data.sources.photos import PHOTOGRAPHS, photo_patches, photograph

__all__ = [
    "IGNORED", "PHOTOGRAPHS", "Data", "DataConfig", "EpochSampler", "ImageSet", "Parts", "Sets", "Source", "TestTransform",
    "photo_patches", "photograph",
]  # fmt: skip

__getattr__, __dir__ = on_first_use(__name__)
