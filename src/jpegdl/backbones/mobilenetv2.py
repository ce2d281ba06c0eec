"""MobileNetV2 for 32x32 images (Sandler et al. 2018)."""

from torch import Tensor, nn

from jpegdl.backbones.base import CifarBackbone, he_normal_small_classifier_
from jpegdl.errors import UsageError

EXPANSION = 6
STAGES = (  # channels at width 1, blocks, stride of the first block
    (16, 1, 1),
    (24, 2, 1),
    (32, 3, 2),
    (64, 4, 2),
    (96, 3, 1),
    (160, 3, 2),
    (320, 1, 1),
)
NARROWEST = 1 / 16  # leaves one channel in the first stage
FEATURES = 1280  # in wider networks than width 1, as many times more


class InvertedResidual(nn.Module):
    """A 1x1 convolution to ``expansion`` times the channels, a 3x3 one on each, a linear 1x1 one; a shortcut if shapes fit."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inside = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            *_conv(inputs, inside, 1),
            *_conv(inside, inside, 3, stride, groups=inside),
            nn.Conv2d(inside, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class CifarMobileNetV2(CifarBackbone):
    """MobileNetV2 with half the original's strides: 32x32 images end at 2x2, with 1280 features.

    Args:
        width: factor on the channels of all but the last convolution, rounded down; 1/16 to 16.

    Source: Sandler et al. 2018, table 2, in the form that RepDistiller's protocol uses.
    """

    FIRST_CONV = "conv1.0"
    CLASSIFIER = "classifier.0"
    _initialise = staticmethod(he_normal_small_classifier_)

    def __init__(
        self, width: float = 0.5, num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.0, global_pool: str = "avg"
    ) -> None:
        super().__init__()
        if not isinstance(width, int | float) or not NARROWEST <= width <= 1 / NARROWEST:
            raise UsageError(f"width must be a number from 1/16 to 16, got {width!r}")
        inputs, features = int(32 * width), int(FEATURES * max(width, 1))
        self.conv1 = nn.Sequential(*_conv(in_chans, inputs, 3, stride=2))
        self.blocks = nn.ModuleList()
        for i, (channels, blocks, stride) in enumerate(STAGES):
            outputs, expansion = int(channels * width), EXPANSION if i else 1
            rest = (InvertedResidual(outputs, outputs, 1, expansion) for _ in range(blocks - 1))
            self.blocks.append(nn.Sequential(InvertedResidual(inputs, outputs, stride, expansion), *rest))
            inputs = outputs
        self.conv2 = nn.Sequential(*_conv(inputs, features, 1))
        self.classifier = nn.Sequential()
        self._add_head(features, num_classes, drop_rate, global_pool)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) to (N, num_features, H/16, W/16)."""
        x = self.conv1(x)
        for stage in self.blocks:
            x = stage(x)
        x = self.conv2(x)
        return x


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)
