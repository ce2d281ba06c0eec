"""How to put a layer in front of a model."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from jpegdl.errors import UsageError


class PrependedModel(nn.Module):
    """``layer``, then normalisation, then ``backbone``: images in [0, 1] in, the backbone's output out.

    ``mean`` and ``std`` are not part of the state dict: it holds ``layer.*`` and ``backbone.*``, nothing else.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, layer: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.layer = layer
        self.backbone = backbone
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Any:
        """(N, 3, H, W) RGB in [0, 1] to whatever the backbone returns."""
        x = self.layer(images)
        return self.backbone((x - self.mean.to(x.dtype)) / self.std.to(x.dtype))


def prepend(
    backbone: nn.Module,
    layer: nn.Module,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> PrependedModel:
    """Put a layer in front of a model.

    Args:
        backbone: any module that takes normalised images (N, 3, H, W). It is not copied: unwrapped, it stays usable.
        layer: a :class:`JpegLayer`, or any module from images to images (``nn.Identity()`` for a plain model).
        mean, std: the backbone's own normalisation, for images in [0, 1], one number a channel. Default: what timm
            recorded in ``backbone.pretrained_cfg``, else ImageNet's. Hugging Face keeps them in a model's image processor
            (``image_mean``, ``image_std``), torchvision in ``weights.transforms()``.

    Returns:
        A module with ``.layer`` and ``.backbone`` that takes images in [0, 1].

    Raises:
        UsageError: ``mean`` or ``std`` is not three finite numbers, or a ``std`` is not positive.

    Example::

        model = prepend(timm.create_model("resnet18", num_classes=102), JpegLayer())
    """
    config = getattr(backbone, "pretrained_cfg", None) or {}
    mean = mean if mean is not None else config.get("mean") or (0.485, 0.456, 0.406)
    std = std if std is not None else config.get("std") or (0.229, 0.224, 0.225)
    for name, values in (("mean", mean), ("std", std)):
        try:
            usable = len(values) == 3 and all(abs(float(value)) < float("inf") for value in values)
        except (TypeError, ValueError):
            usable = False
        if not usable or (name == "std" and min(values) <= 0):
            raise UsageError(f"{name} must be three finite numbers{', all > 0' if name == 'std' else ''}, got {values!r}")
    return PrependedModel(backbone, layer, [float(v) for v in mean], [float(v) for v in std])
