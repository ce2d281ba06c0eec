"""``jpegdl rate``."""

from typing import TYPE_CHECKING, Any

from jpegdl.cli.command import Command
from jpegdl.cli.options import add_seeds, comparison_folder, finished_parser, note_command, pick
from jpegdl.cli.output import say, say_table

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


class Rate(Command):
    about = "Set the accuracy on real JPEG files against their bits per pixel, of learned tables and of default JPEG."
    example = "jpegdl rate mine"
    short = ("name", "arms", "seeds", "images", "qualities", "subsampling", "data.path", "device")
    resumes = "point"

    def build(self) -> "ArgumentParser":
        from jpegdl.codec import CurveConfig

        parser = finished_parser("jpegdl rate [NAME] [--KEY VALUE ...]", self.about)
        parser.add_argument("--arms", type=list[str] | None, default=None, help="whose (default: all that files can stand for)")
        add_seeds(parser)
        parser.add_class_arguments(CurveConfig)
        return parser

    def run(self, chosen: dict[str, Any]) -> None:
        from jpegdl.codec import CurveConfig, rate_comparison, rate_text
        from jpegdl.runs.progress import Bar

        folder = comparison_folder(chosen)
        with Bar(unit="points") as bar:
            found = rate_comparison(
                folder, pick(CurveConfig, chosen), arms=chosen["arms"], seeds=chosen["seeds"], progress=bar.show
            )
        for why in found.left_out:
            say(f"left out: {why}")
        table = [["curve", "arm", "seed", "tables", "bits per pixel", "accuracy, %", "loss"]]
        for row in found.rows:
            numbers = f"{row['bits_per_pixel']:.3f}", f"{100 * row['accuracy']:.2f}", f"{row['loss']:.3f}"
            table.append([row["curve"], row["arm"], str(row["seed"]), row["tables"], *numbers])
        say_table(table, left=2)
        for between in found.compared:
            say(rate_text(between))
        note_command(folder, chosen)
        say(f"Written to {folder}: {', '.join(file.name for file in found.files)}; jpegdl report adds them to its page")
