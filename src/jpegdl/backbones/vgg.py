"""VGGs for 32x32 images (Simonyan and Zisserman 2015), with batch normalisation and one linear layer."""

import torch.nn.functional as torch_functional
from torch import Tensor, nn

from jpegdl.backbones.base import CifarBackbone, he_normal_small_classifier_
from jpegdl.errors import UsageError

CHANNELS = (64, 128, 256, 512, 512)
CONVOLUTIONS = {  # of each of the five blocks, by depth: the paper's configurations A, B, D, E, and one of single layers
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


class CifarVGG(CifarBackbone):
    """Five blocks of 3x3 convolutions with 64, 128, 256, 512 and 512 channels, halved in size between them.

    Before the last block only images of 64 pixels and more are halved, as in RepDistiller's protocol: 32x32 images end at
    4x4. Three fully connected layers, with which the depth is counted, are one here.

    Args:
        depth: 8, 11, 13, 16 or 19.

    Source: Simonyan and Zisserman 2015, table 1.
    """

    FIRST_CONV = "block0.0"
    CLASSIFIER = "classifier"
    _initialise = staticmethod(he_normal_small_classifier_)

    def __init__(
        self, depth: int = 13, num_classes: int = 10, in_chans: int = 3, drop_rate: float = 0.0, global_pool: str = "avg"
    ) -> None:
        super().__init__()
        if depth not in CONVOLUTIONS:
            raise UsageError(f"depth must be one of {', '.join(map(str, CONVOLUTIONS))}, got {depth!r}")
        inputs = (in_chans, *CHANNELS)
        self.block0, self.block1, self.block2, self.block3, self.block4 = (
            _block(inputs[i], CHANNELS[i], count) for i, count in enumerate(CONVOLUTIONS[depth])
        )
        self._add_head(512, num_classes, drop_rate, global_pool)

    def forward_features(self, x: Tensor) -> Tensor:
        """(N, in_chans, H, W) to (N, 512, H/8, W/8), or H/16 where H is 64 or more; H and W at least 8."""
        large = x.shape[-2] >= 64
        for block in (self.block0, self.block1, self.block2):
            x = torch_functional.max_pool2d(block(x), 2)
        x = self.block3(x)
        x = self.block4(torch_functional.max_pool2d(x, 2) if large else x)
        return x


def _block(inputs: int, outputs: int, convolutions: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for i in range(convolutions):
        conv = nn.Conv2d(outputs if i else inputs, outputs, 3, padding=1)
        layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
