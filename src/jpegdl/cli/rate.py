"""``jpegdl rate``."""

from itertools import groupby
from pathlib import Path
from typing import Any, Literal

from jpegdl.cli.command import OnComparison, Parser
from jpegdl.cli.options import add_seeds, comparison_folder, note_command, pick, refuse_idle, typed
from jpegdl.cli.output import say, say_folded, say_table
from jpegdl.errors import UsageError, how_many

#: Options that count for any network, and for that and a comparison.
_WITH_PHOTOS = ("model", "photos", "reader", "judge", "effort", "tables", "mus", "robust", "to")
_WITH_BOTH = ("images", "images_seed", "qualities", "subsampling", "device")


class Rate(OnComparison):
    about = "Measure accuracy on real JPEG files at each file size, for a comparison's runs or for any network."
    example = "jpegdl rate mine"
    short = (
        *("model", "photos", "reader", "judge"),
        *("name", "arms", "seeds", "images", "qualities", "subsampling", "data.path", "device"),
    )
    resumes = "point"

    def add(self, parser: Parser) -> None:
        from jpegdl.codec import CurveConfig

        parser.add_argument("--arms", type=list[str] | None, default=None, help="which arms (default: all that fit files)")
        add_seeds(parser)
        parser.add_class_arguments(CurveConfig)
        parser.add_argument("--model", type=str | None, default=None, help="instead of a comparison: any network; see compress")
        parser.add_argument("--photos", type=str | None, default=None, help="folder of photos for --model")
        parser.add_argument("--reader", type=str | None, default=None, help="network to make files for, beside default JPEG")
        parser.add_argument("--judge", type=str | None, default=None, help="other networks that read all files too")
        parser.add_argument("--effort", type=Literal[1, 2, 3], default=1, help="effort for the reader's files, as in compress")
        of_tables = "more tables for the reader to choose from, at effort 2 or 3; as in compress"
        parser.add_argument("--tables", type=str | None, default=None, help=of_tables)
        parser.add_argument("--mus", type=list[float] | None, default=None, help="values of mu to make them with")
        parser.add_argument("--robust", type=bool, default=True, help="as in compress")
        parser.add_argument("--to", type=str, default="rate", help="folder to write rate.csv, .json and .png to, with --photos")

    def run(self, chosen: dict[str, Any]) -> None:
        from jpegdl.codec import CurveConfig, rate_comparison, rate_text
        from jpegdl.runs.progress import Bar

        if chosen["model"] is not None or chosen["photos"] is not None:
            refuse_idle(self, chosen, [*_WITH_PHOTOS, *_WITH_BOTH], "with --model and --photos")
            _any_network(chosen)
            return
        without = [name for name in chosen if name not in _WITH_PHOTOS]
        refuse_idle(self, chosen, without, "without --model and --photos")
        folder = comparison_folder(chosen)
        with Bar(unit="points") as bar:
            found = rate_comparison(
                folder, pick(CurveConfig, chosen), arms=chosen["arms"], seeds=chosen["seeds"], progress=bar.show
            )
        for why in found.left_out:
            say_folded(f"left out: {why}")
        table = [["curve", "arm", "seed", "tables", "bits per pixel", "accuracy, %", "loss"]]
        for row in found.rows:
            numbers = f"{row['bits_per_pixel']:.3f}", f"{100 * row['accuracy']:.2f}", f"{row['loss']:.3f}"
            table.append([row["curve"], row["arm"], str(row["seed"]), row["tables"], *numbers])
        say_table(table, left=2)
        for between in found.compared:
            say_folded(rate_text(between))
        note_command(folder, chosen)
        say_folded(f"Written to {folder}: {', '.join(file.name for file in found.files)}; jpegdl report adds them to its page")


def _any_network(chosen: dict[str, Any]) -> None:
    """What files of a folder of photos cost a network that no run here trained."""
    from jpegdl.codec import PhotoRateConfig, rate_photos, write_photo_rate
    from jpegdl.runs.progress import Bar

    if chosen["model"] is None or chosen["photos"] is None:
        missing = "model" if chosen["model"] is None else "photos"
        raise UsageError(f"--{missing} is missing: any network takes --model MODEL and --photos FOLDER")
    names = ("model", "photos", "reader", "judge", "effort", "tables", "robust", "images_seed", "device")
    given = {name: chosen[name] for name in names}
    given |= {"subsampling": "4:2:0" if chosen["subsampling"] == "both" else chosen["subsampling"]}
    words = typed(chosen)
    given |= {name: chosen[name] for name in ("images", "qualities") if f"--{name}" in words}  # whose defaults are others here
    if chosen["mus"] is not None:
        given["mus"] = chosen["mus"]
    config, to = PhotoRateConfig(**given), Path(chosen["to"]).expanduser()
    if to.resolve().is_relative_to(Path(config.photos).expanduser().resolve()):
        raise UsageError(
            f"--to {to} is inside {config.photos}, and its picture would be a photo of the next call: give a folder beside it"
        )
    with Bar(unit="photos") as bar:
        found = rate_photos(config, bar.show, to / "pieces")
    for why in found.bad:
        say_folded(f"left out: {why}")
    for (files, read_by), rows_of_it in groupby(found.rows, lambda row: (row["files"], row["read_by"])):
        default = files == "default"
        say(f"{'default JPEG' if default else f'files {files}'}, read by {read_by}")
        several = list(rows_of_it)
        points = f"points of {of}" if (of := several[0]["points_of"]) else "points"
        table = [["quality" if default else "mu", "bits per pixel", "MB", "agreement, %", "distance", points]]
        for row in several:
            agreement, points = "", ""
            if row["points"] is not None:
                agreement = f"{100 * row['agreement']:.1f}"
                points = f"{row['points']:+.1f} [{row['points_low']:.1f}, {row['points_high']:.1f}]"
            numbers = f"{row['bits_per_pixel']:.3f}", f"{row['megabytes']:.2f}", agreement, f"{row['distance']:.3f}", points
            table.append([f"{row['setting']:g}", *numbers])
        say_table(table, left=0)
        say("")
    for line in found.lines:
        say_folded(line)
    what = " or ".join(sorted({f"of {row['points_of']}" for row in found.rows if row["points_of"]}))
    if "agreement" in what:
        what += " (where the folders are not a network's classes)"
    some = (
        f"{found.images} of {how_many(found.total, 'photo')}" if found.images < found.total else how_many(found.total, "photo")
    )
    say_folded(f"Points are {what}, against the originals, over {some}, with 95 % intervals" if what else f"Over {some}")
    files = write_photo_rate(found, config, to)
    say_folded(f"Written: {', '.join(map(str, files))}")
