"""The layer's simplest rival on photographs with much brightness: the blocks' mean values, made faint."""

from numbers import Real
from typing import Any

import torch
from torch import Tensor

from jpegdl.errors import UsageError
from jpegdl.layer.base import ImageDctLayer
from jpegdl.layer.registry import register_layer

FACTOR = 1 / 32  # brings DC to about the size at which the published layer caps it


@register_layer("faint-dc", "the mean of each block divided by 32; linear, nothing trained")
class FaintDcLayer(ImageDctLayer):
    """Multiply the DC coefficient of every block of Y, Cb and Cr, and leave all others as they are: z_00 -> factor z_00.

    The layer is linear, and nothing in it trains. It does to brightness about what the level cap of a trained
    :class:`jpegdl.JpegLayer` does.

    Args:
        factor: of DC, a finite number.

    Raises:
        UsageError: ``factor`` is not finite.
    """

    def __init__(self, factor: float = FACTOR) -> None:
        super().__init__()
        if isinstance(factor, bool) or not isinstance(factor, Real) or not abs(factor) < float("inf"):
            raise UsageError(f"factor must be a finite number, got {factor!r}")
        self.factor: float = float(factor)

    @property
    def settings(self) -> dict[str, Any]:
        return {**super().settings, "factor": self.factor}

    def alter(self, z: Tensor) -> Tensor:
        flat = self.checked(z).flatten(-2)
        return torch.cat((flat[..., :1] * self.factor, flat[..., 1:]), dim=-1).reshape(z.shape)

    def extra_repr(self) -> str:
        return f"factor={self.factor:g}"
