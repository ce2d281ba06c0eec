"""``jpegdl calibrate``."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jpegdl.cli.command import Parser, WithSettings
from jpegdl.cli.options import model_file, picked_comparison, refuse_idle, refuse_unlike
from jpegdl.cli.output import say, say_folded
from jpegdl.errors import UsageError
from jpegdl.settings import Count, NotNegative, Seed

if TYPE_CHECKING:
    from torch import Tensor


#: Options that count for the tables of files alone.
_FOR_FILES = ("reader", "photos", "mu", "images", "images_seed", "tries", "subsampling")
#: Settings of a layer that its first tables go by, or that their file names.
_OF_TABLES = tuple(f"layer.{name}" for name in ("kind", "tables", "q-max", "images", "calibration", "bits", "window"))


class Calibrate(WithSettings):
    about = "Compute quantization tables from images: a layer's first ones, or those of files for a network."
    more = (
        "The data and the backbone are those of a trained plain model: --name, --output and --seed say which. --layer.q-max, "
        "images, calibration and bits say how to compute the tables; --data.path, --data.workers and --device say where the "
        "images are and what to compute on. All other options count only with --model, and for magnitude tables without a "
        "plain run. With --reader and --photos you need no run: you get the tables with which JPEG files of such photos cost "
        "this network least, found by trying coarser and finer steps. Only --mu, --images, --tries, --subsampling, "
        "--images-seed, --device and --save count then."
    )
    example = "jpegdl calibrate mine --save tables.json"
    short = (
        *("name", "output", "seed", "method", "save", "model", "layer.q_max", "data.path", "device"),
        *("reader", "photos", "mu"),
    )

    def add(self, parser: Parser) -> None:
        parser.add_argument(
            "--method",
            type=Literal["sensitivity", "magnitude"] | None,
            default=None,
            help="sensitivity or magnitude (default: magnitude where layer.tables is magnitude, else sensitivity)",
        )
        parser.add_argument("--seed", type=int, default=0, help="seed of the plain run")
        parser.add_argument("--model", type=str | None, default=None, help="take the sensitivities of this model.safetensors")
        parser.add_argument("--save", type=str, default="tables.json", help="the file to write")
        of_reader = "instead of a comparison: find the tables of files for this network, or for several; see compress"
        parser.add_argument("--reader", type=str | None, default=None, help=of_reader)
        parser.add_argument("--photos", type=str | None, default=None, help="folder of photos for --reader; no labels are used")
        parser.add_argument("--mu", type=NotNegative, default=1.0, help="with --reader: what a bit per pixel is worth, in nats")
        parser.add_argument("--images", type=Count | None, default=128, help="with --reader: how many photos; null for all")
        parser.add_argument("--images-seed", type=Seed, default=0, help="with --reader: seed that draws them")
        parser.add_argument(
            "--tries", type=Count, default=30, help="with --reader: pairs of tables to try, each on files of all photos"
        )
        parser.add_argument(
            "--subsampling", type=Literal["4:4:4", "4:2:0"], default="4:2:0", help="with --reader: of chroma, in the files"
        )

    def run(self, chosen: dict[str, Any]) -> None:
        from jpegdl.comparison import calibrate_run
        from jpegdl.layer import layer_kind
        from jpegdl.tables import write_tables

        chosen["save"] = _place(chosen["save"], whole=chosen["reader"] is not None)
        if chosen["reader"] is not None or chosen["photos"] is not None:
            refuse_idle(self, chosen, [*_FOR_FILES, "device", "save"], "with --reader and --photos")
            _for_files(chosen)
            return
        refuse_idle(self, chosen, [name for name in chosen if name not in _FOR_FILES], "without --reader and --photos")
        config = picked_comparison(chosen)
        if chosen["model"] is None and (folder := config.run_folder("plain", chosen["seed"])).finished:
            refuse_unlike({**chosen, "arm": "plain"}, config, folder, _OF_TABLES)
        method = chosen["method"] or ("magnitude" if config.layer.tables == "magnitude" else "sensitivity")
        luma, chroma = calibrate_run(config, chosen["seed"], method, model_file(chosen))
        _say_tables(luma, chroma)
        meant_for = {name: getattr(config.layer, name) for name in ("bits", "window")}
        meant_for["subsampling"] = layer_kind(config.layer).subsampling or "4:4:4"
        write_tables(chosen["save"], {"luma": luma, "chroma": chroma}, **meant_for)
        say(f"Written to {chosen['save']}")


def _place(given: str, *, whole: bool) -> Path:
    """The file to write, which must be able to hold the tables, before a search that may take long."""
    from jpegdl.tables import TEXT, check_name

    file = Path(given).expanduser()
    if not file.absolute().parent.is_dir():
        raise UsageError(f"--save {given}: the folder {file.parent} does not exist")
    if file.is_dir():
        raise UsageError(f"--save {given} is a folder; give a file, such as tables.json in it")
    check_name(file)
    if file.suffix.lower() == TEXT and not whole:
        raise UsageError(
            f"--save {given}: a {TEXT} file holds whole numbers, and a layer's first tables are none; name it .json"
        )
    return file


def _say_tables(luma: "Tensor", chroma: "Tensor") -> None:
    for name, steps in (("luma", luma), ("chroma", chroma)):
        say(f"{name} (rows: vertical frequency)")
        say("\n".join(" ".join(f"{step:8.3g}" for step in row) for row in steps.tolist()))


def _for_files(chosen: dict[str, Any]) -> None:
    """The tables of files that cost a network least."""
    from jpegdl.codec import search_folder
    from jpegdl.runs.progress import Bar
    from jpegdl.tables import write_tables

    if chosen["reader"] is None or chosen["photos"] is None:
        missing = "reader" if chosen["reader"] is None else "photos"
        raise UsageError(f"--{missing} is missing: tables of files for a network take --reader MODEL and --photos FOLDER")
    with Bar(unit="files") as bar:
        there = search_folder(
            chosen["photos"],
            chosen["reader"],
            chosen["mu"],
            **{name: chosen[name] for name in ("subsampling", "images", "tries", "images_seed", "device")},
            progress=bar.show,
        )
    for why in there.bad:
        say_folded(f"left out: {why}")
    found = there.found
    _say_tables(found.luma, found.chroma)
    write_tables(chosen["save"], {"luma": found.luma, "chroma": found.chroma}, subsampling=chosen["subsampling"])
    say_folded(
        f"On {there.images} of {there.total} photos: {found.bits_per_pixel:.3f} bits per pixel, distance {found.distance:.3f}; "
        f"cost {found.cost:.3f}, of standard tables {found.standard_cost:.3f} at best (quality {found.quality})"
    )
    say_folded(f"Written to {chosen['save']}; jpegdl compress IN OUT --tables {chosen['save']} makes files with them")
