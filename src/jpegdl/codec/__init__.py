"""Learned tables in real JPEG files: folders of images encoded with them, and what a model makes of such files.

:func:`compress_folder` writes the files, :func:`file_report` tests a run on them, :func:`rate_run` and
:func:`rate_curves` put accuracy against true bits per pixel beside default JPEG's.
"""

from jpegdl.codec.bjontegaard import Between, Curve, bd_accuracy, bd_rate, compare_curves, rate_curves
from jpegdl.codec.config import CompressConfig
from jpegdl.codec.encode_folder import CompressStanding, compress_folder
from jpegdl.codec.encoder import Encoder
from jpegdl.codec.learned import Learned, file_tables, learned_tables
from jpegdl.codec.rate_points import CurveConfig, check_curve_config, rate_run, read_rate, why_no_files
from jpegdl.codec.rate_results import RATE_COLUMNS, rate_comparisons, rate_figure, rate_notes, rate_rows, rate_table, rate_text
from jpegdl.codec.rate_runs import RatedComparison, rate_comparison
from jpegdl.codec.read_back import file_report, keep_file_report, read_file_report, stored_in_words

__all__ = [
    "RATE_COLUMNS",
    "Between",
    "CompressConfig",
    "CompressStanding",
    "Curve",
    "CurveConfig",
    "Encoder",
    "Learned",
    "RatedComparison",
    "bd_accuracy",
    "bd_rate",
    "check_curve_config",
    "compare_curves",
    "compress_folder",
    "file_report",
    "file_tables",
    "keep_file_report",
    "learned_tables",
    "rate_comparison",
    "rate_comparisons",
    "rate_curves",
    "rate_figure",
    "rate_notes",
    "rate_rows",
    "rate_run",
    "rate_table",
    "rate_text",
    "read_file_report",
    "read_rate",
    "stored_in_words",
    "why_no_files",
]
