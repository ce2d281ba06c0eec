"""Linear layers with nothing to train: is what the cap does a matter of scale alone?"""

import torch
from torch import Tensor

from jpegdl.layer.base import ImageDctLayer


class FaintDc(ImageDctLayer):
    """DC times a factor, everything else as it is.

    Args:
        luma, chroma: not used.
        factor: 1/32 brings DC to about the size at which the published layer caps it.
    """

    def __init__(self, luma: Tensor, chroma: Tensor, *, factor: float = 1 / 32) -> None:
        super().__init__()
        factors = torch.ones(8, 8)
        factors[0, 0] = factor
        self.register_buffer("factors", factors, persistent=False)

    def alter(self, z: Tensor) -> Tensor:
        factors: Tensor = self.factors
        return z * factors


class Whitened(ImageDctLayer):
    """Each frequency over a power of its mean magnitude, and all times one number, so that the energy of images stays.

    Args:
        luma, chroma: (8, 8), steps in proportion to the mean magnitudes (tables: magnitude).
        power: 1 makes all frequencies equally large, 0 changes nothing.
    """

    def __init__(self, luma: Tensor, chroma: Tensor, *, power: float = 1.0) -> None:
        super().__init__()
        magnitudes = torch.stack((luma, chroma, chroma))
        factors = magnitudes**-power
        factors *= (magnitudes.square().sum() / (magnitudes * factors).square().sum()).sqrt()
        self.register_buffer("factors", factors[:, None, None], persistent=False)

    def alter(self, z: Tensor) -> Tensor:
        factors: Tensor = self.factors
        return z * factors
