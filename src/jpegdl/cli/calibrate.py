"""``jpegdl calibrate``."""

from pathlib import Path
from typing import Any, Literal

from jpegdl.cli.command import Parser, WithSettings
from jpegdl.cli.options import model_file, picked_comparison
from jpegdl.cli.output import say
from jpegdl.errors import UsageError


class Calibrate(WithSettings):
    about = "Compute initial quantization tables from training images, and write them as JSON."
    more = (
        "The data and the backbone are those of the trained plain model, whose run folder --name, --output and --seed point "
        "to. Of the options below, --layer.q-max, images, calibration and bits say how to compute the tables; --data.path, "
        "--data.workers and --device say where to find the images and what to compute on. With --model, and for magnitude "
        "tables without a plain run, all options count."
    )
    example = "jpegdl calibrate mine --save tables.json"
    short = ("name", "output", "seed", "method", "save", "model", "layer.q_max", "layer.images", "data.path", "device")

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

    def run(self, chosen: dict[str, Any]) -> None:
        from jpegdl.comparison import calibrate_run
        from jpegdl.tables import write_tables

        config = picked_comparison(chosen)
        if not Path(chosen["save"]).absolute().parent.is_dir():
            raise UsageError(f"--save {chosen['save']}: the folder {Path(chosen['save']).parent} does not exist")
        method = chosen["method"] or ("magnitude" if config.layer.tables == "magnitude" else "sensitivity")
        luma, chroma = calibrate_run(config, chosen["seed"], method, model_file(chosen))
        write_tables(chosen["save"], {"luma": luma, "chroma": chroma}, bits=config.layer.bits, window=config.layer.window)
        for name, steps in (("luma", luma), ("chroma", chroma)):
            say(f"{name} (rows: vertical frequency)")
            say("\n".join(" ".join(f"{step:8.3g}" for step in row) for row in steps.tolist()))
        say(f"Written to {chosen['save']}")
