"""From images to the DCT coefficients of their planes and back, in floating point: any chroma subsampling, grey too.

The differentiable sibling of :mod:`jpegdl.functional.exact`: the same steps without the roundings.
"""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from jpegdl.errors import UsageError
from jpegdl.functional.checks import check_floating
from jpegdl.functional.exact import chroma_factors
from jpegdl.functional.transforms import (
    BLOCK,
    block_dct,
    block_idct,
    check_coefficients,
    crop_edges,
    repeat_edges,
    rgb_to_ycbcr,
    ycbcr_to_rgb,
)

DOUBLED = 2  #: A plane of at most so many chroma samples across is brought back by doubling them, without a filter.


def images_to_planes(images: Tensor, subsampling: str = "4:2:0") -> tuple[Tensor, Tensor | None]:
    """Take images to the DCT coefficients of their planes, as a JPEG encoder does before it quantizes.

    Edges are repeated as libjpeg repeats them: Y up to whole blocks; Cb and Cr before their averaging to whole blocks across,
    and to a whole pair of rows.

    Args:
        images: (N, 3, H, W) RGB or (N, 1, H, W) grey, floating point in [0, 1], any H, W >= 1.
        subsampling: of chroma, 4:4:4, 4:2:2 or 4:2:0; of no account for grey images.

    Returns:
        (luma, chroma). Luma is (N, 1, ceil(H/8), ceil(W/8), 8, 8) coefficients for pixels in 0..255. Chroma, of Cb and Cr, is
        (N, 2, h, w, 8, 8), with as many blocks as cover its samples; None for grey images.

    Raises:
        TypeError: ``images`` hold integers.
        UsageError: another shape or subsampling.

    Source: ITU-T T.81, A.1.1; libjpeg's jcsample.c and jcprepct.c.
    """
    down, across = chroma_factors(subsampling)
    check_floating(images, "images")
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise UsageError(f"images must be of shape (N, 3, H, W) or (N, 1, H, W), got {tuple(images.shape)}")
    if images.shape[1] == 1:
        return block_dct(repeat_edges(images * 255 - 128)), None
    ycbcr = rgb_to_ycbcr(images * 255 - 128)
    chroma = _averaged(ycbcr[:, 1:], down, across)
    return block_dct(repeat_edges(ycbcr[:, :1])), block_dct(repeat_edges(chroma))


def planes_to_images(luma: Tensor, chroma: Tensor | None, size: tuple[int, int], subsampling: str = "4:2:0") -> Tensor:
    """Invert :func:`images_to_planes`; the images are neither rounded nor clipped.

    Cb and Cr are brought to full size by libjpeg's triangle filter, or by doubling where they are at most two samples wide.

    Args:
        luma, chroma, subsampling: as in :func:`images_to_planes`.
        size: (H, W) of the images.

    Returns:
        (N, 3, H, W) RGB, or (N, 1, H, W) grey where ``chroma`` is None; nominally in [0, 1].

    Raises:
        UsageError: another subsampling, or coefficients of images of another size or subsampling.

    Source: libjpeg's jdsample.c.
    """
    down, across = chroma_factors(subsampling)
    check_coefficients(luma, 1, size)
    y = crop_edges(block_idct(luma), size)
    if chroma is None:
        return (y + 128) / 255
    sampled = -(-size[0] // down), -(-size[1] // across)
    check_coefficients(chroma, 2, sampled, of=f"planes of {subsampling} chroma")
    samples = crop_edges(block_idct(chroma), sampled)
    return (ycbcr_to_rgb(torch.cat((y, _upsampled(samples, size, down, across)), 1)) + 128) / 255


def resample_chroma(images: Tensor, subsampling: str) -> Tensor:
    """Take images through chroma subsampling and back, and through nothing else; linear in the images.

    Args:
        images: (N, 3, H, W) or (N, 1, H, W), any units.
        subsampling: as in :func:`images_to_planes`.

    Returns:
        The same shape.
    """
    down, across = chroma_factors(subsampling)
    if images.shape[1] == 1 or (down, across) == (1, 1):
        return images
    ycbcr = rgb_to_ycbcr(images)
    size = images.shape[-2], images.shape[-1]
    samples = crop_edges(_averaged(ycbcr[:, 1:], down, across), (-(-size[0] // down), -(-size[1] // across)))
    return ycbcr_to_rgb(torch.cat((ycbcr[:, :1], _upsampled(samples, size, down, across)), 1))


def _averaged(chroma: Tensor, down: int, across: int) -> Tensor:
    if (down, across) == (1, 1):
        return chroma
    return avg_pool2d(repeat_edges(chroma, down, across * BLOCK), (down, across))


def _upsampled(samples: Tensor, size: tuple[int, int], down: int, across: int) -> Tensor:
    if (down, across) == (1, 1):
        return samples
    factors = (float(down), float(across))
    if samples.shape[-1] <= DOUBLED:
        return crop_edges(interpolate(samples, scale_factor=factors, mode="nearest"), size)
    return crop_edges(interpolate(samples, scale_factor=factors, mode="bilinear"), size)
