"""The rate term of the objective: bits per pixel of the JPEG files that a layer's tables would make of a batch."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jpegdl import functional as F
from jpegdl.errors import UsageError
from jpegdl.layer import STORABLE, JpegLayer, LayerConfig

KINDS = ("symbols", "frequencies")
_REACH = 1100  # levels of an 8-bit image at a step of 1, and a little more


@dataclass
class RateConfig:
    """What the files that the layer's tables would make are to cost: loss = task + weight * bits per pixel.

    Args:
        weight: lambda, of one bit per pixel against the task's loss; 0 for none.
        kind: symbols (those of a JPEG encoder: DC differences, runs of zeros, ends of blocks) or frequencies (the entropy of
            the levels of each frequency, as J4D has it).
        hardness: of P(level | coefficient) in the rate, in units of the step; independent of the layer's own.
        blocks: most blocks of luma, and of chroma, that the rate of a batch is taken from; null for all.
        memory: share of the running code that is kept at each batch.
    """

    weight: float = 0.0
    kind: str = "symbols"
    hardness: float = 8.0
    blocks: int | None = 2048
    memory: float = 0.9


class RateEstimate(nn.Module):
    """Bits per pixel as an entropy coder would spend them, differentiable in the steps.

    The code is fitted to running numbers of symbols, which each batch in training mode moves; luma has one code, Cb and Cr
    share another. Of a file's header, some hundred bytes whatever the tables, it knows nothing.

    Args:
        config: ``kind``, ``hardness``, ``blocks`` and ``memory`` count.
    """

    def __init__(self, config: RateConfig) -> None:
        super().__init__()
        self.config = config
        shapes = {"dc": (F.SIZES,), "ac": (F.RUNS, F.SIZES)} if config.kind == "symbols" else {"levels": (64, 2 * _REACH + 1)}
        for name, shape in shapes.items():
            self.register_buffer(f"seen_{name}", torch.zeros(2, *shape))

    def forward(self, layer: JpegLayer, images: Tensor) -> Tensor:
        """Bits per pixel, a scalar.

        Args:
            layer: a :class:`jpegdl.JpegLayer`, or one of 4:2:0.
            images: (N, 3, H, W) in [0, 1].
        """
        z = layer.coefficients(images)
        luma, chroma = scans(layer, z)
        bits = self._bits(0, luma, layer.luma) + self._bits(1, chroma, layer.chroma)
        return bits / (len(images) * images.shape[-2] * images.shape[-1])

    def _bits(self, table: int, z: Tensor, steps: Tensor) -> Tensor:
        """Of all the blocks ``z`` of luma, ``table`` 0, or of chroma, 1."""
        config, steps = self.config, steps.to(z.dtype)
        if config.kind == "symbols":
            symbols = F.expected_symbols(z, steps, config.hardness, most=config.blocks)
            shares = {name: part.detach() / part.detach().sum() for name, part in symbols._asdict().items()}
            running = F.Symbols(**{name: self._running(table, name, share) for name, share in shares.items()})
            return F.coded_bits(symbols, F.code_lengths(running))
        levels = F.level_shares(z, steps, config.hardness, _REACH, most=config.blocks)
        return F.entropy(levels, self._running(table, "levels", levels.detach())).sum() * (z.shape[0] * z.shape[1])

    def _running(self, table: int, name: str, now: Tensor) -> Tensor:
        """Shares with those of this batch; in training mode they are kept."""
        seen: Tensor = getattr(self, f"seen_{name}")[table]
        share = torch.where(seen.any(), self.config.memory * seen + (1 - self.config.memory) * now, now)
        if self.training:
            seen.copy_(share)
        return share


def scans(layer: JpegLayer, z: Tensor) -> tuple[Tensor, Tensor]:
    """A layer's coefficients in the order in which an encoder takes the blocks: (rows, blocks, 8, 8) of luma and of chroma,
    a row for each plane of each image (ITU-T T.81, A.2: planes are interleaved, four blocks of luma a unit with 4:2:0)."""
    blocks = z.flatten(2, 3)  # (N, planes, blocks, 8, 8)
    if layer.planes == 3:
        return blocks[:, 0], blocks[:, 1:].flatten(0, 1)
    return blocks[:, :4].transpose(1, 2).flatten(1, 2), blocks[:, 4:].flatten(0, 1)


def check_rate(config: RateConfig, layer: LayerConfig) -> None:
    """Refuse settings of the rate that cannot be.

    Raises:
        UsageError: names the setting, what it is and what it may be.
    """
    if not 0 <= config.weight < math.inf:
        raise UsageError(f"training.rate.weight must be 0, for none, or a number above, got {config.weight}")
    if config.kind not in KINDS:
        raise UsageError(f"training.rate.kind must be one of {', '.join(KINDS)}, got {config.kind!r}")
    if not 0 < config.hardness < math.inf:
        raise UsageError(f"training.rate.hardness must be a number greater than 0, got {config.hardness}")
    if config.blocks is not None and config.blocks < 1:
        raise UsageError(f"training.rate.blocks must be at least 1, or null for all, got {config.blocks}")
    if not 0 <= config.memory < 1:
        raise UsageError(f"training.rate.memory must be at least 0 and less than 1, got {config.memory}")
    if config.weight and layer.kind not in (*STORABLE, "none"):
        raise UsageError(
            f"training.rate is the rate of JPEG files, which have one pair of tables of steps, and layer.kind {layer.kind} is "
            f"not of that sort; give {' or '.join(STORABLE)}, or training.rate.weight 0"
        )
