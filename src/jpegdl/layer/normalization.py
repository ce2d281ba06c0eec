"""The simplest way to take brightness out of images, as a control: normalise each image by itself."""

from numbers import Real
from typing import Any

from torch import Tensor
from torch.nn.functional import layer_norm

from jpegdl import functional as F
from jpegdl.errors import UsageError
from jpegdl.layer.base import ImageLayer
from jpegdl.layer.registry import register_layer

VARIANCE_FLOOR = 1e-5  # added to an image's variance: a constant image becomes ``mean`` everywhere


@register_layer("normalize", "brightness and contrast of each image normalised, no layer")
class ImageNormalization(ImageLayer):
    """Bring each image to the same brightness and contrast: a control without parameters.

    The mean and the standard deviation of each image, over all its pixels and channels, become ``mean`` and ``std``.

    Args:
        mean, std: in the units of the images; the defaults are ImageNet's, averaged over the channels.

    Raises:
        UsageError: ``mean`` is not finite, or ``std`` is not finite and > 0.
    """

    def __init__(self, mean: float = 0.449, std: float = 0.226) -> None:
        super().__init__()
        for name, value in (("mean", mean), ("std", std)):
            if isinstance(value, bool) or not isinstance(value, Real) or not abs(value) < float("inf"):
                raise UsageError(f"{name} must be a finite number, got {value!r}")
        if std <= 0:
            raise UsageError(f"std must be greater than 0, got {std!r}")
        self.mean, self.std = float(mean), float(std)

    @property
    def settings(self) -> dict[str, Any]:
        return {**super().settings, "mean": self.mean, "std": self.std}

    def round_trip(self, images: Tensor) -> Tensor:
        x = F.unit_images(images)
        return layer_norm(x, x.shape[1:], eps=VARIANCE_FLOOR) * self.std + self.mean

    def extra_repr(self) -> str:
        return f"mean={self.mean}, std={self.std}"
