"""The network of most studies: small, so that many arms and seeds fit on a few CPU cores."""

from typing import Any

import timm
from torch import nn

import jpegdl.backbones  # noqa: F401, registers its networks with timm


def resnet8(num_classes: int) -> nn.Module:
    """Return the thin ResNet-8 (78 thousand parameters at 10 classes) with a first convolution of stride 2.

    Of 64x64 images its first stage sees 32x32, as it does of CIFAR's, at a quarter of the cost. It has no record of timm's, so
    that images are normalised by ImageNet's mean and deviation, not by CIFAR-100's.
    """
    model: Any = timm.create_model("cifar_resnet8", num_classes=num_classes)
    model.conv1.stride = (2, 2)
    del model.pretrained_cfg, model.default_cfg
    return model  # type: ignore[no-any-return]
