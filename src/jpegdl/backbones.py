"""CIFAR backbones that timm lacks, registered with timm: ``timm.create_model("cifar_resnet20", num_classes=10)``.

Importing ``jpegdl`` registers them.
"""

from typing import Any

import torch
import torch.nn.functional as torch_functional
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut; a 1x1 convolution on the shortcut where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = torch_functional.relu(self.bn1(self.conv1(x)))
        return torch_functional.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class CifarResNet(nn.Module):
    """The thin ResNet for 32x32 images: three stages of 16, 32 and 64 channels, depth = 6 n + 2 for n blocks a stage.

    Takes normalised images (N, in_chans, H, W), returns logits (N, num_classes); ``num_classes=0`` returns pooled features.

    Source: He et al. 2016, section 4.2, in the form (projection shortcuts) that RepDistiller's protocol uses.
    """

    def __init__(
        self, depth: int = 20, num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.0, global_pool: str = "avg"
    ) -> None:
        super().__init__()
        if (depth - 2) % 6 or depth < 8:
            raise ValueError(f"depth must be 6 n + 2 with n >= 1, got {depth}")
        if global_pool != "avg":
            raise ValueError(f"global_pool must be 'avg', got {global_pool!r}")
        blocks = (depth - 2) // 6
        self.num_classes, self.num_features, self.drop_rate = num_classes, 64, drop_rate
        self.conv1 = nn.Conv2d(in_chans, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, stride=1)
        self.layer2 = self._stage(16, 32, blocks, stride=2)
        self.layer3 = self._stage(32, 64, blocks, stride=2)
        self.fc: nn.Module = nn.Identity()
        self.reset_classifier(num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
        rest = (_BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1))
        return nn.Sequential(_BasicBlock(inputs, outputs, stride), *rest)

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) to (N, 64, H/4, W/4)."""
        x = torch_functional.relu(self.bn1(self.conv1(x)))
        return torch.as_tensor(self.layer3(self.layer2(self.layer1(x))))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(N, 64, h, w) to (N, num_classes), or to pooled features (N, 64)."""
        x = torch_functional.dropout(x.mean((2, 3)), self.drop_rate, self.training)
        return x if pre_logits else torch.as_tensor(self.fc(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


_DEPTHS = (8, 20, 32, 56, 110)

default_cfgs = generate_default_cfgs(
    {
        f"cifar_resnet{depth}": {
            "num_classes": 10,
            "input_size": (3, 32, 32),
            "mean": (0.5071, 0.4867, 0.4408),  # CIFAR-100's own
            "std": (0.2675, 0.2565, 0.2761),
            "first_conv": "conv1",
            "classifier": "fc",
        }
        for depth in _DEPTHS
    }
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> CifarResNet:
    depth = int(variant.removeprefix("cifar_resnet"))
    model: CifarResNet = build_model_with_cfg(CifarResNet, variant, pretrained, depth=depth, **kwargs)
    return model


@register_model
def cifar_resnet8(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-8 for 32x32 images, 0.08 M parameters."""
    return _create("cifar_resnet8", pretrained, **kwargs)


@register_model
def cifar_resnet20(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-20 for 32x32 images, 0.28 M parameters."""
    return _create("cifar_resnet20", pretrained, **kwargs)


@register_model
def cifar_resnet32(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-32 for 32x32 images, 0.47 M parameters."""
    return _create("cifar_resnet32", pretrained, **kwargs)


@register_model
def cifar_resnet56(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-56 for 32x32 images, 0.86 M parameters."""
    return _create("cifar_resnet56", pretrained, **kwargs)


@register_model
def cifar_resnet110(pretrained: bool = False, **kwargs: Any) -> CifarResNet:
    """ResNet-110 for 32x32 images, 1.74 M parameters."""
    return _create("cifar_resnet110", pretrained, **kwargs)
