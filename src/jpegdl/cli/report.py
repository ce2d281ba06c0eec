"""``jpegdl report``."""

from typing import TYPE_CHECKING, Any

from jpegdl.cli.command import Command
from jpegdl.cli.options import comparison_folder, finished_parser
from jpegdl.cli.output import say

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


class Report(Command):
    about = "Write everything that is known of a comparison on one page, its report.html. compare ends with this."
    example = "jpegdl report mine"

    def build(self) -> "ArgumentParser":
        return finished_parser("jpegdl report [NAME] [--output FOLDER]", self.about)

    def run(self, chosen: dict[str, Any]) -> None:
        folder = comparison_folder(chosen)  # before the imports, which take seconds
        from jpegdl.report import write_report

        say(f"Written to {write_report(folder)}")
