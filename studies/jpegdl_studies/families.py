"""Small networks of other families than ``networks.resnet8``, and an augmentation: training images that come out of files.

A module of its own, as runs remember the file of what they were made with.
"""

from typing import Any

import timm
from torch import Tensor, nn

import jpegdl.backbones  # noqa: F401, registers its networks with timm
from jpegdl import RandomJpeg
from jpegdl.layer import ImageLayer


def vgg8(num_classes: int) -> nn.Module:
    """Return VGG-8 (3.9 million parameters at 10 classes) with a first convolution of stride 2, as that ResNet-8 has it."""
    model: Any = timm.create_model("cifar_vgg8", num_classes=num_classes)
    model.block0[0].stride = (2, 2)
    return _without_record(model)


def mobilenetv2(num_classes: int) -> nn.Module:
    """Return MobileNetV2 of half width (0.7 million parameters), in its second stage of stride 2 as for large images."""
    model: Any = timm.create_model("cifar_mobilenetv2", num_classes=num_classes)
    model.blocks[1][0].conv[3].stride = (2, 2)
    return _without_record(model)


def _without_record(model: Any) -> nn.Module:
    """Let images be normalised by ImageNet's mean and deviation, not by CIFAR-100's."""
    del model.pretrained_cfg, model.default_cfg
    found: nn.Module = model
    return found


class SomeFiles(ImageLayer):
    """In training some images of each batch become those of JPEG files of low quality; in evaluation none.

    Args:
        low, high: qualities to draw from, evenly.
        share: of the images.
    """

    def __init__(self, low: int = 5, high: int = 30, share: float = 0.5) -> None:
        super().__init__()
        self.files = RandomJpeg((low, high), p=share)

    @property
    def settings(self) -> dict[str, Any]:
        return {**super().settings, "quality": list(self.files.quality), "share": self.files.p}

    def round_trip(self, images: Tensor) -> Tensor:
        found: Tensor = self.files(images) if self.training else images
        return found
