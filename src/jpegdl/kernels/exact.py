"""The pixels of JPEG files, by whichever way is there: see :mod:`jpegdl.functional.exact`, the readable one."""

from functools import lru_cache
from types import ModuleType

import torch
from torch import Tensor

from jpegdl import functional as F
from jpegdl.kernels.dispatch import DEVICES, exporting, tried, unobserved


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
    plain = images.device.type in DEVICES and images.numel() and not torch.compiler.is_compiling()
    if plain and unobserved(images, luma, chroma):  # asked first: a trial of kernels takes memory as it is, too
        factors, kernels = F.chroma_factors(subsampling), _kernels(images.device, "bytes" if _as_bytes(images) else "floats")
        if kernels is not None:
            return _fused(kernels, images, luma, chroma, factors)
    return _readable(images, luma, chroma, subsampling)


def exact_gradients(
    images: Tensor,
    grad: Tensor,
    luma: Tensor,
    chroma: Tensor,
    subsampling: str,
    *,
    straight: bool,
    want_images: bool,
    want_tables: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None] | None:
    """Compute the gradients of :func:`exact_images` by a kernel, if there is one. They are differentiable once.

    Args:
        images, luma, chroma, subsampling: as there.
        grad: gradient of its output, of the same shape.
        straight: pass the gradient through the rounding of levels: a step's is the sum of g_z (k - z / q), otherwise of g_z k.
        want_images: compute the gradient to images.
        want_tables: compute the gradients to luma and chroma.

    Returns:
        The gradients to images, luma and chroma, shaped like them; None for one that is not wanted. None if there is no kernel.
    """
    images, luma, chroma = images.detach(), luma.detach(), chroma.detach()
    plain = images.device.type in DEVICES and images.numel() and images.dtype != torch.float64
    kernels = _kernels(images.device, "gradients") if plain and unobserved(images, grad, luma, chroma) else None
    if kernels is None:
        return None
    by_images, *by_tables = kernels.exact_backward(
        images,
        grad,
        luma,
        chroma,
        F.chroma_factors(subsampling),
        straight=straight,
        want_images=want_images,
        want_tables=want_tables,
    )
    found = [None if by is None else by.sum_to_size(table.shape) for by, table in zip(by_tables, (luma, chroma), strict=True)]
    return None if by_images is None else by_images.to(images.dtype), found[0], found[1]


def _fused(kernels: ModuleType, images: Tensor, luma: Tensor, chroma: Tensor, factors: tuple[int, int]) -> Tensor:
    taken = images.float() if not _as_bytes(images) else images if images.dtype == torch.uint8 else to_pixels(images)
    output: Tensor
    bad: Tensor | None
    output, bad = kernels.exact(taken, luma, chroma, factors)
    if images.dtype == torch.uint8:
        return output
    if images.dtype == torch.float64:
        output, bad = output.double() / 255, _with_nan(images)
    if bad is not None:
        output.masked_fill_(bad.bool()[:, None, None, None], torch.nan)
    return output.to(images.dtype)


def _as_bytes(images: Tensor) -> bool:
    """float64 too, which float32 might round another way."""
    return images.dtype in (torch.uint8, torch.float64)


@lru_cache(maxsize=32)
def _kernels(device: torch.device, kind: str) -> ModuleType | None:
    """The module with the kernels for a device, of which those of a kind have been compiled; None, after a warning, where they
    do not work."""

    def trial(kernels: ModuleType) -> None:
        images, table = torch.zeros(1, 3, 8, 8, device=device), torch.ones(8, 8, device=device)
        if kind == "gradients":
            kernels.exact_backward(images, images, table, table, (2, 2), straight=True, want_images=True, want_tables=True)
        else:
            kernels.exact(images if kind == "floats" else images.byte(), table, table, (2, 2))

    return tried(device, trial)


def gradients_work(device: torch.device) -> bool:
    """Return whether there is a kernel for the gradients of :func:`exact_gradients` on a device."""
    return device.type in DEVICES and _kernels(device, "gradients") is not None


gradients_work._dynamo_marked_constant = True  # type: ignore[attr-defined]  # see dispatch.py


def compiling() -> bool:
    """Return whether torch.compile is at work, and not torch.export. Only the former can use this package's operators."""
    return torch.compiler.is_dynamo_compiling() and not exporting()


def to_pixels(images: Tensor) -> Tensor:
    """Convert floating point in [0, 1] to uint8 in 0..255, of the same shape, rounded and clipped. NaN becomes 0."""
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
