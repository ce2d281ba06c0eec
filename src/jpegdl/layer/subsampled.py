"""The JPEG layer with chroma at half the resolution."""

import torch
from torch import Tensor

from jpegdl import functional as F
from jpegdl.layer.base import compute_dtype, in_kernel
from jpegdl.layer.jpeg import JpegLayer
from jpegdl.layer.registry import register_layer


@register_layer("subsampled", "the layer with 4:2:0 chroma subsampling", storable=True)
class SubsampledJpegLayer(JpegLayer):
    """A :class:`jpegdl.JpegLayer` with 4:2:0 chroma subsampling, as most JPEG files have it.

    Cb and Cr are averaged over 2x2 pixels before the DCT, and brought back to full size by libjpeg's triangle filter.
    Arguments and errors are those of ``JpegLayer``. :meth:`to_coefficients`, :meth:`alter` and :meth:`to_images` work on
    coefficients of shape (N, 6, ceil(H/16), ceil(W/16), 8, 8), in the order of :func:`jpegdl.functional.images_to_mcus`: four
    blocks of Y, one of Cb, one of Cr. Where H or W is not a multiple of 16, some of those blocks of Y may hold nothing but
    repeated edges.

    Source: ITU-T T.81, A.1.1 and A.2.3; libjpeg's h2v2_downsample and h2v2_fancy_upsample.
    """

    planes = 6
    subsampling = "4:2:0"

    @in_kernel("4:2:0")
    def to_coefficients(self, images: Tensor) -> Tensor:
        return F.images_to_mcus(F.unit_images(images))

    @in_kernel("4:2:0")
    def to_images(self, z: Tensor, size: tuple[int, int]) -> Tensor:
        return F.mcus_to_images(z.to(compute_dtype(z)), size)

    @in_kernel("4:2:0")
    def at_blocks(self, tables: Tensor) -> Tensor:
        luma, cb, cr = tables.unbind(-3)
        return super().at_blocks(torch.stack((luma, luma, luma, luma, cb, cr), -3))

    def saturation(self, images: Tensor) -> Tensor:
        shares = super().saturation(images)
        return torch.stack((shares[:4].mean(0), shares[4], shares[5]))
