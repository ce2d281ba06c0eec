"""The rate term of the objective: bits per pixel of the JPEG files that a layer's tables would make of a batch."""

import torch
from torch import Tensor, nn

from jpegdl import functional as F
from jpegdl.layer import JpegLayer
from jpegdl.runs.config import RateConfig


class RateEstimate(nn.Module):
    """Bits per pixel as an entropy coder would spend them, differentiable in the steps.

    The code is fitted to running numbers of symbols, which each batch in training mode moves; luma has one code, Cb and Cr
    share another. Of a file's header, some hundred bytes whatever the tables, it knows nothing.

    Args:
        config: ``hardness``, ``blocks`` and ``memory`` count.
    """

    def __init__(self, config: RateConfig) -> None:
        super().__init__()
        self.config = config
        for name, shape in {"dc": (F.SIZES,), "ac": (F.RUNS, F.SIZES)}.items():
            self.register_buffer(f"seen_{name}", torch.zeros(2, *shape))

    def forward(self, layer: JpegLayer, images: Tensor) -> Tensor:
        """Estimate the bits per pixel, a scalar.

        Args:
            layer: a :class:`jpegdl.JpegLayer`, or one of 4:2:0.
            images: (N, 3, H, W) in [0, 1].
        """
        z = layer.to_coefficients(images)
        luma, chroma = scans(layer, z)
        bits = self._bits(0, luma, layer.luma) + self._bits(1, chroma, layer.chroma)
        return bits / (len(images) * images.shape[-2] * images.shape[-1])

    def _bits(self, table: int, z: Tensor, steps: Tensor) -> Tensor:
        """Of all the blocks ``z`` of luma, ``table`` 0, or of chroma, 1."""
        symbols = F.expected_symbols(z, steps.to(z.dtype), self.config.hardness, most=self.config.blocks)
        shares = {name: part.detach() / part.detach().sum() for name, part in symbols._asdict().items()}
        running = F.Symbols(**{name: self._running(table, name, share) for name, share in shares.items()})
        return F.coded_bits(symbols, F.code_lengths(running))

    def _running(self, table: int, name: str, now: Tensor) -> Tensor:
        """Shares with those of this batch; in training mode they are kept."""
        seen: Tensor = getattr(self, f"seen_{name}")[table]
        share = torch.where(seen.any(), self.config.memory * seen + (1 - self.config.memory) * now, now)
        if self.training:
            seen.copy_(share)
        return share


def scans(layer: JpegLayer, z: Tensor) -> tuple[Tensor, Tensor]:
    """Put a layer's coefficients into the order of an encoder: (rows, blocks, 8, 8) of luma and of chroma,
    a row for each plane of each image (ITU-T T.81, A.2: planes are interleaved, four blocks of luma a unit with 4:2:0)."""
    blocks = z.flatten(2, 3)  # (N, planes, blocks, 8, 8)
    if layer.planes == 3:
        return blocks[:, 0], blocks[:, 1:].flatten(0, 1)
    return blocks[:, :4].transpose(1, 2).flatten(1, 2), blocks[:, 4:].flatten(0, 1)
