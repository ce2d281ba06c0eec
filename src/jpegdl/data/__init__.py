"""Data sets to loaders of un-normalised images: RGB in [0, 1], float32, (N, 3, size, size).

What a loader yields depends only on the settings, the seed and the epoch: the order and every random crop and flip are drawn
anew from (seed, epoch, index), so that a resumed run sees what an uninterrupted one would, and every arm of a comparison
sees the same images in the same order. Several processes share the images out.
"""

from jpegdl.data.config import NAMES, DataConfig
from jpegdl.data.images import ImageSet, Source
from jpegdl.data.module import Data
from jpegdl.data.photos import PHOTOGRAPHS, photo_patches, photograph
from jpegdl.data.sampling import IGNORED, EpochSampler

__all__ = [
    "IGNORED",
    "NAMES",
    "PHOTOGRAPHS",
    "Data",
    "DataConfig",
    "EpochSampler",
    "ImageSet",
    "Source",
    "photo_patches",
    "photograph",
]
