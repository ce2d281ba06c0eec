"""Diff-JPEG from its paper's formulas, for benchmarks to stand beside: "Differentiable JPEG: The Devil is in the Details" (WACV
2024, arXiv 2309.06978). Its authors' code is at github.com/necla-ml/Diff-JPEG, and nothing here is of it.

Every discrete step of a JPEG codec with 4:2:0 has a smooth stand-in:

- rounding: round(x) + (x - round(x))^3;
- rounding down: floor(x) + (x - 1/2 - floor(x))^3, of the scale 5000 / q or 200 - 2 q, and of the steps
  (scale table + 50) / 100;
- clipping, of steps to 1..255 and of pixels to 0..255: a slope of 0.001 beyond.

With ``ste`` values are those of the discrete steps themselves, and gradients those of the stand-ins. DCT, colour and chroma
are this package's own, so that a difference is one of the formulas.
"""

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from jpegdl import functional as F
from jpegdl.tables import standard_tables

SLOPE = 1e-3  # of clipping, beyond the range


def diff_jpeg(images: Tensor, quality: Tensor, *, ste: bool = False) -> Tensor:
    """(N, 3, H, W) in [0, 1] and qualities (N,) to the same; pixels are clipped, and not rounded."""
    size = images.shape[-2], images.shape[-1]
    scale = _floor(torch.where(quality < 50, 5000 / quality, 200 - 2 * quality), ste)[:, None, None]
    base = [table.to(images) for table in standard_tables(50)]
    luma_q, chroma_q = (_clip(_floor((scale * table + 50) / 100, ste), 1, 255, ste)[:, None, None, None] for table in base)
    ycbcr = F.rgb_to_ycbcr(F.repeat_edges(images * 255 - 128, 16, 16))
    luma, chroma = F.block_dct(ycbcr[:, :1]), F.block_dct(avg_pool2d(ycbcr[:, 1:], 2))
    y, samples = (F.block_idct(_round(z / q, ste) * q) for z, q in ((luma, luma_q), (chroma, chroma_q)))
    rgb = F.ycbcr_to_rgb(torch.cat((y, interpolate(samples, scale_factor=2.0, mode="bilinear")), 1))
    return F.crop_edges(_clip(rgb + 128, 0, 255, ste), size) / 255


def _round(x: Tensor, ste: bool) -> Tensor:
    nearest = x.detach().round()
    return _values(nearest + (x - nearest) ** 3, nearest, ste)


def _floor(x: Tensor, ste: bool) -> Tensor:
    below = x.detach().floor()
    return _values(below + (x - 0.5 - below) ** 3, below, ste)


def _clip(x: Tensor, low: float, high: float, ste: bool) -> Tensor:
    inside = x.clamp(low, high)
    return _values(inside + SLOPE * (x - inside), inside, ste)


def _values(smooth: Tensor, discrete: Tensor, ste: bool) -> Tensor:
    return discrete.detach() + (smooth - smooth.detach()) if ste else smooth
