"""Layers of our own that the study gain suggests: local contrast with something of the mean left, or a compander at two scales.

All their parameters are greater than 0 and are meant to be trained by their logarithms (``training.layer_optimizer`` log-adam).
Scales start from the level cap of the initial tables, 127 steps, as the library's companders do.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as torch_functional

from jpegdl import functional as F
from jpegdl.layer import CompandingLayer, ImageDctLayer, LocalContrastLayer

LARGEST_LEVEL = 127


def _only_dc(z: Tensor) -> Tensor:
    """Return (8, 8) bool, True at DC."""
    only = torch.zeros(8, 8, dtype=torch.bool, device=z.device)
    only[0, 0] = True
    return only


class LearnedContrast(LocalContrastLayer):
    """Local contrast normalisation of pixels with learned strengths: (x - a m) (0.25 / (d + s D))^b.

    m is the mean around a pixel, d the root mean square of x - m around it, in a Gaussian window, and D the mean of d over the
    image; all of Y, of Cb and of Cr each for itself. Trainable are a, b and s, each for luma and for chroma: 6 numbers.

    Args:
        mean, strength, floor: where a, b and s start.
        sigma: of the window, in pixels; 2.3 has the variance of an 8x8 block.
    """

    def __init__(self, *, mean: float = 0.95, strength: float = 0.9, floor: float = 1.0, sigma: float = 2.3) -> None:
        super().__init__(sigma)
        self.mean = nn.Parameter(torch.full((2,), mean))
        self.strength = nn.Parameter(torch.full((2,), strength))
        self.floor = nn.Parameter(torch.full((2,), floor))

    def round_trip(self, images: Tensor) -> Tensor:
        images = F.unit_images(images)
        planes = F.rgb_to_ycbcr(images - 0.5)
        mean, strength, floor = (p[[0, 1, 1]][:, None, None] for p in (self.mean, self.strength, self.floor))
        around = self.around(planes)
        deviation = (self.around((planes - around).square()) + 1e-6).sqrt()
        divisor = deviation + floor * deviation.mean(dim=(2, 3), keepdim=True)
        return F.ycbcr_to_rgb((planes - mean * around) * (0.25 / divisor) ** strength) + 0.5

    @torch.no_grad()
    def project_(self) -> None:
        self.mean.clamp_(1e-3, 1)
        self.strength.clamp_(1e-3, 2)
        self.floor.clamp_(1e-3, 10)


class ToneContrast(LocalContrastLayer):
    """Local contrast normalisation, and to it the mean around each pixel again, compressed as the layer compresses DC:
    sign(m) s log(1 + |m| / s) of the Y, Cb and Cr of this mean, less 0.5. Trainable is s, for luma and for chroma: 2 numbers.

    Args:
        luma, chroma: (8, 8), tables of steps; s starts from the level cap of DC, brought to pixels.
        sigma: of the window, in pixels.
    """

    def __init__(self, luma: Tensor, chroma: Tensor, *, sigma: float = 2.3) -> None:
        super().__init__(sigma)
        self.scales = nn.Parameter(LARGEST_LEVEL / (8 * 255) * torch.stack((luma[0, 0], chroma[0, 0])))

    def round_trip(self, images: Tensor) -> Tensor:
        images = F.unit_images(images)
        around = self.around(images)
        tone = F.rgb_to_ycbcr(around - 0.5)
        return self.contrast(images, around) + F.ycbcr_to_rgb(F.log_compand(tone, self.scales[[0, 1, 1]][:, None, None]))

    @torch.no_grad()
    def project_(self) -> None:
        self.scales.clamp_(min=1e-8)


class FaintContrast(LocalContrastLayer):
    """Local contrast normalisation, and to it the mean around each pixel, less 0.5 and times a factor. Nothing is trained.

    Args:
        factor: of the mean; 1/16 leaves it about as faint beside the contrast as the arm faint-dc leaves DC.
        sigma: of the window, in pixels.
    """

    def __init__(self, *, factor: float = 1 / 16, sigma: float = 2.3) -> None:
        super().__init__(sigma)
        self.factor = factor

    def round_trip(self, images: Tensor) -> Tensor:
        images = F.unit_images(images)
        around = self.around(images)
        return self.contrast(images, around) + self.factor * (around - 0.5)


class ContrastLayer(ImageDctLayer):
    """Contrast normalisation of blocks with a learned strength.

    A block's AC coefficients are divided by (1 + e / s)^b, with e the root mean square of the AC coefficients of the block's
    luma, or of its chroma, and of the eight blocks around it; DC goes through a logarithmic compander.

    Trainable are b and s, each for luma and chroma, and the companders' scales.
    """

    def __init__(self, luma: Tensor, chroma: Tensor, *, strength: float = 0.5, floor: float = 8.0) -> None:
        super().__init__()
        self.strength = nn.Parameter(torch.full((2,), strength))
        self.floor = nn.Parameter(torch.full((2,), floor))
        self.scales = nn.Parameter(LARGEST_LEVEL * torch.stack((luma[0, 0], chroma[0, 0])))

    def alter(self, z: Tensor) -> Tensor:
        dc = z[..., :1, :1]
        energy = ((z.square().sum((-2, -1)) - dc[..., 0, 0].square()) / 63).clamp(min=0)  # (N, 3, h, w)
        energy = torch.stack((energy[:, 0], energy[:, 1:].mean(1)), 1)
        energy = torch_functional.avg_pool2d(energy, 3, 1, 1, count_include_pad=False)
        root = (energy + 1e-4).sqrt()  # a slope at 0
        divisor = (1 + root / self.floor[:, None, None]) ** self.strength[:, None, None]
        divisor = divisor[:, [0, 1, 1], ..., None, None]
        scales = self.scales[[0, 1, 1]][:, None, None, None, None]
        return torch.where(_only_dc(z), F.log_compand(dc, scales), z / divisor)

    @torch.no_grad()
    def project_(self) -> None:
        self.strength.clamp_(1e-3, 2)
        self.floor.clamp_(1e-2, 1e3)
        self.scales.clamp_(min=1e-5)


class TwoScaleLayer(CompandingLayer):
    """The logarithmic compander on blocks, and the same again, with tables of its own, on the image that their DC coefficients
    make: brightness is compressed by frequency too, over blocks of 64 pixels."""

    def __init__(self, luma: Tensor, chroma: Tensor) -> None:
        super().__init__(LARGEST_LEVEL * luma, LARGEST_LEVEL * chroma)
        first = torch.stack((luma[0, 0], chroma[0, 0]))[:, None, None]
        self.coarse = nn.Parameter((LARGEST_LEVEL * first).expand(2, 8, 8).clone())

    def alter(self, z: Tensor) -> Tensor:
        dc = z[..., 0, 0]  # (N, 3, h, w)
        height, width = dc.shape[-2:]
        padded = torch_functional.pad(dc, (0, -width % 8, 0, -height % 8), mode="replicate")
        coarse = F.log_compand(F.block_dct(padded), self.coarse[[0, 1, 1]][:, None, None])
        dc = F.block_idct(coarse)[..., :height, :width]
        return torch.where(_only_dc(z), dc[..., None, None], super().alter(z))

    @torch.no_grad()
    def project_(self) -> None:
        super().project_()
        self.coarse.clamp_(min=1e-5)
