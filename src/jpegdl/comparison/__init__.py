"""Comparisons: every arm with every seed, trained side by side, and what the layer gained over the plain backbone.

The package is its own main function: ``jpegdl.compare(config)`` is ``jpegdl.comparison.compare(config)``.
"""

import sys
from types import ModuleType

from jpegdl.comparison.arms import ARMS
from jpegdl.comparison.comparison import Comparison, Result, compare, summarize_runs
from jpegdl.comparison.config import CompareConfig, check_compare
from jpegdl.comparison.steps import BusyError, calibrate_run, evaluate_run, train_arm

__all__ = [
    "ARMS",
    "BusyError",
    "CompareConfig",
    "Comparison",
    "Result",
    "calibrate_run",
    "check_compare",
    "compare",
    "evaluate_run",
    "summarize_runs",
    "train_arm",
]


class _Callable(ModuleType):
    """A package with a function's call."""

    __call__ = staticmethod(compare)


sys.modules[__name__].__class__ = _Callable
