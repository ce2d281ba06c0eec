"""Layers that are compared with the library's own, to see what of it carries the gain."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jpegdl import JpegLayer


def _where(part: str) -> Tensor:
    """(3, 8, 8) bool: which coefficients of Y, Cb and Cr belong to a part."""
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

    def __init__(self, luma: Tensor, chroma: Tensor, *, part: str, **settings: object) -> None:
        super().__init__(luma, chroma, **settings)  # type: ignore[arg-type]
        self.register_buffer("where", _where(part), persistent=False)

    def alter(self, z: Tensor) -> Tensor:
        where: Tensor = self.where
        return torch.where(self.at_blocks(where), super().alter(z), z)


class LocalContrast(nn.Module):
    """Local contrast normalisation: each pixel less the mean around it, over the standard deviation around it, or over the
    image's own mean of these where that is larger (Jarrett et al. 2009); around is a Gaussian window, each channel for itself.

    Args:
        sigma: of the window, in pixels; 2.3 has the variance of an 8x8 block.
    """

    def __init__(self, sigma: float = 2.3) -> None:
        super().__init__()
        reach = round(3 * sigma)
        window = torch.exp(-(torch.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
        self.register_buffer("window", window / window.sum(), persistent=False)

    def _around(self, images: Tensor) -> Tensor:
        window: Tensor = self.window
        planes = images.flatten(0, 1)[:, None]
        reach = len(window) // 2
        planes = F.conv2d(F.pad(planes, (reach, reach, 0, 0), mode="replicate"), window.view(1, 1, 1, -1))
        planes = F.conv2d(F.pad(planes, (0, 0, reach, reach), mode="replicate"), window.view(1, 1, -1, 1))
        return planes.view_as(images)

    def _contrast(self, images: Tensor, around: Tensor) -> Tensor:
        less = images - around
        deviation = self._around(less.square()).clamp(min=1e-8).sqrt()
        return 0.5 + 0.25 * less / torch.maximum(deviation, deviation.mean(dim=(2, 3), keepdim=True))

    def forward(self, images: Tensor) -> Tensor:
        return self._contrast(images, self._around(images))
