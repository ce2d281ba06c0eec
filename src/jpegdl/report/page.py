"""The page of a comparison, from the files of its run folder alone."""

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import jinja2
import matplotlib.style
import yaml

from jpegdl._version import __version__
from jpegdl.comparison.arms import ARMS
from jpegdl.comparison.figures import (
    accuracy_figure,
    compared_saturation_figure,
    compared_tables_figure,
    curves_figure,
    gains_figure,
)
from jpegdl.comparison.numbers import summary_notes, summary_rows, verdict
from jpegdl.comparison.summary import read_summary
from jpegdl.files import write_text
from jpegdl.report.classes import image_sections
from jpegdl.report.head import page_head
from jpegdl.report.section import PagePicture, Runs, Section, drawn, filled_columns
from jpegdl.runs import RunFolder

REPORT = "report.html"
COMMANDS = "commands.txt"  # the command lines that made what is in a folder
#: What other commands left in a run's folder, by a file of it, and what shows it: a module here, and its function.
_FOUND = (
    ("explain/explain.json", "explanations", "explained_sections"),
    ("attack.json", "robustness", "attacked_sections"),
    ("rate.json", "jpeg_files", "stored_sections"),
    ("files.json", "jpeg_files", "read_back_sections"),
)
MOST_ARMS = 8  # whose tables are shown, so that the page stays under 5 MB


def write_report(folder: Path) -> Path:
    """Write ``report.html`` into the folder of a comparison, of what its files say now; returns its path.

    The page is one file: it loads nothing, and is complete without JavaScript.

    Raises:
        UsageError: there is no comparison, or a file of it is missing or damaged.
    """
    with matplotlib.style.context("default"):  # whose colours the page knows; a user's style would stay light in the dark
        page = _page(folder, read_summary(folder))
    write_text(folder / REPORT, page)
    return folder / REPORT


def _page(folder: Path, summary: dict[str, Any]) -> str:
    """Return the page."""
    runs = {
        arm: {seed: RunFolder(folder / arm / str(seed)) for seed in entry["seeds"]} for arm, entry in summary["arms"].items()
    }
    settings = _text(folder / "compare.yaml")
    header, *rows = filled_columns(summary_rows(summary))
    return _template().render(
        name=summary["name"],
        verdict=verdict(summary),
        head=page_head(runs, summary),
        untuned=_untuned(summary),
        header=header,
        rows=[(row, _about(row[0], settings)) for row in rows],
        notes=[note for note in summary_notes(summary) if note],
        sections=[
            section for section in _sections(folder, runs, summary) if section.pictures or section.table or section.lines
        ],
        settings=settings,
        commands=_text(folder / COMMANDS),
        versions={"jpegdl": __version__, **summary["versions"]},
        machine=summary["machine"],
    )


def _untuned(summary: dict[str, Any]) -> str:
    """Return what is to be said where plain was not tuned."""
    tuned = summary.get("tuned")
    if (tuned and not tuned.get("changed")) or len(summary["arms"]) < 2 or summary["data"] == "made-up":
        return ""
    return (
        f"Plain was not tuned with jpegdl tune{' for this comparison' if tuned else ''}. Better settings may give plain part "
        "of a gain too. In our own runs on flowers they gave it most of the gain: see docs/explanation/results.md."
    )


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("jpegdl.report", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    return environment.get_template("page.html")


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""


def _about(arm: str, settings: str) -> str:
    """Return what an arm is, in a few words."""
    if arm in ARMS:
        return ARMS[arm].about
    own = (yaml.safe_load(settings) or {}).get("arms")
    entry = (
        own.get(arm) if isinstance(own, dict) else next((e[arm] for e in own or () if isinstance(e, dict) and arm in e), None)
    )
    return str((entry or {}).get("about", ""))


def _sections(folder: Path, runs: Runs, summary: dict[str, Any]) -> Iterator[Section]:
    """Return what there is to show, in the order of the page."""
    yield Section("How they compare", pictures=list(_comparing(runs, summary)))
    yield from image_sections(runs, summary)
    with_layer = [arm for arm, by_seed in runs.items() if by_seed and arm != "plain"]
    shown = _gaining_most(with_layer, summary)
    left = len(with_layer) - len(shown)
    more = f" These are the {len(shown)} arms that gained most; the folder has the tables of {left} more." if left else ""
    yield Section(
        "What was learned",
        "The quantization tables before and after training. A large step keeps little of its frequency, a small step much. "
        f"Rows are vertical frequencies, columns horizontal ones. The top left cell is the mean of the blocks.{more}",
        pictures=[picture for arm in shown for picture in _tables(arm, runs[arm])],
    )
    yield Section(
        "What the level cap does",
        "With fine steps, the level cap holds large coefficients back: the layer saturates more than it quantizes.",
        pictures=[picture for arm in shown for picture in _saturation(arm, runs[arm])],
    )
    for file, module, part in _FOUND:  # what there is nothing of is not imported
        if any((run.path / file).is_file() for by_seed in runs.values() for run in by_seed.values()):
            yield from getattr(import_module(f"jpegdl.report.{module}"), part)(runs)


def _gaining_most(arms: list[str], summary: dict[str, Any]) -> list[str]:
    """jpeg-dl and those that gained most, in the order of the table."""

    def gain(arm: str) -> float:
        difference = summary["arms"][arm]["difference"]
        return float("inf") if arm == "jpeg-dl" else difference["mean"] if difference else float("-inf")

    best = sorted(arms, key=gain, reverse=True)[:MOST_ARMS]
    return [arm for arm in arms if arm in best]


def _comparing(runs: Runs, summary: dict[str, Any]) -> Iterator[PagePicture]:
    if (gains := gains_figure(summary)) is not None:
        yield drawn(
            gains,
            "gains",
            "Difference of each arm's test accuracy from plain's, with intervals",
            "Test accuracy against the plain model, paired by seed. If an interval contains 0, the difference is not "
            "statistically significant.",
        )
    yield drawn(
        accuracy_figure(runs, summary),
        "accuracy",
        "Accuracy of each arm by epoch",
        "Accuracy by epoch, on the validation images or, without these, on the test images. The table compares the "
        "test after the last epoch.",
    )
    yield drawn(
        curves_figure(runs, summary, without=("test_accuracy",)),
        "curves",
        "Loss, training accuracy, mean step and saturation of each arm by epoch",
        "Other measurements by epoch: the losses, accuracy in training, the mean luma step, and the share of luma "
        "coefficients at the level cap.",
        wide=True,
    )


def _tables(arm: str, runs: dict[int, RunFolder]) -> Iterator[PagePicture]:
    if (figure := compared_tables_figure(arm, runs)) is not None:
        yield drawn(figure, f"tables-{arm}", f"Tables of {arm} before and after training", wide=True)


def _saturation(arm: str, runs: dict[int, RunFolder]) -> Iterator[PagePicture]:
    if (figure := compared_saturation_figure(arm, runs)) is not None:
        yield drawn(figure, f"saturation-{arm}", f"Share of coefficients of {arm} at the level cap", wide=True)
