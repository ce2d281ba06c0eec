"""The pixels of JPEG files, by whichever way is there: see :mod:`jpegdl.functional.exact`, the readable one."""

import torch
from torch import Tensor

from jpegdl import functional as F


def exact_images(images: Tensor, luma: Tensor, chroma: Tensor, subsampling: str) -> Tensor:
    """Return the images that come out of the JPEG files that libjpeg-turbo makes of a batch.

    Args:
        images: (N, 3, H, W) RGB or (N, 1, H, W) grey, uint8, or floating point in [0, 1], which is rounded to 256 levels and
            clipped as an encoder needs it.
        luma, chroma: steps, whole numbers from 1 to 255 in floating point, on the images' device: (8, 8), or (N, 8, 8).
        subsampling: 4:4:4, 4:2:2 or 4:2:0.

    Returns:
        The same shape and dtype, in floating point k / 255; an image with NaN in it is NaN throughout. No gradient.

    Raises:
        TypeError, UsageError: another dtype, shape or subsampling.
    """
    images, luma, chroma = images.detach(), luma.detach(), chroma.detach()
    return _readable(images, luma, chroma, subsampling)


def to_pixels(images: Tensor) -> Tensor:
    """Floating point in [0, 1] to uint8, rounded and clipped; NaN becomes 0."""
    return (images.to(_precision(images)) * 255).round().clamp(0, 255).nan_to_num(0).to(torch.uint8)


def _readable(images: Tensor, luma: Tensor, chroma: Tensor, subsampling: str) -> Tensor:
    if images.dtype == torch.uint8:
        return F.exact_round_trip(images, luma, chroma, subsampling)
    pixels = F.exact_round_trip(to_pixels(images), luma, chroma, subsampling)
    output = (pixels.to(_precision(images)) / 255).to(images.dtype)
    return output.masked_fill(images.isnan().flatten(1).any(1)[:, None, None, None], torch.nan)


def _precision(images: Tensor) -> torch.dtype:
    return torch.float64 if images.dtype == torch.float64 else torch.float32
