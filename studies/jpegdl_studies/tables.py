"""Tables in Markdown."""

from collections.abc import Iterable, Sequence
from statistics import fmean, stdev


def header(columns: Iterable[str]) -> str:
    """Return the first two lines of a table."""
    names = list(columns)
    return f"{row(names)}\n|{'---|' * len(names)}"


def row(cells: Iterable[object]) -> str:
    """Return a line of a table."""
    return f"| {' | '.join(map(str, cells))} |"


def percent(shares: Sequence[float]) -> str:
    """Return the mean of shares in percent, and the sample sd of several: ``49.0 ± 1.5``; empty for none."""
    if not shares:
        return ""
    spread = f" ± {100 * stdev(shares):.1f}" if len(shares) > 1 else ""
    return f"{100 * fmean(shares):.1f}{spread}"
