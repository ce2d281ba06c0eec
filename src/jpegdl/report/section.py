"""What the page is made of: sections, pictures, and what all of them ask of a run."""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from matplotlib.figure import Figure

from jpegdl.report.svg import inline_svg
from jpegdl.runs import RunFolder
from jpegdl.runs.pieces import outdated
from jpegdl.statistics import paired_difference

Runs = dict[str, dict[int, RunFolder]]  # of each arm, by seed
Results = dict[str, dict[int, dict[str, Any]]]  # what was found of them


@dataclass(frozen=True)
class PagePicture:
    """A figure of the page."""

    html: str  # the element
    alt: str  # what it shows, for those who do not see it
    caption: str = ""  # how to read it
    wide: bool = False  # whether it keeps its width on a narrow screen, and scrolls there


@dataclass(frozen=True)
class Section:
    """A part of the page: a title and, below it, a text, a list of what was found, a table whose first row is its header, and
    pictures; without any of the last three it is left out."""

    title: str
    text: str = ""
    lines: list[str] = field(default_factory=list)
    table: list[list[str]] = field(default_factory=list)
    pictures: list[PagePicture] = field(default_factory=list)


def drawn(figure: Figure, name: str, alt: str, caption: str = "", *, wide: bool = False) -> PagePicture:
    prefix = "".join(character if character.isalnum() else "-" for character in name)
    return PagePicture(inline_svg(figure, prefix, alt), alt, caption, wide)


def current(
    runs: Runs, read: Callable[[RunFolder], dict[str, Any] | None], again: str, notes: list[str]
) -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Return what was found of all runs whose model is still the one that was looked at: arm, seed and what was found.

    Args:
        runs: of the comparison.
        read: what there is of a run; None where there is nothing.
        again: what happened to another model, and the command that does it to this one.
        notes: is told what was left out and, after each that was handed on, whether its images were others.
    """
    for arm, by_seed in runs.items():
        for seed, run in by_seed.items():
            if (found := read(run)) is None:
                continue
            if why := outdated(run, found, runs.get("plain", {}).get(seed)):
                notes.append(f"{arm}, seed {seed}: left out, as {why} since it {again} again.")
                continue
            yield arm, seed, found
            if found["other_images"]:
                notes.append(f"{arm}, seed {seed}: not the images that the run was tested with: {found['other_images']}.")


def each_run(results: dict[str, dict[int, dict[str, Any]]]) -> list[list[str]]:
    return [[arm, str(seed), str(result["images"])] for arm, by_seed in results.items() for seed, result in by_seed.items()]


def filled_columns(rows: list[list[str]]) -> list[list[str]]:
    """Return a table, whose first row is its header, without the columns that are empty below it."""
    return [[row[i] for i in range(len(row)) if any(other[i] for other in rows[1:])] for row in rows]


def mean_text(values: Sequence[float | None], factor: float = 100.0) -> str:
    """Write a mean ± sample sd, in percent or of what ``factor`` makes; "" where a value is not known."""
    known = [factor * value for value in values if value is not None]
    if len(known) < len(values):
        return ""
    digits = 1 if factor > 1 else 3
    spread = f" ± {statistics.stdev(known):.{digits}f}" if len(known) > 1 else ""
    return f"{statistics.fmean(known):.{digits}f}{spread}"


def difference_text(values: Sequence[float | None], base: Sequence[float | None], factor: float = 100.0) -> str:
    """Write a mean difference of pairs and its 95 % interval, in points; "" where there are none or a value is not known."""
    own, others = ([value for value in part if value is not None] for part in (values, base))
    if not own or (len(own), len(others)) != (len(values), len(base)):
        return ""
    found, digits = paired_difference(own, others), 1 if factor > 1 else 3
    mean, low, high = (None if (value := found[name]) is None else factor * value for name in ("mean", "low", "high"))
    return f"{mean:+.{digits}f}" + ("" if low is None else f" [{low:+.{digits}f}, {high:+.{digits}f}]")
