"""Pictures of a comparison: accuracy curves, gains, tables before and after training, saturation per frequency.

They show the arms and seeds of the summary and no others, so that none contradicts the table.
"""

from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jpegdl.comparison.arms import ARMS
from jpegdl.comparison.numbers import no_difference, part
from jpegdl.files import replacing
from jpegdl.functional import largest_level
from jpegdl.heatmaps import CURVES, DRAWN, as_drawn, change_figure, hatch, shares_figure
from jpegdl.runs import RunFolder

BySeed = dict[int, RunFolder]


def draw_figures(folder: Path, runs: dict[str, BySeed], summary: dict[str, Any]) -> None:
    """Draw ``accuracy.png``, ``curves.png``, ``gains.png``; of arms that have such ``tables-ARM.png``, ``saturation-ARM.png``.

    Those that an earlier call drew and that no longer have anything to show are deleted. Where a file of a run is missing or
    damaged, nothing is drawn.
    """
    runs = {arm: {seed: runs[arm][seed] for seed in entry["seeds"]} for arm, entry in summary["arms"].items()}
    figures = {
        "accuracy": accuracy_figure(runs, summary),
        "curves": curves_figure(runs, summary),
        "gains": gains_figure(summary),
    }
    for arm, by_seed in runs.items():
        figures |= {
            f"tables-{arm}": compared_tables_figure(arm, by_seed),
            f"saturation-{arm}": compared_saturation_figure(arm, by_seed),
        }
    arms = [*ARMS, *(path.name for path in folder.iterdir() if path.is_dir())]
    for name in dict.fromkeys([*figures, *(f"{what}-{arm}" for what in ("tables", "saturation") for arm in arms)]):
        if (figure := figures.get(name)) is None:
            (folder / f"{name}.png").unlink(missing_ok=True)
        else:
            with replacing(folder / f"{name}.png") as file:
                figure.savefig(file, dpi=90, facecolor="white")


def accuracy_figure(runs: dict[str, BySeed], summary: dict[str, Any]) -> Figure:
    """Draw accuracy by epoch, in the test or on what is held out: of each seed, and their mean where all were measured."""
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axes = figure.subplots()
    metrics = _metrics(runs)
    thin = _are_thin(runs)
    shown, part_name = _looked_at(metrics)
    lines = _plot(axes, metrics, f"{shown}_accuracy", 100, thin)
    ranked = sorted(lines, key=lambda arm: -summary["arms"][arm]["mean"])  # as the curves end, the highest first
    for arm in ranked:
        final = f"{'' if shown == 'test' else 'test '}{100 * summary['arms'][arm]['mean']:.1f} %"
        lines[arm].set_label(f"{as_drawn(arm)}: {final}{part(list(metrics[arm]), len(summary['seeds']))}")
    axes.set(ylabel=f"{part_name} accuracy, %", title=_whose(summary, thin))
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


def curves_figure(runs: dict[str, BySeed], summary: dict[str, Any], without: tuple[str, ...] = ()) -> Figure:
    """Draw what every run measured by epoch: accuracies, losses and, of layers that have them, mean step and saturation.

    ``without`` names columns of ``metrics.csv`` to leave out.
    """
    metrics, thin = _metrics(runs), _are_thin(runs)
    figure = Figure(figsize=(13, 7), layout="constrained")
    handles: dict[str, Any] = {}
    shown, part_name = _looked_at(metrics)
    shown_columns = {column: how for column, how in _CURVES.items() if column not in without}
    places = list(figure.subplots(2, 3).flat)
    for axes in places[len(shown_columns) :]:
        axes.set_axis_off()
    for axes, (column, (label, factor)) in zip(places, shown_columns.items(), strict=False):
        if column.startswith("test_"):
            column, label = column.replace("test", shown, 1), label.replace("test", part_name, 1)
        lines = _plot(axes, metrics, column, factor, thin)
        handles |= {arm: line for arm, line in lines.items() if arm not in handles}
        axes.set_ylabel(label)
        if not lines:
            hatch(axes, "", "not measured")
    figure.legend(handles.values(), map(as_drawn, handles), loc="outside right upper", fontsize=8)
    figure.suptitle(_whose(summary, thin))
    return figure


Metrics = dict[str, dict[int, list[dict[str, float]]]]  # of each arm, by seed, an entry an epoch


def _metrics(runs: dict[str, BySeed]) -> Metrics:
    return {arm: {seed: run.metrics() for seed, run in by_seed.items()} for arm, by_seed in runs.items() if by_seed}


def _looked_at(metrics: Metrics) -> tuple[str, str]:
    """The images that were looked at while training, as columns and as labels name them."""
    held_out = any("val_accuracy" in row for by_seed in metrics.values() for rows in by_seed.values() for row in rows)
    return ("val", "validation") if held_out else ("test", "test")


def _are_thin(runs: dict[str, BySeed]) -> bool:
    """Return whether each seed has a thin line of its own: not where that makes a thicket."""
    return sum(map(bool, runs.values())) <= 10 and any(len(by_seed) > 1 for by_seed in runs.values())


def _whose(summary: dict[str, Any], thin: bool) -> str:
    return "One seed" if len(summary["seeds"]) == 1 else f"Mean over seeds{' (thin: each seed)' if thin else ''}"


def _plot(axes: Axes, metrics: Metrics, column: str, factor: float, thin: bool) -> dict[str, Any]:
    """Draw one column by epoch, the mean at the epochs that all seeds of an arm have; the line of each arm that has it."""
    lines: dict[str, Any] = {}
    for i, (arm, colour) in enumerate(zip(metrics, cycle(CURVES), strict=False)):
        curves = [{int(row["epoch"]): factor * row[column] for row in rows if column in row} for rows in metrics[arm].values()]
        there = [epoch for epoch in curves[0] if all(epoch in curve for curve in curves)]
        if not any(curves):
            continue
        if thin:
            for curve in curves:
                mark = "_" if len(curve) == 1 else ""  # a line of one point would not be seen
                axes.plot(list(curve), list(curve.values()), marker=mark, color=colour, alpha=0.3, linewidth=0.8)
        mean, style = [np.mean([curve[epoch] for curve in curves]) for epoch in there], ("-", "--", ":")[i // 10 % 3]
        (lines[arm],) = axes.plot(
            there, mean, color=colour, linestyle=style, linewidth=2, marker="o", markersize=3.5, label=arm
        )
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(alpha=0.25)
    return lines


def gains_figure(summary: dict[str, Any]) -> Figure | None:
    """Draw each arm's difference from plain: seeds, their mean and its 95 % interval. None if there is no other arm."""
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
            reason = (
                f"{no_difference(entry)}{'' if entry.get('other_images') else ' with plain'}" if entry["seeds"] else "failed"
            )
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
            axes.plot([100 * gain["low"], 100 * gain["high"]], [row, row], color=CURVES[0], linewidth=2)
        axes.plot(100 * gain["mean"], row, "o", color=CURVES[0])
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(others)), labels)
    axes.set_ylim(len(others) - 0.4, -0.6)  # room for the whole of the first row and the last
    axes.margins(x=0.08)
    axes.grid(axis="x", alpha=0.25)
    axes.set_xlabel("test accuracy, difference from plain, percentage points")
    axes.set_title("bars: 95 % interval of the mean over seeds, ticks: each seed" if several else "one seed", fontsize=9)
    return figure


def compared_tables_figure(arm: str, runs: BySeed) -> Figure | None:
    """Draw tables before and after training, mean over seeds, and what changed; None for an arm without one for all blocks."""
    kind = next(iter(runs.values())).table_kind() if runs else None
    if kind not in DRAWN:
        return None
    return change_figure(arm, kind, [run.tables() for run in runs.values()], grey=_are_grey(runs))


def _are_grey(runs: BySeed) -> bool:
    return all(run.result().get("grey") for run in runs.values())


def compared_saturation_figure(arm: str, runs: BySeed) -> Figure | None:
    """Draw the share of the test images' coefficients at the level cap, mean over the seeds. None for an arm without a cap."""
    shares = [run.result()["saturation"] for run in runs.values()]
    if not all(np.shape(share) == (3, 8, 8) for share in shares) or not shares:
        return None
    first = next(iter(runs.values()))
    layer = first.tables() if first.tables_file.is_file() else {}  # a layer of the user's own may have a cap of its own
    if (cap := largest_level(layer.get("bits", first.config().layer.bits))) is None:
        return None
    named = dict(zip(("Y", "Cb", "Cr"), np.mean(shares, axis=0), strict=True))
    figure = shares_figure(named, f"coefficients at level −{cap} or {cap}, %", grey=_are_grey(runs))
    seeds = "one seed" if len(runs) == 1 else f"mean over {len(runs)} seeds"
    figure.suptitle(f"{arm}: share of coefficients at the level cap ±{cap} after training, in %, test images ({seeds})")
    return figure
