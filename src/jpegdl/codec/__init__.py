"""Learned tables in real JPEG files: folders of images encoded with them, and what a model makes of such files.

:func:`compress_folder` writes the files, :func:`file_report` tests a run on them.
"""

from jpegdl.codec.config import CompressConfig
from jpegdl.codec.encoder import Encoder
from jpegdl.codec.folder import CompressStanding, compress_folder
from jpegdl.codec.report import file_report
from jpegdl.codec.steps import Learned, file_tables, learned_tables

__all__ = [
    "CompressConfig",
    "CompressStanding",
    "Encoder",
    "Learned",
    "compress_folder",
    "file_report",
    "file_tables",
    "learned_tables",
]
