"""Several layers, one after the other."""

from collections.abc import Iterable
from typing import Self, cast

import torch
from torch import Tensor, nn

from jpegdl import functional as F
from jpegdl.errors import UsageError
from jpegdl.layer.base import ImageLayer
from jpegdl.layer.config import LayerConfig
from jpegdl.layer.jpeg import JpegLayer
from jpegdl.layer.registry import register_layer


@register_layer("cascade", "two layers in a row", tables="steps", single=False)
class JpegCascade(ImageLayer, nn.ModuleList):
    """Layers in a row, each with its own tables: the output of one is the input of the next.

    ``cascade[i]`` is a layer, and ``len(cascade)`` their number. The state dict holds their tables as ``0.luma``, ``1.luma``
    and so on. Between layers images stay float32 (float64 for float64 images), and are neither rounded nor clipped.

    Args:
        layers: one or more layers from images to images, a :class:`jpegdl.JpegLayer` or any of its variants.

    Raises:
        UsageError: there are no layers, or one of them is not a layer from images to images.

    Source: the variant in the public code of "JPEG Inspired Deep Learning" (ICLR 2025).

    Example:
        >>> from jpegdl.layer import JpegCascade, JpegLayer
        >>> cascade = JpegCascade([JpegLayer.from_quality(90), JpegLayer.from_quality(50)])
    """

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        layers = list(layers)
        if strangers := [type(layer).__name__ for layer in layers if not isinstance(layer, ImageLayer)]:
            raise UsageError(f"layers must take images and give images, as JpegLayer does, got {', '.join(strangers)}")
        if not layers:
            raise UsageError("layers must hold at least one layer, got none")
        super().__init__(layers)

    @classmethod
    def from_config(cls, config: LayerConfig, tables: tuple[Tensor, Tensor], size: int) -> Self:
        return cls(JpegLayer.from_config(config, tables, size) for _ in range(config.depth))

    def check(self, images: Tensor) -> None:
        self._layers()[0].check(images)

    def round_trip(self, images: Tensor) -> Tensor:
        x = F.unit_images(images)
        for layer in self._layers():
            x = layer(x)
        return x

    @torch.no_grad()
    def saturation(self, images: Tensor) -> Tensor:
        """Measure how much of each frequency the level caps hold back, over all layers that quantize.

        Args:
            images: (N, 3, H, W) RGB as :meth:`forward` takes it.

        Returns:
            (3, 8, 8) for Y, Cb, Cr: the mean of the layers' own :meth:`jpegdl.JpegLayer.saturation`, each for the images that
            reach it; all 0 if none quantizes. ``cascade[1].saturation(cascade[:1](images))`` is that of one layer.
        """
        self.check(images)
        shares, x = [], F.unit_images(images)
        for layer in self._layers():
            if (saturation := getattr(layer, "saturation", None)) is not None:
                shares.append(saturation(x))
            x = layer(x)
        return torch.stack(shares).mean(0) if shares else torch.zeros(3, F.BLOCK, F.BLOCK, device=images.device)

    def project_(self) -> None:
        """Bring the parameters of every layer back into their range, in place; see :meth:`jpegdl.JpegLayer.project_`."""
        for layer in self._layers():
            layer.project_()

    def _layers(self) -> list[ImageLayer]:
        return cast(list[ImageLayer], list(self))
