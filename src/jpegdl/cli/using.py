"""The commands that use what was trained: predict, export, summary."""

import json
from typing import TYPE_CHECKING, Any, Literal

from jpegdl.cli.shared import add_comparison, add_run, comparison_folder, one_line, print_error, say, settings, settings_parser
from jpegdl.errors import UsageError
from jpegdl.files import as_text

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def predict_parser(about: str) -> "ArgumentParser":
    from jpegdl.parsing import plain_parser

    parser = plain_parser("jpegdl predict [--name NAME] [--KEY VALUE ...] PHOTO [PHOTO ...]", about)
    parser.add_argument("photos", type=str, nargs="+", metavar="PHOTO", help="image files, and folders of them")
    add_comparison(parser)
    parser.add_argument("--arm", type=str | None, default=None, help="which arm (default: jpeg-dl)")
    parser.add_argument("--seed", type=int | None, default=None, help="which seed (default: the lowest there is)")
    parser.add_argument("--top", type=int, default=1, help="how many of the likeliest classes to print")
    parser.add_argument("--device", type=str | None, default=None, help="cpu, cuda, ... (default: cuda where there is one)")
    parser.add_argument("--json", action="store_true", help="print a JSON object for each photo, one a line")
    return parser


def predict(chosen: dict[str, Any]) -> None:
    import torch

    from jpegdl.classifier import ARM, find_photos, load
    from jpegdl.runs import finished_runs

    folder = comparison_folder(chosen)
    if chosen["arm"] is not None or chosen["seed"] is not None:
        arm, seed = chosen["arm"] or ARM, chosen["seed"]
        if not (folder / arm / ("" if seed is None else str(seed))).is_dir():
            finished_runs(folder, [arm], None if seed is None else [seed])  # which says what there is
        folder = folder / arm / ("" if seed is None else str(seed))
    model = load(folder, chosen["device"] or ("cuda" if torch.cuda.is_available() else "cpu"))
    photos = find_photos(chosen["photos"])
    widths = [max(map(len, names)) for names in (["photo", *map(str, photos)], ["label", *model.classes])]
    unread, header = 0, "" if chosen["json"] else f"{'photo':{widths[0]}}  {'label':{widths[1]}}  probability"
    for photo, found in zip(photos, model.predict_each(photos, chosen["top"]), strict=True):
        if header and not isinstance(found, UsageError):
            print(header)
            header = ""
        if isinstance(found, UsageError):
            unread += 1
            print_error(f"error: {one_line(found)}")
        elif chosen["json"]:
            print(json.dumps({"photo": as_text(str(photo)), "labels": found.labels, "probabilities": found.probabilities}))
        else:
            for rank, (label, share) in enumerate(zip(found.labels, found.probabilities, strict=True)):
                print(f"{'' if rank else str(photo):{widths[0]}}  {label:{widths[1]}}  {100 * share:9.2f} %")
    if unread:
        raise UsageError(f"{unread} of {len(photos)} photos cannot be read")


def export_parser(about: str) -> "ArgumentParser":
    parser = settings_parser(
        "jpegdl export [--name NAME] [--KEY VALUE ...] FILE",
        f"{about} Of the options below, --name, --output, --arm and --seed say which run; all others count for nothing.",
    )
    add_run(parser)
    parser.add_argument("file", type=str, metavar="FILE", help="the file to write, such as model.onnx or model.pt2")
    parser.add_argument(
        "--format",
        type=str | None,
        default=None,
        help="onnx, torch (torch.export) or aotinductor (default: onnx for a file named .onnx, torch for .pt2)",
    )
    parser.add_argument(
        "--size", type=int | list[int] | None, default=None, help="pixels, or '[height, width]' (default: as trained)"
    )
    parser.add_argument(
        "--dynamic_size", type=bool, default=False, help="take images of any size that is a multiple of 8 (of 16 with 4:2:0)"
    )
    parser.add_argument("--rounding", type=str | None, default=None, help="export with this quantizer, such as hard")
    return parser


def export(chosen: dict[str, Any]) -> None:
    from jpegdl.comparison.config import check_run
    from jpegdl.export import export_run

    config = settings(chosen)
    check_run(config, chosen["arm"], chosen["seed"])
    options = {name: chosen[name] for name in ("size", "format", "dynamic_size", "rounding")}
    check = export_run(config.run_folder(chosen["arm"], chosen["seed"]), chosen["file"], **options)
    sizes = " and ".join(f"{height}x{width}" for height, width in check.sizes)
    say(
        f"Checked against PyTorch on {check.images} photographs ({sizes} pixels): logits differ by at most "
        f"{check.difference:.1e} (allowed {check.allowed:.1e}), the same class for {100 * check.agreement:.1f} %"
    )
    say(f"Written to {chosen['file']}")


def summary_parser(about: str) -> "ArgumentParser":
    from jpegdl.parsing import plain_parser

    parser = plain_parser("jpegdl summary [--name NAME] [--output FOLDER] [--format FORMAT]", about)
    add_comparison(parser)
    parser.add_argument("--format", type=Literal["table", "csv", "latex", "json"], default="table", help="how to print it")
    return parser


def summary(chosen: dict[str, Any]) -> None:
    from jpegdl.comparison.statistics import summary_csv, summary_latex, summary_table
    from jpegdl.comparison.summary import read_summary

    found = read_summary(comparison_folder(chosen))
    if chosen["format"] == "json":
        print(json.dumps(found, indent=1))
    else:
        written = {"table": summary_table, "csv": summary_csv, "latex": summary_latex}[chosen["format"]]
        print(written(found).rstrip())
