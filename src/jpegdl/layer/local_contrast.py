"""The layer's strongest rival on textures: each pixel compared with what is around it."""

import math
from numbers import Real
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from jpegdl import functional as F
from jpegdl.errors import UsageError
from jpegdl.layer.base import ImageLayer
from jpegdl.layer.registry import register_layer

SIGMA = 2.3  # pixels: the variance of a uniform distribution over 8 pixels, as wide as a block
MIDDLE, SPREAD = 0.5, 0.25  # what a mean of 0 and a deviation of 1 become
SMALLEST_VARIANCE = 1e-8  # where there is no contrast at all


@register_layer("local-contrast", "each pixel minus the local mean, over the local deviation; nothing trained")
class LocalContrastLayer(ImageLayer):
    r"""Local contrast normalisation of pixels, each colour for itself:

    .. math:: x' = 0.5 + 0.25 (x - m) / max(d, D), m = g * x, d = sqrt(max(g * (x - m)^2, 10^{-8}))

    ``g *`` is the mean around a pixel, weighted by a Gaussian window of standard deviation ``sigma`` that ends at 3 ``sigma``;
    beyond the edges of the image its last row and column are repeated. D is the mean of d over the image: where there is less
    contrast than on average, it is not blown up.

    Args:
        sigma: of the window, in pixels, finite and > 0.

    Raises:
        UsageError: ``sigma`` is out of its range.

    Source: Jarrett et al., "What is the Best Multi-Stage Architecture for Object Recognition?" (ICCV 2009).
    """

    def __init__(self, sigma: float = SIGMA) -> None:
        super().__init__()
        if isinstance(sigma, bool) or not isinstance(sigma, Real) or not 0 < sigma < math.inf:
            raise UsageError(f"sigma must be a finite number greater than 0, got {sigma!r}")
        self.sigma: float = float(sigma)

    @property
    def settings(self) -> dict[str, Any]:
        return {**super().settings, "sigma": self.sigma}

    def round_trip(self, images: Tensor) -> Tensor:
        x = F.unit_images(images)
        return self.contrast(x, self.around(x))

    def around(self, x: Tensor) -> Tensor:
        """Return the mean around each pixel.

        Args:
            x: (N, C, H, W), float32 or float64.

        Returns:
            The same shape and dtype.
        """
        reach = max(1, round(3 * self.sigma))
        # Made anew each time: a buffer would hold nothing where a layer was built on the meta device and filled later.
        window = torch.exp(-(torch.arange(-reach, reach + 1, dtype=x.dtype, device=x.device) ** 2) / (2 * self.sigma**2))
        window, planes = window / window.sum(), x.flatten(0, 1)[:, None]
        return _along(_along(planes, window, 3), window, 2).reshape(x.shape)

    def contrast(self, x: Tensor, around: Tensor) -> Tensor:
        """Return x' of the formula above: the contrast of pixels with the mean around them.

        Args:
            x: (N, C, H, W), float32 or float64.
            around: m of the formula, from :meth:`around`, of the same shape.

        Returns:
            The same shape and dtype.
        """
        less = x - around
        deviation = self.around(less.square()).clamp(min=SMALLEST_VARIANCE).sqrt()
        return MIDDLE + SPREAD * less / torch.maximum(deviation, deviation.mean(dim=(2, 3), keepdim=True))

    def extra_repr(self) -> str:
        return f"sigma={self.sigma:g}"


def _along(x: Tensor, window: Tensor, dim: int) -> Tensor:
    """The mean along one side of (N, 1, H, W), 2 or 3, weighted by a window (2 reach + 1,)."""
    reach, last = window.shape[0] // 2, x.shape[dim] - 1
    # cat and expand, because their backward is deterministic on every device, unlike that of replicate padding.
    beyond = [reach if side == dim else -1 for side in range(4)]
    padded = torch.cat((x.narrow(dim, 0, 1).expand(beyond), x, x.narrow(dim, last, 1).expand(beyond)), dim)
    return _convolved(padded, window, dim) if x.device.type == "cpu" else _summed(padded, window, dim)


def _convolved(padded: Tensor, window: Tensor, dim: int) -> Tensor:
    return conv2d(padded, window.view(1, 1, *((-1, 1) if dim == 2 else (1, -1))))


def _summed(padded: Tensor, window: Tensor, dim: int) -> Tensor:
    """The same on GPUs, whose convolutions round to TF32 unless PyTorch is told not to."""
    length = padded.shape[dim] - window.shape[0] + 1
    total: Tensor = sum(weight * padded.narrow(dim, i, length) for i, weight in enumerate(window.unbind()))  # type: ignore[assignment]
    return total
