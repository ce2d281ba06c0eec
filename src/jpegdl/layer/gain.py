"""The JPEG layer's simplest competitor: a gain for each frequency."""

import torch
from torch import Tensor, nn

from jpegdl import functional as F
from jpegdl.layer.base import ImageDctLayer
from jpegdl.layer.registry import register_layer


@register_layer("gain", "a trained gain for each frequency, no quantizer")
class GainLayer(ImageDctLayer):
    """Colour, DCT, a trainable gain for each frequency, and back: a linear control, without a quantizer.

    ``layer.luma`` and ``layer.chroma``, parameters of shape (8, 8), multiply the coefficients of Y and of Cb and Cr. They start
    at 1, where the layer is the identity, and may take any value: ``project_`` has nothing to do.
    """

    table_kind = "gains"

    def __init__(self) -> None:
        super().__init__()
        self.luma = nn.Parameter(torch.ones(F.BLOCK, F.BLOCK, dtype=torch.float32))
        self.chroma = nn.Parameter(torch.ones(F.BLOCK, F.BLOCK, dtype=torch.float32))

    def alter(self, z: Tensor) -> Tensor:
        z = self.checked(z)
        return z * torch.stack((self.luma, self.chroma, self.chroma)).to(z.dtype)[:, None, None]
