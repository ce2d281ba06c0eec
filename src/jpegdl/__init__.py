"""A trainable JPEG layer in front of any PyTorch vision model.

Modules are imported on first use, so ``import jpegdl`` costs nothing. The layer needs PyTorch and NumPy, and numba to be fast
on a CPU. The other modules need the packages of their extras.
"""

from typing import TYPE_CHECKING

from jpegdl._version import __version__ as __version__
from jpegdl.extras import name_missing

if TYPE_CHECKING:
    from jpegdl import backbones as backbones
    from jpegdl import calibrate as calibrate
    from jpegdl import classifier as classifier
    from jpegdl import codec as codec
    from jpegdl import comparison as comparison
    from jpegdl import data as data
    from jpegdl import errors as errors
    from jpegdl import explain as explain
    from jpegdl import export as export
    from jpegdl import functional as functional
    from jpegdl import layer as layer
    from jpegdl import report as report
    from jpegdl import robustness as robustness
    from jpegdl import runs as runs
    from jpegdl import statistics as statistics
    from jpegdl import tables as tables
    from jpegdl import training as training
    from jpegdl.classifier import Classifier, load
    from jpegdl.comparison import CompareConfig as CompareConfig
    from jpegdl.comparison import compare as compare
    from jpegdl.comparison.config import read_config as read_config
    from jpegdl.layer.jpeg import JpegLayer
    from jpegdl.layer.jpeg_function import jpeg as jpeg
    from jpegdl.layer.prepended import parameter_groups, prepend
    from jpegdl.layer.random_jpeg import RandomJpeg as RandomJpeg

__all__ = [
    "Classifier", "CompareConfig", "JpegLayer", "RandomJpeg", "compare", "jpeg", "load", "parameter_groups", "prepend",
    "read_config",
]  # fmt: skip

name_missing()

if not TYPE_CHECKING:  # or every misspelt name would pass as Any
    from jpegdl.extras import on_first_use

    __getattr__, __dir__ = on_first_use(__name__)
