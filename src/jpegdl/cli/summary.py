"""``jpegdl summary``."""

import json
from typing import Any, Literal

from jpegdl.cli.command import OnComparison, Parser
from jpegdl.cli.options import comparison_folder
from jpegdl.cli.output import shown_table


class Summary(OnComparison):
    about = "Print the table of a comparison again, without training."
    usage = "[NAME] [--output FOLDER] [--format FORMAT]"
    example = "jpegdl summary mine"

    def add(self, parser: Parser) -> None:
        parser.add_argument(
            "--format", type=Literal["table", "csv", "latex", "json"], default="table", help="table, csv, latex or json"
        )

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
