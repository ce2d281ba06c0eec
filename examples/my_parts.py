"""A model, a layer and arms of your own, compared with ours: nothing of the package is edited.

    cd examples
    jpegdl compare --config my_parts.yaml

my_parts.yaml beside this file names them as ``my_parts:make_model`` and ``my_parts:DeadZoneLayer``.
"""

from torch import Tensor, nn

from jpegdl import JpegLayer


def make_model(num_classes: int) -> nn.Module:
    """Called with the number of classes; takes images, already normalised, and gives logits (N, num_classes)."""

    def block(inputs: int, outputs: int, stride: int) -> nn.Module:
        convolution = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())

    stages = [block(3, 16, 1), block(16, 32, 2), block(32, 64, 2)]
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, num_classes))


class DeadZoneLayer(JpegLayer):
    """The JPEG layer, but coefficients below a share of their step become 0, as in encoders that save bits.

    Args:
        luma, chroma, alpha, bits: settings of :class:`jpegdl.JpegLayer`, taken from the recipe because they are named here.
        zone: that share; an option of this layer alone, from ``layer.options``.
    """

    def __init__(self, luma: Tensor, chroma: Tensor, alpha: float = 5.0, bits: int | None = 8, zone: float = 0.5) -> None:
        super().__init__(luma, chroma, alpha=alpha, bits=bits)
        self.zone = zone

    def alter(self, z: Tensor) -> Tensor:
        """Coefficients (N, 3, H/8, W/8, 8, 8) to what takes their place."""
        small = z.abs() < self.zone * self.at_blocks(self.steps.to(z.dtype))
        return super().alter(z).masked_fill(small, 0)
