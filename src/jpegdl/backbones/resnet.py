"""ResNets for 32x32 images (He et al. 2016): thin ones of three stages, and ResNet-50 of four."""

from collections.abc import Sequence

import torch.nn.functional as torch_functional
from torch import Tensor, nn

from jpegdl.backbones.base import CifarBackbone, blocks_per_stage
from jpegdl.errors import UsageError


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut; a 1x1 convolution on the shortcut where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = torch_functional.relu(self.bn1(self.conv1(x)))
        return torch_functional.relu(self.bn2(self.conv2(y)) + self.downsample(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, narrow in the middle, around a shortcut as in :class:`BasicBlock`."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        middle = outputs // 4
        self.conv1 = nn.Conv2d(inputs, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = torch_functional.relu(self.bn1(self.conv1(x)))
        y = torch_functional.relu(self.bn2(self.conv2(y)))
        return torch_functional.relu(self.bn3(self.conv3(y)) + self.shortcut(x))


def _shortcut(inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


def _stage(block: type[BasicBlock | Bottleneck], inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    rest = (block(outputs, outputs, 1) for _ in range(blocks - 1))
    return nn.Sequential(block(inputs, outputs, stride), *rest)


class CifarResNet(CifarBackbone):
    """The thin ResNet: three stages of n basic blocks, depth = 6 n + 2.

    Args:
        depth: number of layers with weights on the way from image to logits.
        channels: of the first convolution and the three stages; the last one is ``num_features``.

    Source: He et al. 2016, section 4.2, in the form (projection shortcuts) that RepDistiller's protocol uses.
    """

    def __init__(
        self,
        depth: int = 20,
        channels: Sequence[int] = (16, 16, 32, 64),
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        blocks = blocks_per_stage(depth, rest=2)
        if len(channels) != 4 or not all(isinstance(count, int) and count >= 1 for count in channels):
            raise UsageError(f"channels must be four whole numbers >= 1 (first convolution, three stages), got {channels!r}")
        first, *stages = channels
        self.conv1 = nn.Conv2d(in_chans, first, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(first)
        self.layer1 = _stage(BasicBlock, first, stages[0], blocks, stride=1)
        self.layer2 = _stage(BasicBlock, stages[0], stages[1], blocks, stride=2)
        self.layer3 = _stage(BasicBlock, stages[1], stages[2], blocks, stride=2)
        self._add_head(stages[2], num_classes, drop_rate, global_pool)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) to (N, num_features, H/4, W/4)."""
        x = torch_functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return x


class CifarResNet50(CifarBackbone):
    """ResNet-50 without its first pooling and with a 3x3 first convolution of stride 1; 2048 features.

    Source: He et al. 2016, table 1, adapted to 32x32 images as in RepDistiller's protocol.
    """

    CLASSIFIER = "linear"

    def __init__(self, num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.0, global_pool: str = "avg") -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(Bottleneck, 64, 256, blocks=3, stride=1)
        self.layer2 = _stage(Bottleneck, 256, 512, blocks=4, stride=2)
        self.layer3 = _stage(Bottleneck, 512, 1024, blocks=6, stride=2)
        self.layer4 = _stage(Bottleneck, 1024, 2048, blocks=3, stride=2)
        self._add_head(2048, num_classes, drop_rate, global_pool)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) to (N, 2048, H/8, W/8)."""
        x = torch_functional.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return x
