"""How to put a layer in front of a model."""

from collections.abc import Sequence
from typing import Any, Generic

import torch
from torch import Tensor, nn
from typing_extensions import TypeVar

from jpegdl.errors import UsageError
from jpegdl.layer.base import Layer

L = TypeVar("L", bound=nn.Module)
L_co = TypeVar("L_co", bound=nn.Module, default=nn.Module, covariant=True)  # a model with a JpegLayer is one with a Module


class PrependedModel(nn.Module, Generic[L_co]):
    """``layer``, then normalisation, then ``backbone``: images in [0, 1] in, the backbone's output out.

    ``mean`` and ``std`` are not part of the state dict: it holds ``layer.*`` and ``backbone.*``, nothing else. To a type
    checker ``PrependedModel[JpegLayer]`` says which layer ``model.layer`` is.
    """

    layer: L_co
    backbone: nn.Module
    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, layer: L_co, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.layer = layer
        self.backbone = backbone
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Any:
        """(N, 3, H, W) RGB in [0, 1] to what the backbone returns."""
        return self.after_layer(self.layer(images))

    def after_layer(self, x: Tensor) -> Any:
        """What the backbone returns for images (N, 3, H, W) that have been through the layer."""
        return self.backbone((x - self.mean.to(x.dtype)) / self.std.to(x.dtype))

    def without_layer(self) -> "PrependedModel[nn.Identity]":
        """The same backbone, not copied, with nothing but its normalisation in front of it; in eval mode."""
        normalisation = self.mean.flatten().tolist(), self.std.flatten().tolist()
        return PrependedModel(self.backbone, nn.Identity(), *normalisation).to(self.mean.device).eval()


def prepend(
    backbone: nn.Module,
    layer: L,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> PrependedModel[L]:
    """Put a layer in front of a model.

    Args:
        backbone: any module that takes normalised images (N, 3, H, W). It is not copied: unwrapped, it stays usable.
        layer: a :class:`JpegLayer`, or any module from images to images (``nn.Identity()`` for a plain model).
        mean, std: the backbone's own normalisation, for images in [0, 1], one number per channel. Default: what timm
            recorded in ``backbone.pretrained_cfg``, else ImageNet's. Hugging Face keeps them in a model's image processor
            (``image_mean``, ``image_std``), torchvision in ``weights.transforms()``.

    Returns:
        A module with ``.layer`` and ``.backbone`` that takes images in [0, 1].

    Raises:
        UsageError: ``backbone`` and ``layer`` are swapped or not modules, ``mean`` or ``std`` is not three finite numbers, or a
            ``std`` is not positive.

    Example::

        model = prepend(timm.create_model("resnet18", num_classes=102), JpegLayer())
    """
    for name, module in (("backbone", backbone), ("layer", layer)):
        if not isinstance(module, nn.Module):
            raise UsageError(f"{name} must be a torch.nn.Module, got {type(module).__name__}")
    swapped = isinstance(backbone, Layer | nn.Identity) and not isinstance(layer, Layer | nn.Identity)
    if swapped or hasattr(layer, "pretrained_cfg"):
        raise UsageError(
            f"prepend takes the backbone first and the layer second, got {type(backbone).__name__} as the backbone and "
            f"{type(layer).__name__} as the layer"
        )
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
