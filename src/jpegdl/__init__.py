"""A trainable JPEG layer in front of any PyTorch vision model."""

from jpegdl.layer import JpegLayer, prepend

__all__ = ["JpegLayer", "prepend"]
__version__ = "0.1.0"
