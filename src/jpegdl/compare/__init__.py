"""Comparisons: every arm with every seed, trained side by side, and what the layer gained over the plain backbone."""

from jpegdl.compare.arms import ARMS
from jpegdl.compare.comparison import compare, summarize_runs
from jpegdl.compare.config import CompareConfig, check_compare
from jpegdl.compare.runs import BusyError, calibrate_run, evaluate_run, train_arm

__all__ = [
    "ARMS",
    "BusyError",
    "CompareConfig",
    "calibrate_run",
    "check_compare",
    "compare",
    "evaluate_run",
    "summarize_runs",
    "train_arm",
]
