"""What ``jpegdl rate`` and ``jpegdl evaluate --from-files`` found, for the page."""

import statistics
from collections.abc import Iterator
from typing import Any

from jpegdl.codec import (
    RATE_COLUMNS,
    rate_comparisons,
    rate_figure,
    rate_notes,
    rate_rows,
    rate_table,
    read_file_report,
    read_rate,
    stored_in_words,
)
from jpegdl.errors import UsageError, how_many
from jpegdl.report.section import Results, Runs, Section, current, drawn, each_run, mean_text


def stored_sections(runs: Runs) -> Iterator[Section]:
    """Show what ``jpegdl rate`` found of all runs that it measured."""
    results: Results = {}
    lines: list[str] = []
    for arm, seed, result in current(runs, read_rate, "was measured; run jpegdl rate", lines):
        results.setdefault(arm, {})[seed] = result
    title = "Accuracy against the bits of real files"
    if not results:
        if lines:
            yield Section(title, lines=lines)
        return
    try:
        figure, compared, rows = rate_figure(results), rate_comparisons(results), rate_rows(results)
    except UsageError as error:  # measured in different ways
        lines.append(f"The runs cannot be compared: {error}.")
        yield Section(title, lines=lines, table=[["arm", "seed", "images"], *each_run(results)])
        return
    caption = (
        "Test accuracy and loss on decoded JPEG files against their bits per pixel, of learned tables and of default JPEG."
    )
    yield Section(
        title,
        "Every test image was stored as a JPEG file and decoded. The plain network reads default JPEG. The network of every "
        "other arm, without its layer, reads files with the arm's own tables, rounded to whole numbers. Bits are of whole "
        "files. The table has the mean difference between two curves at the same rate: accuracy in points, loss in nats, with "
        "95 % intervals over the test images and, if there are several, over seeds. It also has the smallest and the largest "
        "difference at any rate, and how many more or fewer bits the same accuracy or the same loss takes.",
        lines=[*lines, *rate_notes(compared)],
        table=[RATE_COLUMNS, *table] if (table := rate_table(compared)) else [],
        pictures=[drawn(figure, "rate", caption, caption)],
    )
    yield Section(
        "The points of these curves",
        table=[
            ["curve", "arm", "seed", "tables", "bits per pixel", "accuracy, %", "test loss, nats", "layer rounding, %"],
            *(
                [
                    row["curve"],
                    row["arm"],
                    str(row["seed"]),
                    row["tables"],
                    f"{row['bits_per_pixel']:.3f}",
                    f"{100 * row['accuracy']:.2f}",
                    "" if row["loss"] is None else f"{row['loss']:.3f}",
                    "" if row["hard"] is None else f"{100 * row['hard']:.2f}",
                ]
                for row in rows
            ),
        ],
    )


def read_back_sections(runs: Runs) -> Iterator[Section]:
    """Show what ``jpegdl evaluate --from-files`` found; files of different kinds are kept apart."""
    lines: list[str] = []
    alike: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    again = "read the files; run jpegdl evaluate --from-files"
    for arm, seed, found in current(runs, read_file_report, again, lines):
        stored = found["stored"]
        words = f". {found['carried']['words']}" if stored["tables"] == "own" else ""
        files = f"{how_many(stored['test']['images'], 'file')} in {found['files']}"
        lines.append(f"{arm}, seed {seed}: {files}, {stored_in_words(stored)}{words}.")
        if stored.get("images"):
            lines.append(f"{arm}, seed {seed}: {stored['images']}")
        same: list[Any] = [[row["name"], row["images"]] for row in found["rows"]]
        same += [found["other_images"], "" if stored["tables"] == "own" else stored["digest"]]
        alike.setdefault((arm, stored_in_words(stored), repr(same)), []).append(found)
    if not lines:
        return
    if any(sum(other == arm for other, *_ in alike) > 1 for arm, *_ in alike):
        lines.append("Seeds that read other kinds of files, or other images, have rows of their own.")
    rows = [["arm", "files", "what is read", "accuracy, %", "images", "bits per pixel", "times smaller than raw", "seeds"]]
    for (arm, words, _), some in alike.items():
        for each in zip(*(found["rows"] for found in some), strict=True):
            bits = [row["bits_per_pixel"] for row in each if row["bits_per_pixel"]]
            rate = (
                [f"{statistics.fmean(bits):.2f}", f"{24 / statistics.fmean(bits):.2f}"] if len(bits) == len(each) else ["", ""]
            )
            accuracy = mean_text([row["accuracy"] for row in each])
            seeds = ", ".join(str(found["seed"]) for found in some)
            rows.append([arm, words, each[0]["name"], accuracy, str(each[0]["images"]), *rate, seeds])
    yield Section(
        "In real JPEG files",
        "The first row is the model as it was trained; in the row hard its layer rounds. Real files replace the layer, or the "
        "whole model reads them (layer kept). Accuracies are means over the named seeds, ± sample sd.",
        lines=lines,
        table=rows if len(rows) > 1 else [],
    )
