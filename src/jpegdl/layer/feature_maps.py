"""The quantizer on feature maps, inside a network."""

from typing import Any, Unpack

from torch import Tensor, nn

from jpegdl import functional as F
from jpegdl.errors import UsageError
from jpegdl.layer.base import Table, compute_dtype, initial_tables
from jpegdl.layer.quantizing import QuantizerOptions, QuantizingLayer


class FeatureJpegLayer(QuantizingLayer):
    """A non-linearity for feature maps: DCT, quantization with trainable steps, and back; no colour, no level shift.

    ``layer.table`` is the only parameter, in the units of the features (the DCT is orthonormal): of shape (8, 8), shared by all
    channels, or (channels, 8, 8). Features are (N, C, H, W) floating point of any values and size; edges are repeated up to the
    next multiple of 8, and cropped after. :meth:`to_coefficients` gives (N, C, ceil(H/8), ceil(W/8), 8, 8), :meth:`saturation`
    (C, 8, 8).

    Args:
        table: initial steps, a number, (8, 8) or (channels, 8, 8); finite and > 0.
        channels: how many channels there are, each with its own table; None for one table shared by any number.
        alpha: sharpness of P(k | z), in 1 / step^2; larger is harder. A number or a table as above.
        hardness, bits, window, rounding, trainable_alpha: as in :class:`jpegdl.JpegLayer`; what that calls ``alpha_luma``
            and ``hardness_luma`` is ``alpha_table`` and ``hardness_table`` here.

    Raises:
        UsageError: an argument is out of its range, or ``alpha`` is given together with ``hardness``.

    Source: the authors' replies in the public review of "JPEG Inspired Deep Learning" (ICLR 2025).

    Example:
        >>> block = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), FeatureJpegLayer(0.1, channels=64))
    """

    table: nn.Parameter

    def __init__(self, table: Table = 1.0, *, channels: int | None = None, **options: Unpack[QuantizerOptions]) -> None:
        if channels is not None and (isinstance(channels, bool) or not isinstance(channels, int) or channels < 1):
            raise UsageError(f"channels must be a positive integer, or None for one shared table, got {channels!r}")
        super().__init__(initial_tables({"table": table}, () if channels is None else (channels,)), **options)
        self.planes = channels

    @property
    def settings(self) -> dict[str, Any]:
        return {**super().settings, "channels": self.planes}

    @property
    def steps(self) -> Tensor:
        """(8, 8) or (channels, 8, 8): the steps."""
        return self._in_range(self.table)

    @property
    def alpha(self) -> Tensor:
        """(8, 8) or (channels, 8, 8): the sharpness of P(k | z), free or tied to the steps; larger is harder."""
        return self._alpha_of("table")

    def named_tables(self) -> dict[str, Tensor]:
        return {"table": self.steps, "alpha_table": self.alpha}

    def to_coefficients(self, features: Tensor) -> Tensor:
        F.check_floating(features, "features")
        return F.block_dct(F.repeat_edges(features.to(compute_dtype(features))))

    def to_images(self, z: Tensor, size: tuple[int, int]) -> Tensor:
        F.check_coefficients(z, "C", size, of="features")
        return F.crop_edges(F.block_idct(z.to(compute_dtype(z))), size)

    def check(self, features: Tensor) -> None:
        if not isinstance(features, Tensor) or not features.is_floating_point():
            kind = features.dtype if isinstance(features, Tensor) else type(features).__name__
            raise TypeError(f"features must be a floating point torch.Tensor, got {kind}")
        F.check_shape(features, ("N", self.planes or "C", "H", "W"), "features", empty=False)

    def extra_repr(self) -> str:
        return f"channels={self.planes}, {super().extra_repr()}"
