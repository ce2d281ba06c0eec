"""``jpegdl export``."""

from typing import Any, Literal

from jpegdl.cli.command import Parser, WithSettings
from jpegdl.cli.options import RUN, add_run, check_which, picked_comparison, refuse_unlike
from jpegdl.cli.output import say


class Export(WithSettings):
    about = "Export a finished run's model as ONNX, for torch.export or for AOTInductor, and check the file."
    more = (
        "--name, --output, --arm and --seed say which run. The options of a comparison, below, have no effect: those that are "
        "not the run's own are refused."
    )
    usage = "[NAME] [--KEY VALUE ...] FILE"
    example = "jpegdl export mine model.onnx"
    extra = "export"
    short = ("file", *RUN, "format", "size", "dynamic_size", "rounding")

    def add(self, parser: Parser) -> None:
        from jpegdl.layer import Rounding

        add_run(parser)
        parser.add_argument("file", type=str, metavar="FILE", help="the file to write, such as model.onnx or model.pt2")
        parser.add_argument(
            "--format",
            type=Literal["onnx", "torch", "aotinductor"] | None,
            default=None,
            help="onnx, torch (torch.export) or aotinductor (default: onnx for a file named .onnx, torch for .pt2)",
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
        check_which(chosen, config)
        check_run(config, chosen["arm"], chosen["seed"])
        folder = config.run_folder(chosen["arm"], chosen["seed"])
        refuse_unlike(chosen, config, folder)
        options = {name: chosen[name] for name in ("size", "format", "dynamic_size", "rounding")}
        check = export_run(folder, chosen["file"], **options)
        sizes = " and ".join(f"{height}x{width}" for height, width in check.sizes)
        say(
            f"Checked against PyTorch on {check.images} photographs ({sizes} pixels): logits differ by at most "
            f"{check.difference:.1e} (allowed {check.allowed:.1e}), the same class for {100 * check.agreement:.1f} %"
        )
        say(f"Written to {chosen['file']}")
