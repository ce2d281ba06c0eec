"""Pictures of a comparison: accuracy curves, tables before and after, saturation per frequency."""

import csv
import json
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jpegdl.files import replacing

Array = np.ndarray[Any, np.dtype[np.float64]]


def draw_figures(folder: Path, runs: dict[str, list[Path]], arms: dict[str, Any]) -> None:
    """Draw ``accuracy.png`` and ``gains.png``, and of each arm with a quantizer ``tables-ARM.png`` and ``saturation-ARM.png``.

    Args:
        folder: where to.
        runs: of each arm, the finished run folders, one a seed.
        arms: what :func:`jpegdl.compare.statistics.summarize` says of each.
    """
    _save(_accuracy(runs), folder / "accuracy.png")
    if len(arms) > 1:
        _save(_gains(arms), folder / "gains.png")
    for arm, folders in runs.items():
        saturation = [json.loads((run / "result.json").read_text())["saturation"] for run in folders]
        if None in saturation:
            continue  # no quantizer
        _save(_saturation(arm, np.mean(saturation, axis=0), len(folders)), folder / f"saturation-{arm}.png")
        tables = [json.loads((run / "tables.json").read_text()) for run in folders]
        if all(np.shape(entry["after"]["luma"]) == (8, 8) for entry in tables):  # regions have many
            _save(_tables(arm, tables), folder / f"tables-{arm}.png")


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as file:
        figure.savefig(file, dpi=90, facecolor="white")


def _accuracy(runs: dict[str, list[Path]]) -> Figure:
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    colours = cycle(matplotlib.colormaps["tab10"].colors)  # type: ignore[attr-defined]
    styles = ("-", "--", ":")
    for i, (arm, colour) in enumerate(zip(runs, colours, strict=False)):
        curves = []
        for run in runs[arm]:
            with (run / "metrics.csv").open() as stream:
                rows = [row for row in csv.DictReader(stream) if row.get("test_accuracy")]
            epochs = [int(row["epoch"]) for row in rows]
            curves.append([100 * float(row["test_accuracy"]) for row in rows])
            axes.plot(epochs, curves[-1], color=colour, alpha=0.3, linewidth=0.8)
        mean = np.mean(curves, axis=0)
        label, style = f"{arm}: {mean[-1]:.1f} %", styles[i // 10 % len(styles)]
        axes.plot(epochs, mean, color=colour, linestyle=style, linewidth=2, marker="o", markersize=4, label=label)
    axes.set(xlabel="epoch", ylabel="test accuracy, %", title="Mean over seeds (thin: each seed)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    if len(runs) <= 10:
        axes.legend(loc="lower right")
    else:
        figure.set_size_inches(10, 6)
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    return figure


def _gains(arms: dict[str, Any]) -> Figure:
    """Each arm's difference to plain: of each seed, their mean and its 95 % interval."""
    others = [arm for arm in arms if arm != "plain"]
    figure = Figure(figsize=(7, 1.2 + 0.28 * len(others)), layout="constrained")
    axes = figure.subplots()
    plain = arms["plain"]["accuracy"]
    for row, arm in enumerate(others):
        gain = arms[arm]["difference"]
        each = [value - base for value, base in zip(arms[arm]["accuracy"], plain, strict=True)]
        if len(each) > 1:
            axes.plot(each, [row] * len(each), "|", color="grey", markersize=9)
        if gain["low"] is not None:
            axes.plot([gain["low"], gain["high"]], [row, row], color="C0", linewidth=2)
        axes.plot(gain["mean"], row, "o", color="C0")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(others)), others)
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.25)
    axes.set(xlabel="test accuracy, difference to plain, percentage points")
    several = "bars: 95 % interval of the mean over seeds, ticks: each seed"
    axes.set_title(several if len(plain) > 1 else "one seed", fontsize=9)
    return figure


def _heat(axes: Axes, table: Array, norm: Normalize, title: str, style: str, cmap: str) -> Any:
    image = axes.imshow(table, norm=norm, cmap=cmap)
    for (row, column), value in np.ndenumerate(table):
        red, green, blue, _ = image.cmap(norm(value))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.5
        axes.text(column, row, format(value, style), ha="center", va="center", fontsize=6, color="white" if dark else "black")
    axes.set_title(title, fontsize=10)
    axes.set_xticks(range(8))
    axes.set_yticks(range(8))
    axes.tick_params(labelsize=7, length=0)
    axes.set_xlabel("horizontal frequency", fontsize=8)
    axes.set_ylabel("vertical frequency", fontsize=8)
    return image


def _tables(arm: str, tables: list[dict[str, Any]]) -> Figure:
    """Steps before and after training, their geometric mean over the seeds, and the ratio of the two."""
    figure = Figure(figsize=(12, 7.6), layout="constrained")
    grid = figure.subplots(2, 3)
    for row, name in zip(grid, ("luma", "chroma"), strict=True):
        before, after = (
            np.exp(np.mean(np.log([np.array(t[when][name]) for t in tables]), axis=0)) for when in ("before", "after")
        )
        low, high = min(before.min(), after.min()), max(before.max(), after.max())
        norm = LogNorm(low * 0.99, high * 1.01)
        _heat(row[0], before, norm, f"{name}, before training", ".2g", "viridis")
        image = _heat(row[1], after, norm, f"{name}, after training", ".2g", "viridis")
        bar = figure.colorbar(image, ax=list(row[:2]), shrink=0.8, format="%g")
        bar.set_label("step, JPEG table units", fontsize=8)
        ratio = after / before
        octaves = max(1, int(np.ceil(np.abs(np.log2(ratio)).max())))
        image = _heat(row[2], ratio, LogNorm(2.0**-octaves, 2.0**octaves), f"{name}, after / before", ".2g", "RdBu_r")
        bar = figure.colorbar(image, ax=row[2], shrink=0.8, ticks=2.0 ** np.arange(-octaves, octaves + 1), format="×%g")
        bar.ax.minorticks_off()
    seeds = f"geometric mean over {len(tables)} seeds" if len(tables) > 1 else "one seed"
    figure.suptitle(f"{arm}: quantization steps ({seeds})")
    return figure


def _saturation(arm: str, shares: Array, seeds: int) -> Figure:
    figure = Figure(figsize=(12, 4), layout="constrained")
    row = figure.subplots(1, 3)
    norm = Normalize(0, 100)
    for axes, share, name in zip(row, 100 * shares, ("Y", "Cb", "Cr"), strict=True):
        image = _heat(axes, share, norm, name, ".0f", "magma")
    figure.colorbar(image, ax=list(row), shrink=0.8).set_label("coefficients at the level cap, %", fontsize=8)
    figure.suptitle(f"{arm}: saturation after training, test images (mean over {seeds} seed{'s' if seeds > 1 else ''})")
    return figure
