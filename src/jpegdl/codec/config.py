"""How to compress a folder."""

from dataclasses import dataclass
from typing import Annotated, Literal

from jpegdl.errors import UsageError
from jpegdl.settings import Count, NotNegative, Positive, Quality, Range, check_fields

_OF_READERS = ("judge", "mu", "bits_per_pixel", "agree", "floor")
PICTURE = "compress.png"  # beside it, of files for readers: those furthest from their originals
MANIFEST = "compress.json"  # in a folder of compressed images: which settings made them


@dataclass
class CompressConfig:
    """Which tables to write JPEG files with, and how; or which networks choose and shape each file.

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
        threads: images in work at the same time. Default: one for each processor core that this process may use; with readers
            as many as they look at together.
        reader: in place of tables, or at efforts 2 and 3 beside them: the network that files are made for, or several with
            commas between: a run's folder, a name of timm's or torchvision/NAME (with its published weights; NAME@FILE for
            yours), a folder of Hugging Face's, module:make; features: in front of a network that gives features. Its answers
            on the originals count, no labels.
        judge: a network that has no say, or several, and says at the end what it makes of the files.
        effort: 0 makes files with tables alone; with readers, 1 chooses the quality of each photo, 2 among more kinds of files,
            3 moves the rounding by the readers' gradient too. Default: 1 with readers, else 0.
        mu: nats of the readers' answers that a bit per pixel is worth: more makes smaller files. Default: 1.
        bits_per_pixel: in place of mu: of all files together.
        agree: in place of mu: the share of photos whose first answer is to stay, such as 0.99.
        robust: make files that other networks read well too: no choice by a single quality's luck, gradients over several
            views, a floor of quality.
        floor: the lowest quality of a photo, and that of what no reader sees of it. Default: 10 where robust, else 6.
        several: of several readers, whether the mean of their distances counts or the worst.
        rounds: of gradient, at effort 3.
        device: where readers compute: auto (a GPU where there is one), cpu, cuda, ...
    """

    model: str | None = None
    tables: str | None = None
    subsampling: Literal["4:4:4", "4:2:0"] | None = None
    optimize: bool = True
    progressive: bool = False
    exact: bool = False
    threads: Count | None = None
    reader: str | None = None
    judge: str | None = None
    effort: Literal[0, 1, 2, 3] | None = None
    mu: NotNegative | None = None
    bits_per_pixel: Positive | None = None
    agree: Annotated[float, Range(0, 1)] | None = None
    robust: bool = True
    floor: Quality | None = None
    several: Literal["mean", "worst"] = "mean"
    rounds: Count = 4
    device: str = "auto"


def check_compress(config: CompressConfig) -> None:
    """Refuse settings that nothing could be compressed with.

    Raises:
        UsageError: names the setting.
    """
    given = [name for name in ("model", "tables") if getattr(config, name) is not None]
    if len(given) > 1 or not (given or config.reader):
        raise UsageError(
            "tables come from --model RUN or from --tables FILE, or --reader MODEL chooses them: one of them must be given, "
            f"got {'both' if given else 'neither'}"
        )
    check_fields(config)
    if config.reader is None:
        of_readers = [name for name in _OF_READERS if getattr(config, name) is not None] + ["effort"] * bool(config.effort)
        if of_readers:
            raise UsageError(f"{', '.join(of_readers)} needs --reader MODEL, whose answers count")
        if config.exact and config.progressive:
            raise UsageError(
                "exact and progressive exclude each other: jpeglib writes levels to sequential files only; drop one"
            )
        return
    if given and config.effort not in (2, 3):
        raise UsageError(f"{given[0]} beside --reader is one more kind of files to choose from, at effort 2 or 3")
    if config.effort == 0:
        raise UsageError("effort 0 makes files with tables alone: give --tables or --model, or an effort from 1 to 3")
    if wrong := [name for name in ("exact", "progressive") if getattr(config, name)] + ["optimize"] * (not config.optimize):
        raise UsageError(f"{', '.join(wrong)}: files for readers are sequential, with codes that fit; drop it, or the reader")
    targets = [name for name in ("mu", "bits_per_pixel", "agree") if getattr(config, name) is not None]
    if len(targets) > 1:
        raise UsageError(f"one of mu, bits_per_pixel and agree says how small files are to be, got {' and '.join(targets)}")
