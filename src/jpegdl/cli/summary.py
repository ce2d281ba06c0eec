"""``jpegdl summary``."""

import json
from typing import TYPE_CHECKING, Any, Literal

from jpegdl.cli.command import Command
from jpegdl.cli.options import comparison_folder, finished_parser
from jpegdl.cli.output import shown_table

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


class Summary(Command):
    about = "Print the table of a comparison again, without training."
    example = "jpegdl summary mine"

    def build(self) -> "ArgumentParser":
        parser = finished_parser("jpegdl summary [NAME] [--output FOLDER] [--format FORMAT]", self.about)
        parser.add_argument(
            "--format", type=Literal["table", "csv", "latex", "json"], default="table", help="table, csv, latex or json"
        )
        return parser

    def run(self, chosen: dict[str, Any]) -> None:
        folder = comparison_folder(chosen)
        from jpegdl.comparison.numbers import summary_csv, summary_latex
        from jpegdl.comparison.summary import read_summary

        found = read_summary(folder)
        if chosen["format"] == "json":
            print(json.dumps(found, indent=1))
        else:
            written = {"table": shown_table, "csv": summary_csv, "latex": summary_latex}[chosen["format"]]
            print(written(found).rstrip())
