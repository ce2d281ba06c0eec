"""How to compress a folder."""

from dataclasses import dataclass
from typing import Literal

from jpegdl.errors import UsageError
from jpegdl.settings import Count, check_fields

MANIFEST = "compress.json"  # in a folder of compressed images: which settings made them


@dataclass
class CompressConfig:
    """Which tables to write JPEG files with, and how.

    Args:
        model: folder of the run whose steps become the tables.
        tables: in place of a run: a file of tables (JSON; .txt in libjpeg's text format, as of cjpeg -qtables; or a JPEG file,
            whose tables are taken), or standard:Q for the standard ones at quality Q, 1 to 100.
        subsampling: of chroma, 4:4:4 or 4:2:0 (half the height and width). Default: that of the run's layer or of the file
            of tables, else 4:4:4.
        optimize: fit the Huffman codes to each image: smaller files, the same pixels, more time.
        progressive: write progressive files.
        exact: write levels computed as the layer computes them, in float32 and within its level cap; takes jpeglib (pip
            install '.[codec]' in a checkout) and more time. Otherwise libjpeg computes them, without the cap.
        threads: images in work at the same time. Default: one for each processor core that this process may use.
    """

    model: str | None = None
    tables: str | None = None
    subsampling: Literal["4:4:4", "4:2:0"] | None = None
    optimize: bool = True
    progressive: bool = False
    exact: bool = False
    threads: Count | None = None


def check_compress(config: CompressConfig) -> None:
    """Refuse settings that nothing could be compressed with.

    Raises:
        UsageError: names the setting.
    """
    if (config.model is None) == (config.tables is None):
        given = "neither" if config.model is None else "both"
        raise UsageError(f"tables come from --model RUN or from --tables FILE: one of them must be given, got {given}")
    if config.exact and config.progressive:
        raise UsageError("exact and progressive exclude each other: jpeglib writes levels to sequential files only; drop one")
    check_fields(config)
