"""What the command prints."""

import os
import sys
from collections.abc import Sequence
from typing import Any

from jpegdl.errors import WIDTH, folded
from jpegdl.files import printable


def say(text: str) -> None:
    """Print it once, however many processes train."""
    if is_first_process():
        print(text)


def say_folded(text: str) -> None:
    """Print a sentence, or names one after the other, in lines of at most 80 characters."""
    say(folded(printable(text)))


def say_aside(text: str) -> None:
    """Print it once on stderr, beside what the command gives, and a blank line after it."""
    if is_first_process():
        print(f"{text}\n", file=sys.stderr, flush=True)


def is_first_process() -> bool:
    """Return whether this process is the one that speaks and writes, of several that train one model."""
    loaded = sys.modules.get("lightning.pytorch.utilities.rank_zero")  # where it is not, nothing was trained
    rank = getattr(loaded.rank_zero_only, "rank", 0) if loaded else int(os.environ.get("LOCAL_RANK", "0") or 0)
    return not rank


def print_error(text: str) -> None:
    """Print a line about what is wrong, beside the output."""
    print(f"jpegdl: {text}", file=sys.stderr)


def one_line(error: BaseException | Warning | str) -> str:
    """Return what an exception or a warning says, without what a traceback would add."""
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    if "Original Traceback" in text:
        # From a loader process the message comes wrapped in a traceback, the message itself last.
        text = text.rstrip().rpartition("\n")[2].partition(": ")[2]
    return " ".join(text.split())


def shown_table(summary: dict[str, Any]) -> str:
    """Return a comparison's table: on a terminal one that fits it, elsewhere the Markdown of ``summary.md``."""
    from jpegdl.comparison.numbers import narrow_table, summary_table

    return narrow_table(summary) if sys.stdout.isatty() else summary_table(summary)


def say_table(rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """Print rows of text in columns, the first ``left`` of them flush left, the others flush right.

    Where a line would have more than 80 characters, first cells that are too long have a line of their own.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
    room = WIDTH - sum(others) - 2 * len(others)
    if first > room:
        first = max((len(row[0]) for row in rows if len(row[0]) <= room), default=2)
    for row in rows:
        if len(row[0]) > first:
            say(row[0])
        cells = ["" if len(row[0]) > first else row[0], *row[1:]]
        aligned = [
            f"{cell:{'<' if i < left else '>'}{width}}"
            for i, (cell, width) in enumerate(zip(cells, [first, *others], strict=True))
        ]
        say("  ".join(aligned).rstrip())
