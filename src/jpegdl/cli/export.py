"""``jpegdl export``."""

from typing import Any

from jpegdl.cli.command import Parser, WithSettings
from jpegdl.cli.options import RUN, add_run, picked_comparison
from jpegdl.cli.output import say


class Export(WithSettings):
    about = "Export a finished run's model, as ONNX or for torch.export, and check the file."
    more = "Of the options below, --name, --output, --arm and --seed say which run; all others count for nothing."
    usage = "[NAME] [--KEY VALUE ...] FILE"
    example = "jpegdl export mine model.onnx"
    extra = "export"
    short = ("file", *RUN, "size", "dynamic_size", "rounding")

    def add(self, parser: Parser) -> None:
        from jpegdl.layer import Rounding

        add_run(parser)
        parser.add_argument(
            "file", type=str, metavar="FILE", help="the file to write: model.onnx, or model.pt2 for torch.export"
        )
        parser.add_argument(
            "--size", type=int | list[int] | None, default=None, help="pixels, or height,width (default: as trained)"
        )
        parser.add_argument(
            "--dynamic-size", type=bool, default=False, help="take any size that is a multiple of 8 (of 16 with 4:2:0)"
        )
        parser.add_argument("--rounding", type=Rounding | None, default=None, help="export with this quantizer, such as hard")

    def run(self, chosen: dict[str, Any]) -> None:
        from jpegdl.comparison.config import check_run
        from jpegdl.export import export_run

        config = picked_comparison(chosen)
        check_run(config, chosen["arm"], chosen["seed"])
        options = {name: chosen[name] for name in ("size", "dynamic_size", "rounding")}
        check = export_run(config.run_folder(chosen["arm"], chosen["seed"]), chosen["file"], **options)
        sizes = " and ".join(f"{height}x{width}" for height, width in check.sizes)
        say(
            f"Checked against PyTorch on {check.images} photographs ({sizes} pixels): logits differ by at most "
            f"{check.difference:.1e} (allowed {check.allowed:.1e}), the same class for {100 * check.agreement:.1f} %"
        )
        say(f"Written to {chosen['file']}")
