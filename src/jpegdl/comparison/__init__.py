"""Comparisons: every arm with every seed, trained side by side, and what the layer gained over the plain backbone."""

from typing import TYPE_CHECKING

from jpegdl.extras import on_first_use

if TYPE_CHECKING:
    from jpegdl.comparison.arms import ARMS
    from jpegdl.comparison.comparison import Comparison, Result, compare, summarize_runs
    from jpegdl.comparison.config import CompareConfig, check_compare
    from jpegdl.comparison.steps import calibrate_run, evaluate_run, train_arm
    from jpegdl.comparison.summary import read_summary

__all__ = [
    "ARMS", "CompareConfig", "Comparison", "Result", "calibrate_run", "check_compare", "compare", "evaluate_run",
    "read_summary", "summarize_runs", "train_arm",
]  # fmt: skip

__getattr__, __dir__ = on_first_use(__name__)
