"""Wide ResNets for 32x32 images (Zagoruyko and Komodakis 2016)."""

import torch.nn.functional as torch_functional
from torch import Tensor, nn

from jpegdl.backbones.base import CifarBackbone, blocks_per_stage, he_normal_
from jpegdl.errors import UsageError


class PreActivationBlock(nn.Module):
    """Normalise and activate before each of two 3x3 convolutions; where the width changes, before the shortcut's too."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.convShortcut = None if inputs == outputs else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = torch_functional.relu(self.bn1(x))
        y: Tensor = self.conv2(torch_functional.relu(self.bn2(self.conv1(active))))
        return y + (x if self.convShortcut is None else self.convShortcut(active))


class _Stage(nn.Module):
    def __init__(self, inputs: int, outputs: int, blocks: int, stride: int) -> None:
        super().__init__()
        rest = (PreActivationBlock(outputs, outputs, 1) for _ in range(blocks - 1))
        self.layer = nn.Sequential(PreActivationBlock(inputs, outputs, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(x)
        return x


class CifarWideResNet(CifarBackbone):
    """The wide ResNet: three stages of n pre-activation blocks, depth = 6 n + 4, with 16, 32 and 64 times ``width`` channels.

    Args:
        depth: number of convolutions as the authors count: 6 n in the blocks, the first one and one shortcut a stage.
        width: how many times as wide as the thin ResNet.

    Source: Zagoruyko and Komodakis 2016, table 1, in the form that RepDistiller's protocol uses (no dropout inside blocks).
    """

    def __init__(
        self,
        depth: int = 40,
        width: int = 2,
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        blocks = blocks_per_stage(depth, rest=4)
        if not isinstance(width, int) or width < 1:
            raise UsageError(f"width must be a whole number >= 1, got {width!r}")
        self.conv1 = nn.Conv2d(in_chans, 16, 3, 1, 1, bias=False)
        self.block1 = _Stage(16, 16 * width, blocks, stride=1)
        self.block2 = _Stage(16 * width, 32 * width, blocks, stride=2)
        self.block3 = _Stage(32 * width, 64 * width, blocks, stride=2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self._add_head(64 * width, num_classes, drop_rate, global_pool)

    @staticmethod
    def _initialise(module: nn.Module) -> None:
        he_normal_(module)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) to (N, num_features, H/4, W/4)."""
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        return torch_functional.relu(self.bn1(x))
