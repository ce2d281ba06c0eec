"""The network of studies/gain: small, so that many arms and seeds fit on a few CPU cores."""

from jpegdl.backbones.resnet import CifarResNet


def resnet8(num_classes: int) -> CifarResNet:
    """The thin ResNet-8 (78 thousand parameters at 10 classes) with a first convolution of stride 2: of 64x64 images its first
    stage sees 32x32, as it does of CIFAR's, at a quarter of the cost."""
    model = CifarResNet(8, num_classes=num_classes)
    model.conv1.stride = (2, 2)
    return model
