"""How to compress a folder."""

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from jpegdl.errors import UsageError
from jpegdl.settings import Count, NotNegative, Positive, Quality, Range, check_fields

_OF_READERS = ("judge", "effort", "mu", "bits_per_pixel", "agree", "robust", "floor", "several", "rounds", "device")
#: Beside it, of files for readers: those furthest from their originals. No image, or who trains on the folder would meet it.
PICTURE = "compress.html"
MANIFEST = "compress.json"  # in a folder of compressed images: which settings made them


@dataclass
class CompressConfig:
    """How to write JPEG files: with which tables, or for which networks.

    Args:
        model: folder of the run whose steps become the tables.
        tables: instead of a run: standard:Q for the standard tables at quality Q, 1 to 100, or a file. The file may be JSON,
            .txt in libjpeg's text format (cjpeg -qtables), or a JPEG file, whose tables are taken.
        subsampling: of chroma: 4:4:4, or 4:2:0 (half the height and width). Default: as in the run's layer or in the file of
            tables, else 4:4:4; with readers 4:2:0.
        optimize: fit the Huffman codes to each image. This makes smaller files with the same pixels, and takes more time.
        progressive: write progressive files.
        exact: compute levels as the layer does, in float32 and within its level cap. This takes jpeglib (pip install
            '.[codec]' in a checkout) and more time. Otherwise libjpeg computes them, without the cap.
        threads: how many images to encode at the same time. Default: one for each processor core that this process may use;
            with readers, as many as these read together.
        reader: make files for this network, or for several, separated by commas. It may be a run's folder, timm's name of a
            model, torchvision/NAME, NAME@FILE with your own weights, a folder that save_pretrained wrote, or module:make.
            Put features: in front to compare features instead of classes. Its answers on the originals count; labels do not.
            It replaces tables, or joins them at effort 2 and 3.
        judge: another network, or several. It has no say in the files; at the end it says how well it reads them.
        effort: 0 makes files from tables alone. With readers, 1 chooses a quality for each photo, 2 chooses among more kinds of
            files, and 3 also moves the rounding along the readers' gradients. Default: 1 with readers, else 0.
        mu: what a bit per pixel is worth, in nats of the readers' answers. More makes smaller files. Default: 1.
        bits_per_pixel: instead of mu: the bits per pixel of all files together.
        agree: instead of mu: the share of photos whose first answer must stay, such as 0.99.
        robust: make files that other networks read well too: allow for what these may lose more, and at effort 3 take gradients
            over several views.
        floor: the lowest quality of a photo. Parts of a photo that no reader sees get this quality. Default: 6, but 10 for such
            parts if robust.
        several: with several readers, whether the mean of their distances counts, or the worst.
        rounds: how many steps along the gradient, at effort 3.
        device: what readers compute on: auto (a GPU where there is one), cpu, cuda, ...
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
            "give one of --model RUN and --tables FILE, which hold tables, or --reader MODEL, which chooses them; "
            f"got {'both' if given else 'neither'}"
        )
    check_fields(config)
    unusual = [setting.name for setting in fields(config) if getattr(config, setting.name) != setting.default]
    if config.reader is None:
        if of_readers := [name for name in unusual if name in _OF_READERS and (name, config.effort) != ("effort", 0)]:
            need = "needs" if len(of_readers) == 1 else "need"
            raise UsageError(f"{', '.join(of_readers)} {need} --reader MODEL, whose answers count")
        if config.exact and config.progressive:
            raise UsageError(
                "exact and progressive cannot be combined: jpeglib writes levels to sequential files only; drop one"
            )
        return
    if given and config.effort not in (2, 3):
        raise UsageError(f"{given[0]} with --reader offers the reader more tables to choose from, which needs effort 2 or 3")
    if config.effort == 0:
        raise UsageError("effort 0 makes files from tables alone: give --tables or --model, or an effort from 1 to 3")
    if wrong := [name for name in ("exact", "progressive") if getattr(config, name)] + ["optimize"] * (not config.optimize):
        raise UsageError(f"{', '.join(wrong)}: files for readers are sequential, with optimal codes; drop it, or the reader")
    if "rounds" in unusual and config.effort != 3:
        raise UsageError("rounds are steps along the gradient, which need effort 3")
    if "several" in unusual and "," not in config.reader:
        raise UsageError("several says how the distances of several readers count, and there is one: give more, or drop it")
    targets = [name for name in ("mu", "bits_per_pixel", "agree") if getattr(config, name) is not None]
    if len(targets) > 1:
        raise UsageError(f"give only one of mu, bits_per_pixel and agree, got {' and '.join(targets)}")
