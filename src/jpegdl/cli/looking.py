"""The commands that look at what was trained: report."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jpegdl.cli.shared import add_comparison, say

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def report_parser(about: str) -> "ArgumentParser":
    from jpegdl.arguments import plain_parser

    parser = plain_parser("jpegdl report [--name NAME] [--output FOLDER]", about)
    add_comparison(parser)
    return parser


def report(chosen: dict[str, Any]) -> None:
    from jpegdl.report import write_report

    say(f"Written to {write_report(Path(chosen['output']).expanduser() / chosen['name'])}")
