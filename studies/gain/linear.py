"""Linear layers with nothing to train: is what the cap does a matter of scale alone?"""

import torch
from torch import Tensor

from jpegdl.layer.base import ImageDctLayer


class _Scaled(ImageDctLayer):
    """Every coefficient times a factor, (8, 8) or (3, 1, 1, 8, 8)."""

    def __init__(self, factors: Tensor) -> None:
        super().__init__()
        self.register_buffer("factors", factors, persistent=False)

    def alter(self, z: Tensor) -> Tensor:
        factors: Tensor = self.factors
        return z * factors


class FaintDc(_Scaled):
    """DC times a factor, everything else as it is.

    Args:
        luma, chroma: not used.
        factor: 1/32 brings DC to about the size at which the published layer caps it.
    """

    def __init__(self, luma: Tensor, chroma: Tensor, *, factor: float = 1 / 32) -> None:
        factors = torch.ones(8, 8)
        factors[0, 0] = factor
        super().__init__(factors)


class Whitened(_Scaled):
    """Each frequency over a power of its mean magnitude, and all times one number, so that the energy of images stays.

    Args:
        luma, chroma: (8, 8), steps in proportion to the mean magnitudes (tables: magnitude).
        power: 1 makes all frequencies equally large, 0 changes nothing.
    """

    def __init__(self, luma: Tensor, chroma: Tensor, *, power: float = 1.0) -> None:
        magnitudes = torch.stack((luma, chroma, chroma))
        factors = magnitudes**-power
        factors *= (magnitudes.square().sum() / (magnitudes * factors).square().sum()).sqrt()
        super().__init__(factors[:, None, None])
