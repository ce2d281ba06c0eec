"""A trainable JPEG layer in front of any PyTorch vision model.

What is not used is not imported: the layer needs PyTorch and NumPy (and numba to be fast on the CPU), the larger rooms the
packages of their extras, and ``import jpegdl`` itself nothing at all.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jpegdl.extras import name_missing

if TYPE_CHECKING:
    from jpegdl import backbones as backbones
    from jpegdl import calibrate as calibrate
    from jpegdl import data as data
    from jpegdl import errors as errors
    from jpegdl import explain as explain
    from jpegdl import export as export
    from jpegdl import functional as functional
    from jpegdl import layer as layer
    from jpegdl import report as report
    from jpegdl import robustness as robustness
    from jpegdl import tables as tables
    from jpegdl import training as training
    from jpegdl import use as use
    from jpegdl.arguments import read_config as read_config
    from jpegdl.compare import CompareConfig as CompareConfig
    from jpegdl.compare import compare as compare
    from jpegdl.layer.jpeg import JpegLayer
    from jpegdl.layer.prepend import parameter_groups, prepend
    from jpegdl.use import Classifier, load

__all__ = ["Classifier", "CompareConfig", "JpegLayer", "compare", "load", "parameter_groups", "prepend", "read_config"]
__version__ = "0.1.0"

_HOMES = {
    "Classifier": "use",
    "CompareConfig": "compare",
    "JpegLayer": "layer",
    "load": "use",
    "parameter_groups": "layer",
    "prepend": "layer",
    "read_config": "arguments",
}
_MODULES = (
    "backbones",
    "calibrate",
    "compare",
    "data",
    "errors",
    "explain",
    "export",
    "functional",
    "layer",
    "report",
    "robustness",
    "tables",
    "training",
    "use",
)

name_missing()

if not TYPE_CHECKING:  # or every misspelt name would pass as Any

    def __getattr__(name: str) -> Any:
        if name not in _HOMES and name not in _MODULES:
            raise AttributeError(f"module 'jpegdl' has no attribute {name!r}")
        module = importlib.import_module(f"jpegdl.{_HOMES.get(name, name)}")
        return getattr(module, name) if name in _HOMES else module

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, *_MODULES})
