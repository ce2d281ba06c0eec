"""Real JPEG files: with learned tables, or made for the networks that read them.

- :func:`compress_folder` writes a folder of files, and :func:`file_report` tests a run on them.
- :func:`choose` and :func:`guide` make files for networks, without tables of a run; :func:`search_tables` finds one pair of
  tables for all files.
- :func:`rate_run` and :func:`rate_curves` measure accuracy against true bits per pixel, beside default JPEG.
  :func:`rate_photos` does so for any network.
- :func:`read_coefficients` and :func:`write_coefficients` read levels, tables and sampling of a file, and write them.
"""

from typing import TYPE_CHECKING

from jpegdl.extras import on_first_use

if TYPE_CHECKING:
    from jpegdl.codec.bjontegaard import Between, Curve, bd_accuracy, bd_rate, compare_curves, rate_curves
    from jpegdl.codec.coefficients import Coefficients, read_coefficients, write_coefficients
    from jpegdl.codec.config import CompressConfig
    from jpegdl.codec.encode_folder import CompressStanding, compress_folder
    from jpegdl.codec.encoder import Encoder
    from jpegdl.codec.learned import Learned, file_tables, learned_tables
    from jpegdl.codec.photo_rates import PhotoRate, PhotoRateConfig, photo_rate_figure, photos_in, rate_photos, write_photo_rate
    from jpegdl.codec.rate_points import CurveConfig, check_curve_config, rate_run, read_rate, why_no_files
    from jpegdl.codec.rate_results import (
        RATE_COLUMNS,
        rate_comparisons,
        rate_figure,
        rate_notes,
        rate_rows,
        rate_table,
        rate_text,
    )
    from jpegdl.codec.rate_runs import RatedComparison, rate_comparison
    from jpegdl.codec.read_back import file_report, keep_file_report, read_file_report, stored_in_words
    from jpegdl.codec.read_image import DecodedImage, open_photo
    from jpegdl.codec.readers import NotFinite, PhotoReader, open_reader, open_readers
    from jpegdl.codec.shaping import choose, each_file, guide
    from jpegdl.codec.shards import compress_shards
    from jpegdl.codec.table_search import FileCost, FolderTables, FoundTables, search_folder, search_tables
    from jpegdl.codec.trials import Shape, ShapedFile

__all__ = [
    "RATE_COLUMNS",
    "Between",
    "Coefficients",
    "CompressConfig",
    "CompressStanding",
    "Curve",
    "CurveConfig",
    "DecodedImage",
    "Encoder",
    "FileCost",
    "FolderTables",
    "FoundTables",
    "Learned",
    "NotFinite",
    "PhotoRate",
    "PhotoRateConfig",
    "PhotoReader",
    "RatedComparison",
    "Shape",
    "ShapedFile",
    "bd_accuracy",
    "bd_rate",
    "check_curve_config",
    "choose",
    "compare_curves",
    "compress_folder",
    "compress_shards",
    "each_file",
    "file_report",
    "file_tables",
    "guide",
    "keep_file_report",
    "learned_tables",
    "open_photo",
    "open_reader",
    "open_readers",
    "photo_rate_figure",
    "photos_in",
    "rate_comparison",
    "rate_comparisons",
    "rate_curves",
    "rate_figure",
    "rate_notes",
    "rate_photos",
    "rate_rows",
    "rate_run",
    "rate_table",
    "rate_text",
    "read_coefficients",
    "read_file_report",
    "read_rate",
    "search_folder",
    "search_tables",
    "stored_in_words",
    "why_no_files",
    "write_coefficients",
    "write_photo_rate",
]

__getattr__, __dir__ = on_first_use(__name__)
