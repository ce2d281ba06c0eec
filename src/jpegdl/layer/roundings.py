"""The quantizers of a layer, and another rounding in their place."""

from typing import cast

from torch import nn

from jpegdl.errors import UsageError
from jpegdl.layer.config import Rounding
from jpegdl.layer.quantizing import QuantizingLayer


def quantizers(layer: nn.Module) -> list[QuantizingLayer]:
    """Return the layers that quantize, ``layer`` or within it."""
    return [module for module in layer.modules() if isinstance(module, QuantizingLayer)]


def set_rounding(layer: nn.Module, rounding: str | None, whose: str) -> str | None:
    """Put another quantizer in place of those of a layer, or leave them where none is given; return which there is then.

    Args:
        layer: any module.
        rounding: one of :data:`jpegdl.layer.ROUNDINGS`; None for the trained one.
        whose: what to call the layer in messages.

    Returns:
        The rounding; None where nothing quantizes.

    Raises:
        UsageError: there is no quantizer to give it to, or no such rounding.
    """
    found = quantizers(layer)
    if rounding is not None and not found:
        raise UsageError(f"{whose} has no quantizer, so it cannot take rounding {rounding!r}")
    for quantizer in found:
        quantizer.rounding = cast(Rounding, rounding or quantizer.rounding)  # which refuses what is none
    return found[0].rounding if found else None
