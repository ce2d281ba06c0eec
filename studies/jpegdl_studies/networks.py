"""The network of most studies: small, so that many arms and seeds fit on a few CPU cores."""

from typing import Any

import timm
from torch import nn

import jpegdl.backbones  # noqa: F401, registers its networks with timm
from jpegdl_studies.v1 import GaborEnergy


def resnet8(num_classes: int) -> nn.Module:
    """Return the thin ResNet-8 (78 thousand parameters at 10 classes) with a first convolution of stride 2.

    Of 64x64 images its first stage sees 32x32, as it does of CIFAR's, at a quarter of the cost. It has no record of timm's, so
    that images are normalised by ImageNet's mean and deviation, not by CIFAR-100's.
    """
    model: Any = timm.create_model("cifar_resnet8", num_classes=num_classes)
    model.conv1.stride = (2, 2)
    del model.pretrained_cfg, model.default_cfg
    return model  # type: ignore[no-any-return]


def v1_resnet8(num_classes: int) -> nn.Module:
    """Return the same network behind fixed Gabor cells: its first convolution gives way to them, and to a trained 1x1
    convolution of their 180 channels to its 16."""
    model: Any = resnet8(num_classes)
    cells = GaborEnergy(stride=2)
    model.conv1 = nn.Sequential(cells, nn.Conv2d(cells.channels(), model.conv1.out_channels, 1, bias=False))
    return model  # type: ignore[no-any-return]
