"""``jpegdl report``."""

from typing import Any

from jpegdl.cli.command import OnComparison
from jpegdl.cli.options import comparison_folder
from jpegdl.cli.output import say


class Report(OnComparison):
    about = "Write everything that is known of a comparison on one page, its report.html. compare ends with this."
    usage = "[NAME] [--output FOLDER]"
    example = "jpegdl report mine"

    def run(self, chosen: dict[str, Any]) -> None:
        folder = comparison_folder(chosen)  # before the imports, which take seconds
        from jpegdl.report import write_report

        say(f"Written to {write_report(folder)}")
