"""Pictures of a comparison: accuracy curves, gains, tables before and after training, saturation per frequency.

They show the arms and seeds of the summary and no others, so that none contradicts the table.
"""

from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from jpegdl.compare.arms import ARMS
from jpegdl.compare.statistics import part
from jpegdl.files import replacing
from jpegdl.functional import largest_level
from jpegdl.layer import STEP_RANGE, layer_kind
from jpegdl.layer.companding import SMALLEST_SCALE
from jpegdl.training import RunFolder

Array = np.ndarray[Any, np.dtype[Any]]
BySeed = dict[int, RunFolder]

GREY = "grey images: no chroma to learn from"
# By what a table's numbers are: their name, the label of their colours, the bounds that training keeps them in.
_KINDS: dict[str, tuple[str, str, tuple[float, float]]] = {
    "steps": ("quantization steps", "step, JPEG table units", STEP_RANGE),
    "scales": ("compander scales", "scale, JPEG table units", (SMALLEST_SCALE, np.inf)),
    "gains": ("gains", "gain", (-np.inf, np.inf)),
}
# Colours of what changed mean the same in all figures; a number beyond them is written in its cell.
_RATIOS = {1 / 30: "×1/30", 1 / 10: "×1/10", 1 / 3: "×1/3", 1.0: "×1", 3.0: "×3", 10.0: "×10", 30.0: "×30"}
_DIFFERENCES = {-1.0: "−1", -0.5: "−0.5", 0.0: "0", 0.5: "+0.5", 1.0: "+1"}


def draw_figures(folder: Path, runs: dict[str, BySeed], summary: dict[str, Any]) -> None:
    """Draw ``accuracy.png``, ``curves.png``, ``gains.png``; of arms that have such ``tables-ARM.png``, ``saturation-ARM.png``.

    Those that an earlier call drew and that no longer have anything to show are deleted.

    Args:
        folder: where to.
        runs: of each arm, by seed, the finished runs.
        summary: what :func:`jpegdl.compare.statistics.summarize` returns for them.

    Raises:
        UsageError: a file of a run is missing or damaged; nothing is drawn then.
    """
    runs = {arm: {seed: runs[arm][seed] for seed in entry["seeds"]} for arm, entry in summary["arms"].items()}
    figures = {
        "accuracy": accuracy_figure(runs, summary),
        "curves": curves_figure(runs, summary),
        "gains": gains_figure(summary),
    }
    for arm, by_seed in runs.items():
        figures |= {f"tables-{arm}": tables_figure(arm, by_seed), f"saturation-{arm}": saturation_figure(arm, by_seed)}
    arms = [*ARMS, *(path.name for path in folder.iterdir() if path.is_dir())]
    for name in dict.fromkeys([*figures, *(f"{what}-{arm}" for what in ("tables", "saturation") for arm in arms)]):
        if (figure := figures.get(name)) is None:
            (folder / f"{name}.png").unlink(missing_ok=True)
        else:
            with replacing(folder / f"{name}.png") as file:
                figure.savefig(file, dpi=90, facecolor="white")


# ---------------------------------------------------------------------------------------------------------- accuracies


def accuracy_figure(runs: dict[str, BySeed], summary: dict[str, Any]) -> Figure:
    """Test accuracy by epoch: of each seed, and their mean at the epochs at which all of them were tested."""
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    metrics = _metrics(runs)
    thin = _are_thin(runs)
    lines = _plot(axes, metrics, "test_accuracy", 100, thin)
    ranked = sorted(lines, key=lambda arm: -summary["arms"][arm]["mean"])  # as the curves end, the highest first
    for arm in ranked:
        final = f"{100 * summary['arms'][arm]['mean']:.1f} %"
        lines[arm].set_label(f"{arm}: {final}{part(list(metrics[arm]), len(summary['seeds']))}")
    axes.set(ylabel="test accuracy, %", title=_whose(summary, thin))
    handles = [lines[arm] for arm in ranked]
    if len(lines) <= 5:
        axes.legend(handles=handles, loc="lower right")
    else:
        figure.set_size_inches(9.5, max(4, 1 + 0.18 * len(lines)))
        axes.legend(handles=handles, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=8)
    return figure


#: What ``curves.png`` shows, by the columns of ``metrics.csv``: the label of the axis, and the factor of the numbers.
_CURVES = {
    "test_accuracy": ("test accuracy, %", 100.0),
    "test_loss": ("test loss, nats", 1.0),
    "step_mean_luma": ("mean luma step, JPEG table units", 1.0),
    "train_accuracy": ("training accuracy, %", 100.0),
    "train_loss": ("training loss, nats", 1.0),
    "saturation_mean_luma": ("luma coefficients at the cap, %", 100.0),
}


def curves_figure(runs: dict[str, BySeed], summary: dict[str, Any]) -> Figure:
    """What every run measured by epoch: accuracies, losses and, of layers that have them, mean step and saturation."""
    metrics, thin = _metrics(runs), _are_thin(runs)
    figure = Figure(figsize=(13, 7), layout="constrained")
    handles: dict[str, Any] = {}
    for axes, (column, (label, factor)) in zip(figure.subplots(2, 3).flat, _CURVES.items(), strict=True):
        lines = _plot(axes, metrics, column, factor, thin)
        handles |= {arm: line for arm, line in lines.items() if arm not in handles}
        axes.set_ylabel(label)
        if not lines:
            _hatch(axes, "", "not measured")
    figure.legend(handles.values(), handles, loc="outside right upper", fontsize=8)
    figure.suptitle(_whose(summary, thin))
    return figure


Metrics = dict[str, dict[int, list[dict[str, float]]]]  # of each arm, by seed, an entry an epoch


def _metrics(runs: dict[str, BySeed]) -> Metrics:
    return {arm: {seed: run.metrics() for seed, run in by_seed.items()} for arm, by_seed in runs.items() if by_seed}


def _are_thin(runs: dict[str, BySeed]) -> bool:
    """Whether each seed has a thin line of its own: not where that makes a thicket."""
    return sum(map(bool, runs.values())) <= 10 and any(len(by_seed) > 1 for by_seed in runs.values())


def _whose(summary: dict[str, Any], thin: bool) -> str:
    return "One seed" if len(summary["seeds"]) == 1 else f"Mean over seeds{' (thin: each seed)' if thin else ''}"


def _plot(axes: Axes, metrics: Metrics, column: str, factor: float, thin: bool) -> dict[str, Any]:
    """Draw one column by epoch, the mean at the epochs that all seeds of an arm have; the line of each arm that has it."""
    colours, lines = cycle(matplotlib.colormaps["tab10"].colors), {}  # type: ignore[attr-defined]
    for i, (arm, colour) in enumerate(zip(metrics, colours, strict=False)):
        curves = [{int(row["epoch"]): factor * row[column] for row in rows if column in row} for rows in metrics[arm].values()]
        there = [epoch for epoch in curves[0] if all(epoch in curve for curve in curves)]
        if not any(curves):
            continue
        if thin:
            for curve in curves:
                axes.plot(list(curve), list(curve.values()), color=colour, alpha=0.3, linewidth=0.8)
        mean, style = [np.mean([curve[epoch] for curve in curves]) for epoch in there], ("-", "--", ":")[i // 10 % 3]
        (lines[arm],) = axes.plot(
            there, mean, color=colour, linestyle=style, linewidth=2, marker="o", markersize=3.5, label=arm
        )
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    return lines


def gains_figure(summary: dict[str, Any]) -> Figure | None:
    """Each arm's difference to plain: of each seed, their mean and its 95 % interval. None where there is no other arm."""
    others = {arm: entry for arm, entry in summary["arms"].items() if arm != "plain"}
    if not others:
        return None
    plain = dict(zip(summary["arms"]["plain"]["seeds"], summary["arms"]["plain"]["accuracy"], strict=True))
    figure = Figure(figsize=(7, 1.5 + 0.28 * len(others)), layout="constrained")
    axes = figure.subplots()
    labels, several = [], False
    for row, (arm, entry) in enumerate(others.items()):
        if (gain := entry["difference"]) is None:
            labels.append(arm)
            reason = "no seed in common with plain" if entry["seeds"] else "failed"
            axes.text(0.02, row, reason, transform=axes.get_yaxis_transform(), va="center", color="grey", fontsize=9)
            continue
        labels.append(arm + part(gain["seeds"], len(summary["seeds"])))
        accuracy = dict(zip(entry["seeds"], entry["accuracy"], strict=True))
        if len(gain["seeds"]) > 1:
            several = True
            axes.plot(
                [100 * (accuracy[s] - plain[s]) for s in gain["seeds"]], [row] * len(gain["seeds"]), "|", color="grey", ms=9
            )
        if gain["low"] is not None:
            axes.plot([100 * gain["low"], 100 * gain["high"]], [row, row], color="C0", linewidth=2)
        axes.plot(100 * gain["mean"], row, "o", color="C0")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(others)), labels)
    axes.set_ylim(len(others) - 0.4, -0.6)  # room for the whole of the first row and the last
    axes.margins(x=0.08)
    axes.grid(axis="x", alpha=0.25)
    axes.set_xlabel("test accuracy, difference to plain, percentage points")
    axes.set_title("bars: 95 % interval of the mean over seeds, ticks: each seed" if several else "one seed", fontsize=9)
    return figure


# -------------------------------------------------------------------------------------------------------------- tables


def tables_figure(arm: str, runs: BySeed) -> Figure | None:
    """Tables before and after training, mean over the seeds, and what changed. None for an arm without tables for all blocks.

    Steps and scales have their geometric mean and the ratio of the two, gains the arithmetic mean and the difference.
    """
    kind = layer_kind(next(iter(runs.values())).config().layer).tables if runs else None
    if kind is None:
        return None
    entries = [run.tables() for run in runs.values()]
    names = [name for name, table in entries[0]["after"].items() if _is_table(name, table)]
    if not names:
        return None
    masked = [_are_grey(runs) and "chroma" in name for name in names]
    figure = Figure(figsize=(12, 0.6 + sum(0.9 if mask else 3.5 for mask in masked)), layout="constrained")
    grid = figure.add_gridspec(len(names), 3, height_ratios=[0.12 if mask else 1 for mask in masked])
    at_bound = False
    for row, name in enumerate(names):
        panels = [figure.add_subplot(grid[row, column]) for column in range(3)]
        if masked[row]:
            for axes, when in zip(panels, ("before training", "after training", "after / before"), strict=True):
                _hatch(axes, f"{_in_words(name)}, {when}")
            continue
        tables = np.array([[entry[when][name] for entry in entries] for when in ("before", "after")], dtype=float)
        at_bound |= _draw_change(figure, panels, tables, kind, _in_words(name))
    what, _, (low, high) = _KINDS[kind]
    seeds = "one seed" if len(runs) == 1 else f"{'mean' if kind == 'gains' else 'geometric mean'} over {len(runs)} seeds"
    figure.suptitle(f"{arm}: {what} ({seeds})")
    if at_bound:
        bounds = f"{_short(low)} to {_short(high)}" if np.isfinite(high) else f"from {_short(low)} on"
        where = "" if len(runs) == 1 else ", in at least one seed"
        figure.supxlabel(f"□ at an end of the range that {kind} are kept in, {bounds}{where}", fontsize=10, color="magenta")
    return figure


def _is_table(name: str, table: Any) -> bool:
    return name.rpartition(".")[2] in ("luma", "chroma") and np.shape(table) == (8, 8)  # regions have one each


def _in_words(name: str) -> str:
    """luma, chroma; of a cascade, whose tables are 0.luma, 0.chroma, 1.luma and so on, which layer's."""
    layer, _, plane = name.rpartition(".")
    return f"layer {int(layer) + 1}, {plane}" if layer.isdecimal() else plane


def _are_grey(runs: BySeed) -> bool:
    return all(run.result().get("grey") for run in runs.values())


def _draw_change(figure: Figure, panels: list[Axes], tables: Array, kind: str, name: str) -> bool:
    """Draw tables, of shape (before and after, seeds, 8, 8); returns whether any of them is at a bound."""
    _, label, (low, high) = _KINDS[kind]
    bounded: Array = np.any((tables <= low * (1 + 1e-6)) | (tables >= high), axis=1)
    if kind == "gains":
        both = tables.mean(axis=1)
        change, title, change_norm, change_ticks = both[1] - both[0], "after − before", Normalize(-1, 1), _DIFFERENCES
        norm, ticks, colours = Normalize(0, 2), [0, 0.5, 1, 1.5, 2], "PiYG"
    else:
        both = np.exp(np.log(tables).mean(axis=1))
        change, title, change_norm, change_ticks = both[1] / both[0], "after / before", LogNorm(1 / 30, 30), _RATIOS
        smallest, largest, ticks = _round_numbers(both if bounded.all() else both[~bounded])  # the others would stretch it
        norm, colours = LogNorm(smallest, largest), "viridis"
    for axes, table, marks, when in zip(panels, both, bounded, ("before", "after"), strict=False):
        image = _heat(axes, table, norm, f"{name}, {when} training", _short, colours, marks)
    _bar(figure, image, panels[:2], both, {tick: _short(tick) for tick in ticks}, label)
    image = _heat(panels[2], change, change_norm, f"{name}, {title}", _short, "RdBu_r", np.any(bounded, axis=0))
    _bar(figure, image, panels[2:], change, change_ticks, title)
    return bool(bounded.any())


def _round_numbers(values: Array) -> tuple[float, float, list[float]]:
    """The nearest of 1, 2, 5, 10, 20, ... below and above all values, and up to eight of those between, or powers of ten."""
    low, high = values.min(), values.max()
    decades = range(int(np.floor(np.log10(low))) - 1, int(np.ceil(np.log10(high))) + 2)
    numbers = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    first = max(i for i, number in enumerate(numbers) if number <= low * (1 + 1e-9))
    last = min(i for i, number in enumerate(numbers) if number >= high * (1 - 1e-9))
    if first == last:  # all values are the same
        first, last = first - 1, last + 1
    ticks = numbers[first : last + 1]
    return ticks[0], ticks[-1], ticks if len(ticks) <= 8 else [tick for tick in ticks if tick in numbers[::3]]


def _short(value: float) -> str:
    """Two digits in as little room as they take: 0.021, 127, 1e-5."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.2g}" if abs(value) < 99.5 else f"{value:.0f}"
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"


# ---------------------------------------------------------------------------------------------------------- saturation


def saturation_figure(arm: str, runs: BySeed) -> Figure | None:
    """Share of the test images' coefficients at the level cap, mean over the seeds. None for an arm without a cap."""
    shares = [run.result()["saturation"] for run in runs.values()]
    if not all(np.shape(share) == (3, 8, 8) for share in shares) or not shares:
        return None
    cap = largest_level(next(iter(runs.values())).config().layer.bits)
    if cap is None:
        return None
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    row = list(figure.subplots(1, 3))
    for axes, share, name in zip(row, 100 * np.mean(shares, axis=0), ("Y", "Cb", "Cr"), strict=True):
        if name != "Y" and _are_grey(runs):
            _hatch(axes, name)
            axes.set_box_aspect(1)
        else:
            image = _heat(axes, share, Normalize(0, 100), name, "{:.0f}".format, "magma")
            if name == "Y":
                first = image
    bar = figure.colorbar(first, ax=row, shrink=0.8)
    bar.set_label(f"coefficients at level −{cap} or {cap}, %", fontsize=8)
    seeds = "one seed" if len(runs) == 1 else f"mean over {len(runs)} seeds"
    figure.suptitle(f"{arm}: share of coefficients at the level cap ±{cap} after training, in %, test images ({seeds})")
    return figure


# -------------------------------------------------------------------------------------------------------------- panels


def _heat(
    axes: Axes,
    table: Array,
    norm: Normalize,
    title: str,
    text: Callable[[float], str],
    colours: str,
    marks: Array | None = None,
) -> AxesImage:
    """Draw an (8, 8) table, its numbers in its cells, and a box around those in ``marks``."""
    image = axes.imshow(table, norm=norm, cmap=colours)
    dark = image.cmap(norm(table))[..., :3] @ (0.299, 0.587, 0.114) < 0.5
    for (row, column), value in np.ndenumerate(table):
        colour = "white" if dark[row, column] else "black"
        cell = axes.text(column, row, text(value), ha="center", va="center", fontsize=6.5, color=colour)
        cell.set_in_layout(False)  # as all are inside, and to look at each takes long
        if marks is not None and marks[row, column]:
            axes.add_patch(Rectangle((column - 0.45, row - 0.45), 0.9, 0.9, fill=False, edgecolor="magenta", linewidth=2))
    axes.set_title(title, fontsize=10)
    axes.set_xticks(range(8))
    axes.set_yticks(range(8))
    axes.tick_params(labelsize=7, length=0)
    axes.set_xlabel("horizontal frequency", fontsize=8)
    axes.set_ylabel("vertical frequency", fontsize=8)
    return image


def _bar(figure: Figure, image: AxesImage, panels: list[Axes], values: Array, ticks: dict[float, str], label: str) -> None:
    """A colour bar with these ticks and no others; an arrow at an end that values lie beyond."""
    low, high = image.get_clim()
    below, above = values.min() < low * (1 - 1e-9), values.max() > high * (1 + 1e-9)
    extend = "both" if below and above else "min" if below else "max" if above else "neither"
    bar = figure.colorbar(image, ax=panels, shrink=0.8, extend=extend, ticks=list(ticks))
    bar.ax.minorticks_off()
    bar.ax.set_yticklabels(ticks.values())
    bar.set_label(label, fontsize=8)


def _hatch(axes: Axes, title: str, reason: str = GREY) -> None:
    """A panel that says why there is nothing in it."""
    axes.add_patch(Rectangle((0, 0), 1, 1, transform=axes.transAxes, hatch="///", facecolor="0.96", edgecolor="0.8"))
    axes.text(
        0.5, 0.5, reason, transform=axes.transAxes, ha="center", va="center", fontsize=9, bbox={"fc": "white", "ec": "0.8"}
    )
    axes.set_title(title, fontsize=10)
    axes.set_xticks([])
    axes.set_yticks([])
