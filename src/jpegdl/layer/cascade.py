"""Several layers, one after the other."""

from collections.abc import Iterable
from typing import cast

import torch
from torch import Tensor, nn

from jpegdl import functional as F
from jpegdl.errors import UsageError
from jpegdl.layer.base import ImageLayer


class JpegCascade(nn.ModuleList):
    """Layers in a row, each with its own tables: the output of one is the input of the next.

    ``cascade[i]`` and ``len(cascade)`` are the layers; the state dict holds theirs as ``0.luma``, ``1.luma`` and so on. Between
    layers images stay float32 (float64 for float64 images), and are neither rounded nor clipped.

    Args:
        layers: one or more layers from images to images, a :class:`jpegdl.JpegLayer` or any of its variants.

    Raises:
        UsageError: no layers, or something else among them.

    Source: the variant in the public code of "JPEG Inspired Deep Learning" (ICLR 2025).

    Example::

        cascade = JpegCascade([JpegLayer(*standard_tables(90)), JpegLayer(*standard_tables(50))])
    """

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        layers = list(layers)
        if strangers := [type(layer).__name__ for layer in layers if not isinstance(layer, ImageLayer)]:
            raise UsageError(f"layers must be JpegLayer or its variants, got {', '.join(strangers)}")
        if not layers:
            raise UsageError("layers must be at least one layer, got none")
        super().__init__(layers)

    def forward(self, images: Tensor) -> Tensor:
        """Take images through all layers.

        Args:
            images: (N, 3, H, W) RGB, floating point in [0, 1] or uint8 in 0..255.

        Returns:
            The same shape, dtype (float32 for uint8) and memory format; in [0, 1], not clipped.

        Raises:
            TypeError: not a tensor, or of another dtype.
            UsageError: not of shape (N, 3, H, W).
        """
        first, *_ = layers = self._layers()
        first.check(images)
        x = F.unit_images(images)
        for layer in layers:
            x = layer(x)
        return x if images.dtype == torch.uint8 else x.to(images.dtype)

    def project_(self) -> None:
        """Bring the parameters of every layer back into their range, in place; call it after each optimizer step."""
        for layer in self._layers():
            layer.project_()

    def _layers(self) -> list[ImageLayer]:
        return cast(list[ImageLayer], list(self))
