"""The JPEG layer with separate tables for each region of an image."""

from typing import Any, Self, Unpack

from torch import Tensor

from jpegdl import functional as F
from jpegdl.errors import UsageError
from jpegdl.layer.base import Table, initial_tables
from jpegdl.layer.config import LayerConfig
from jpegdl.layer.jpeg import JpegLayer
from jpegdl.layer.quantizing import QuantizerOptions, QuantizingLayer, quantizer_options
from jpegdl.layer.registry import register_layer


@register_layer("regions", "the layer with separate tables for each part of the image", single=False)
class RegionalJpegLayer(JpegLayer):
    """A :class:`jpegdl.JpegLayer` for images of one size, each square region of which has its own tables.

    ``layer.luma`` and ``layer.chroma`` (and ``alpha_*`` or ``hardness_*``) are of shape (rows, columns, 8, 8), with rows =
    ceil(H / region) and columns = ceil(W / region); ``steps`` and ``alpha`` of shape (3, rows, columns, 8, 8).

    Args:
        luma, chroma: initial steps, a number, (8, 8) for all regions alike, or (rows, columns, 8, 8).
        size: (H, W) of the images, or one number for both.
        region: side of a region in pixels, a multiple of 8.
        alpha: sharpness of P(k | z): a number, (8, 8) or (rows, columns, 8, 8), or a (luma, chroma) pair of such.
        hardness, bits, window, rounding, trainable_alpha: as in ``JpegLayer``.

    Raises:
        UsageError: an argument is out of its range; in :meth:`forward`, images of another size.

    Source: the variant with an outer block of 32 in the public code of "JPEG Inspired Deep Learning" (ICLR 2025).
    """

    def __init__(
        self,
        luma: Table = 1.0,
        chroma: Table = 1.0,
        *,
        size: int | tuple[int, int],
        region: int = 32,
        **options: Unpack[QuantizerOptions],
    ) -> None:
        sides = tuple(size) if isinstance(size, tuple | list) else (size, size)
        if len(sides) != 2 or any(isinstance(side, bool) or not isinstance(side, int) or side < 1 for side in sides):
            raise UsageError(f"size must be a positive integer or a pair (H, W) of such, got {size!r}")
        if isinstance(region, bool) or not isinstance(region, int) or region < 1 or region % F.BLOCK:
            raise UsageError(f"region must be a positive multiple of {F.BLOCK} pixels, got {region!r}")
        regions = tuple(-(-side // region) for side in sides)
        # Past JpegLayer's own, whose tables are for the whole image.
        QuantizingLayer.__init__(self, initial_tables({"luma": luma, "chroma": chroma}, regions), **options)
        self.size, self.region = sides, region

    @classmethod
    def from_config(cls, config: LayerConfig, tables: tuple[Tensor, Tensor], size: int) -> Self:
        return cls(*tables, size=size, region=config.region, **quantizer_options(config))

    @property
    def settings(self) -> dict[str, Any]:
        return {**super().settings, "size": self.size, "region": self.region}

    def check(self, images: Tensor) -> None:
        super().check(images)
        if images.shape[-2:] != self.size:
            height, width = self.size
            raise UsageError(
                f"images must be {height}x{width}, the size that the layer was made for, got {tuple(images.shape)}"
            )

    def at_blocks(self, tables: Tensor) -> Tensor:
        planes, rows, columns = tables.shape[:3]
        side = self.region // F.BLOCK
        spread = tables[:, :, None, :, None].expand(-1, -1, side, -1, side, -1, -1)
        height, width = (-(-length // F.BLOCK) for length in self.size)
        return spread.reshape(planes, rows * side, columns * side, F.BLOCK, F.BLOCK)[:, :height, :width]

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, size={self.size}, region={self.region}"
