"""Layers that are compared with the library's own, to see what of it carries the gain.

``LocalContrast`` and ``FaintDc`` are to be replaced by the library's kinds ``local-contrast`` and ``faint-dc``.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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


class LocalContrast(nn.Module):  # to be replaced by the library's kind local-contrast
    """Local contrast normalisation: each pixel less the mean around it, over the standard deviation around it, or over the
    image's own mean of these where that is larger (Jarrett et al. 2009); around is a Gaussian window, each channel for itself.

    Args:
        sigma: of the window, in pixels; 2.3 has the variance of an 8x8 block.
    """

    window: Tensor

    def __init__(self, sigma: float = 2.3) -> None:
        super().__init__()
        reach = round(3 * sigma)
        window = torch.exp(-(torch.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
        self.register_buffer("window", window / window.sum(), persistent=False)

    def _around(self, images: Tensor) -> Tensor:
        planes = images.flatten(0, 1)[:, None]
        reach = len(self.window) // 2
        planes = F.conv2d(F.pad(planes, (reach, reach, 0, 0), mode="replicate"), self.window.view(1, 1, 1, -1))
        planes = F.conv2d(F.pad(planes, (0, 0, reach, reach), mode="replicate"), self.window.view(1, 1, -1, 1))
        return planes.view_as(images)

    def _contrast(self, images: Tensor, around: Tensor) -> Tensor:
        less = images - around
        deviation = self._around(less.square()).clamp(min=1e-8).sqrt()
        return 0.5 + 0.25 * less / torch.maximum(deviation, deviation.mean(dim=(2, 3), keepdim=True))

    def forward(self, images: Tensor) -> Tensor:
        return self._contrast(images, self._around(images))


class _Scaled(ImageDctLayer):
    """Every coefficient times a factor, (8, 8) or (3, 1, 1, 8, 8): linear, nothing to train."""

    factors: Tensor

    def __init__(self, factors: Tensor) -> None:
        super().__init__()
        self.register_buffer("factors", factors, persistent=False)

    def alter(self, z: Tensor) -> Tensor:
        return z * self.factors


class FaintDc(_Scaled):  # to be replaced by the library's kind faint-dc
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
