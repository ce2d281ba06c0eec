"""Diff-JPEG from its paper's formulas, for benchmarks to stand beside: "Differentiable JPEG: The Devil is in the Details" (WACV
2024, arXiv 2309.06978). Its authors' code is at github.com/necla-ml/Diff-JPEG, and nothing here is of it.

Every discrete step of a JPEG codec with 4:2:0 has a smooth stand-in:

- rounding: round(x) + (x - round(x))^3;
- rounding down: floor(x) + (x - 1/2 - floor(x))^3, of the scale 5000 / q or 200 - 2 q, and of the steps
  (scale table + 50) / 100;
- clipping, of steps to 1..255 and of pixels to 0..255: a slope of 0.001 beyond.

With ``ste`` values are those of the discrete steps themselves, and gradients those of the stand-ins.

The paper has one formula for each step of a codec, and so has this: colour is a matrix for each pixel's three numbers, the DCT
one sum of 64 products with a basis of 8x8x8x8, for each plane on its own, and tables are scaled in the encoder and again in the
decoder. The authors' code works that way too. It takes longer yet: kornia's filter resizes its chroma, which is
averaged over 2x2 pixels here.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from jpegdl import functional as F
from jpegdl.functional import KB, KG, KR
from jpegdl.tables import standard_tables

SLOPE = 1e-3  # of clipping, beyond the range


def diff_jpeg(images: Tensor, quality: Tensor, *, ste: bool = False) -> Tensor:
    """(N, 3, H, W) in [0, 1] and qualities (N,) to the same; pixels are clipped, and not rounded."""
    height, width = images.shape[-2:]
    pixels = F.repeat_edges(images * 255, 16, 16)
    matrix = images.new_tensor(_colour())
    ycbcr = torch.einsum("nchw,dc->ndhw", pixels, matrix)
    planes = ycbcr[:, 0] - 128, *(avg_pool2d(ycbcr[:, c, None], 2)[:, 0] for c in (1, 2))
    luma, chroma = (table.to(images) for table in standard_tables(50))
    decoded = []
    for plane, base in zip(planes, (luma, chroma, chroma), strict=True):
        level = _round(_dct(_to_blocks(plane)) / _table(base, quality, ste), ste)
        decoded.append(_from_blocks(_idct(level * _table(base, quality, ste)), plane.shape[-2:]))
    wide = (interpolate(samples[:, None], scale_factor=2.0, mode="bilinear")[:, 0] for samples in decoded[1:])
    rgb = torch.einsum("ndhw,cd->nchw", torch.stack((decoded[0] + 128, *wide), 1), torch.inverse(matrix))
    return F.crop_edges(_clip(rgb, 0, 255, ste), (height, width)) / 255


def _colour() -> list[tuple[float, float, float]]:
    """From R, G, B to Y, Cb, Cr, without the offset of the latter two."""
    to_blue, to_red = 0.5 / (1 - KB), 0.5 / (1 - KR)
    blue, red = (-KR * to_blue, -KG * to_blue, 0.5), (0.5, -KG * to_red, -KB * to_red)
    return [(KR, KG, KB), blue, red]


def _to_blocks(plane: Tensor) -> Tensor:
    """(N, H, W) to (N, blocks, 8, 8)."""
    n, height, width = plane.shape
    return plane.reshape(n, height // 8, 8, width // 8, 8).transpose(2, 3).reshape(n, -1, 8, 8)


def _from_blocks(blocks: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = size
    return blocks.reshape(-1, height // 8, width // 8, 8, 8).transpose(2, 3).reshape(-1, height, width)


def _basis(blocks: Tensor) -> Tensor:
    """(8, 8, 8, 8): of the samples y, x, what they have of the frequencies v, u."""
    k = torch.arange(8, dtype=blocks.dtype, device=blocks.device)
    cosines = torch.cos((2 * k[:, None] + 1) * k * (math.pi / 16)) * torch.where(k == 0, math.sqrt(0.5), 1.0) / 2
    return torch.einsum("yv,xu->yxvu", cosines, cosines)


def _dct(blocks: Tensor) -> Tensor:
    return torch.tensordot(blocks, _basis(blocks), dims=([2, 3], [0, 1]))


def _idct(blocks: Tensor) -> Tensor:
    return torch.tensordot(blocks, _basis(blocks), dims=([2, 3], [2, 3]))


def _table(base: Tensor, quality: Tensor, ste: bool) -> Tensor:
    """Steps at qualities (N,), to go with blocks."""
    scale = _floor(torch.where(quality < 50, 5000 / quality, 200 - 2 * quality), ste)[:, None, None, None]
    return _clip(_floor((scale * base + 50) / 100, ste), 1, 255, ste)


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
