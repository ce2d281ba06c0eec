"""``jpegdl paired``."""

from typing import Any

from jpegdl.cli.command import Command, Parser
from jpegdl.cli.output import say, say_folded, say_table


class Paired(Command):
    about = "Compare arms seed by seed, from any CSV file with the columns arm, seed and accuracy."
    usage = "FILE [--baseline ARM] [--value COLUMN]"
    example = "jpegdl paired results.csv --baseline plain"

    def add(self, parser: Parser) -> None:
        from jpegdl.statistics import BASELINE, VALUE

        parser.add_argument("file", type=str, metavar="FILE", help="the CSV file, with a line for each run")
        parser.add_argument("--baseline", type=str, default=BASELINE, help="the arm that the others are compared with")
        parser.add_argument("--value", type=str, default=VALUE, help="the column to compare")

    def run(self, chosen: dict[str, Any]) -> None:
        from jpegdl.statistics import paired, paired_words

        found = paired(chosen["file"], baseline=chosen["baseline"], value=chosen["value"])
        several = len(found) > 1
        table = [["arm", "seeds", "difference", "t, 95 %", "bootstrap, 95 %", "p", *(["p (Holm)"] if several else [])]]
        for arm, entry in found.items():
            student = None if entry["low"] is None else (entry["low"], entry["high"])
            intervals = ["" if ends is None else f"[{ends[0]:+.3g}, {ends[1]:+.3g}]" for ends in (student, entry["bootstrap"])]
            ps = ["" if p is None else f"{p:.2g}" for p in (entry["p"], *([entry["p_holm"]] if several else []))]
            table.append([arm, str(len(entry["seeds"])), f"{entry['mean']:+.4g}", *intervals, *ps])
        say_table(table)
        for arm, entry in found.items():
            say("")
            say_folded(paired_words(arm, entry, baseline=chosen["baseline"], several=several))
