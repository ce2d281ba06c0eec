"""The pixels of JPEG files, by whichever way is there: see :mod:`jpegdl.functional.exact`, the readable one."""

import importlib
from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor

from jpegdl import functional as F
from jpegdl.kernels.dispatch import unobserved, warn_of


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
    if images.device.type == "cpu" and images.numel() and not torch.compiler.is_compiling():
        factors, kernels = F.chroma_factors(subsampling), _kernels()
        if kernels is not None and unobserved(images, luma, chroma):
            return _fused(kernels, images, luma, chroma, factors)
    return _readable(images, luma, chroma, subsampling)


def _fused(kernels: ModuleType, images: Tensor, luma: Tensor, chroma: Tensor, factors: tuple[int, int]) -> Tensor:
    taken = images
    if images.dtype == torch.float64:  # of which float32 might round another way
        taken = to_pixels(images)
    elif images.dtype != torch.uint8:
        taken = images.float()
    output: Tensor
    output, bad = kernels.exact(taken, luma, chroma, factors)
    if images.dtype == torch.uint8:
        return output
    if images.dtype == torch.float64:
        output, bad = output.double() / 255, _with_nan(images)
    if bad.any():
        output.masked_fill_(bad.bool()[:, None, None, None], torch.nan)
    return output.to(images.dtype)


@lru_cache(maxsize=1)
def _kernels() -> ModuleType | None:
    """The module with the kernels for the CPU; None, after a warning, where they do not work."""
    try:
        kernels = importlib.import_module("jpegdl.kernels.cpu")
        kernels.exact(torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.ones(8, 8), torch.ones(8, 8), (2, 2))
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        warn_of(error, "cpu")
        return None
    return kernels


def to_pixels(images: Tensor) -> Tensor:
    """Floating point in [0, 1] to uint8, rounded and clipped; NaN becomes 0."""
    return (images.to(_precision(images)) * 255).round().clamp(0, 255).nan_to_num(0).to(torch.uint8)


def _readable(images: Tensor, luma: Tensor, chroma: Tensor, subsampling: str) -> Tensor:
    if images.dtype == torch.uint8:
        return F.exact_round_trip(images, luma, chroma, subsampling)
    pixels = F.exact_round_trip(to_pixels(images), luma, chroma, subsampling)
    output = (pixels.to(_precision(images)) / 255).to(images.dtype)
    return output.masked_fill(_with_nan(images)[:, None, None, None], torch.nan)


def _with_nan(images: Tensor) -> Tensor:
    """(N,): which images have NaN."""
    return images.isnan().flatten(1).any(1)


def _precision(images: Tensor) -> torch.dtype:
    return torch.float64 if images.dtype == torch.float64 else torch.float32
