"""The JPEG layer without the blocks' mean values."""

from torch import Tensor

from jpegdl import functional as F
from jpegdl.layer.jpeg import JpegLayer
from jpegdl.layer.registry import register_layer


@register_layer("zero-dc", "the layer without the blocks' mean values")
class ZeroDcJpegLayer(JpegLayer):
    """A :class:`jpegdl.JpegLayer` that removes the DC coefficient of every block of Y, Cb and Cr before it quantizes.

    What is left is the detail within each block, around mid-grey. Arguments, shapes and errors are those of ``JpegLayer``.

    Source: the variant "zero DC" in the public code of "JPEG Inspired Deep Learning" (ICLR 2025).
    """

    def to_coefficients(self, images: Tensor) -> Tensor:
        return F.remove_dc(super().to_coefficients(images))
