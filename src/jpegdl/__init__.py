"""A trainable JPEG layer in front of any PyTorch vision model."""

from jpegdl import backbones as _backbones  # noqa: F401  registers the CIFAR backbones with timm
from jpegdl.layer import JpegLayer, prepend

__all__ = ["JpegLayer", "prepend"]
__version__ = "0.1.0"
