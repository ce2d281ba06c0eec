"""ShuffleNetV1 and V2 for 32x32 images (Zhang et al. 2018, Ma et al. 2018)."""

import torch
import torch.nn.functional as torch_functional
from torch import Tensor, nn

from jpegdl.backbones.base import CifarBackbone


class GroupedBlock(nn.Module):
    """V1: grouped 1x1, shuffle, 3x3 on each channel, grouped 1x1.

    The result is added to the input or, at stride 2, stacked on the pooled input.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int, first_groups: int) -> None:
        super().__init__()
        self.stride, self.first_groups = stride, first_groups
        added = outputs - inputs if stride == 2 else outputs
        middle = added // 4
        self.conv1 = nn.Conv2d(inputs, middle, 1, groups=first_groups, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, 1, groups=middle, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, added, 1, groups=groups, bias=False)
        self.bn3 = nn.BatchNorm2d(added)

    def forward(self, x: Tensor) -> Tensor:
        y = torch_functional.relu(self.bn1(self.conv1(x)))
        y = torch_functional.channel_shuffle(y, self.first_groups)
        y = torch_functional.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        if self.stride == 1:
            return torch_functional.relu(x + y)
        return torch_functional.relu(torch.cat((y, torch_functional.avg_pool2d(x, 3, 2, 1)), 1))


class SplitBlock(nn.Module):
    """V2: half of the channels pass, the other half goes through 1x1, 3x3 on each channel, 1x1; then both are shuffled."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, 1, 1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        passed, y = x.chunk(2, dim=1)
        y = torch_functional.relu(self.bn1(self.conv1(y)))
        y = self.bn2(self.conv2(y))
        y = torch_functional.relu(self.bn3(self.conv3(y)))
        return torch_functional.channel_shuffle(torch.cat((passed, y), 1), 2)


class DownBlock(nn.Module):
    """V2: halves the size; all channels go through 3x3 on each channel and 1x1, and through 1x1, 3x3 on each, 1x1."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.conv1 = nn.Conv2d(inputs, inputs, 3, 2, 1, groups=inputs, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv2 = nn.Conv2d(inputs, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(inputs, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = nn.Conv2d(half, half, 3, 2, 1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        left = self.bn1(self.conv1(x))
        left = torch_functional.relu(self.bn2(self.conv2(left)))
        right = torch_functional.relu(self.bn3(self.conv3(x)))
        right = self.bn4(self.conv4(right))
        right = torch_functional.relu(self.bn5(self.conv5(right)))
        return torch_functional.channel_shuffle(torch.cat((left, right), 1), 2)


class _ShuffleNet(CifarBackbone):
    """What V1 and V2 share: a 1x1 first convolution to 24 channels, and PyTorch's own initialisation."""

    CLASSIFIER = "linear"

    def __init__(self, in_chans: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_chans, 24, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(24)

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        pass


class CifarShuffleNetV1(_ShuffleNet):
    """ShuffleNetV1 with 3 groups: three stages of 4, 8 and 4 blocks with 240, 480 and 960 channels.

    Source: Zhang et al. 2018, table 1, in the form that RepDistiller's protocol uses: 32x32 images end at 4x4.
    """

    def __init__(self, num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.0, global_pool: str = "avg") -> None:
        super().__init__(in_chans)
        self.layer1 = self._stage(24, 240, blocks=4, first_groups=1)
        self.layer2 = self._stage(240, 480, blocks=8)
        self.layer3 = self._stage(480, 960, blocks=4)
        self._add_head(960, num_classes, drop_rate, global_pool)

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int, first_groups: int = 3) -> nn.Sequential:
        rest = (GroupedBlock(outputs, outputs, 1, 3, 3) for _ in range(blocks - 1))
        return nn.Sequential(GroupedBlock(inputs, outputs, 2, 3, first_groups), *rest)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) to (N, 960, H/8, W/8)."""
        x = torch_functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return x


class CifarShuffleNetV2(_ShuffleNet):
    """ShuffleNetV2 at width 1: three stages of 4, 8 and 4 blocks with 116, 232 and 464 channels, then 1024 features.

    Source: Ma et al. 2018, table 5, in the form that RepDistiller's protocol uses: 32x32 images end at 4x4.
    """

    def __init__(self, num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.0, global_pool: str = "avg") -> None:
        super().__init__(in_chans)
        self.layer1 = self._stage(24, 116, blocks=4)
        self.layer2 = self._stage(116, 232, blocks=8)
        self.layer3 = self._stage(232, 464, blocks=4)
        self.conv2 = nn.Conv2d(464, 1024, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(1024)
        self._add_head(1024, num_classes, drop_rate, global_pool)

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int) -> nn.Sequential:
        return nn.Sequential(DownBlock(inputs, outputs), *(SplitBlock(outputs) for _ in range(blocks - 1)))

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) to (N, 1024, H/8, W/8)."""
        x = torch_functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return torch_functional.relu(self.bn2(self.conv2(x)))
