"""Layers that are compared with the library's own, to see what of it carries the gain."""

import torch
from torch import Tensor

from jpegdl import JpegLayer
from jpegdl.layer import ImageDctLayer


def _where(part: str) -> Tensor:
    """Return which coefficients of Y, Cb and Cr belong to a part, (3, 8, 8) bool."""
    order = torch.arange(8)[:, None] + torch.arange(8)
    planes = torch.tensor([True, False, False])[:, None, None]
    everywhere = torch.ones(3, 8, 8, dtype=torch.bool)
    return {
        "dc": everywhere & (order == 0),
        "ac": everywhere & (order > 0),
        "low": everywhere & (order > 0) & (order <= 3),
        "high": everywhere & (order > 3),
        "luma": everywhere & planes,
        "chroma": everywhere & ~planes,
    }[part]


class PartialLayer(JpegLayer):
    """A JPEG layer that leaves all coefficients but those of one part as they are.

    Args:
        part: dc, ac, low (AC with u + v up to 3), high (the rest), luma or chroma.
        settings: as of :class:`jpegdl.JpegLayer`.
    """

    where: Tensor

    def __init__(self, luma: Tensor, chroma: Tensor, *, part: str, **settings: object) -> None:
        super().__init__(luma, chroma, **settings)  # type: ignore[arg-type]
        self.register_buffer("where", _where(part), persistent=False)

    def alter(self, z: Tensor) -> Tensor:
        return torch.where(self.at_blocks(self.where), super().alter(z), z)


class _Scaled(ImageDctLayer):
    """Every coefficient times a factor, (8, 8) or (3, 1, 1, 8, 8): linear, nothing to train."""

    factors: Tensor

    def __init__(self, factors: Tensor) -> None:
        super().__init__()
        self.register_buffer("factors", factors, persistent=False)

    def alter(self, z: Tensor) -> Tensor:
        return z * self.factors


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
