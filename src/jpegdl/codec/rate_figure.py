"""Accuracy against true bits per pixel, as rows of a table and as a picture."""

import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from jpegdl.codec.curves import Between, Curve, Rates, compare_curves, rate_curves

REFERENCES = ("default JPEG 4:4:4", "default JPEG 4:2:0")
_GREYS = {"default JPEG 4:4:4": ("0.35", "-"), "default JPEG 4:2:0": ("0.55", "--")}


def rate_rows(results: Rates) -> list[dict[str, Any]]:
    """One row for each point: ``curve``, ``arm``, ``seed``, ``tables``, ``subsampling``, ``bits_per_pixel`` (of whole files),
    ``header`` (bits of these that are headers), ``accuracy`` and ``hard`` (0 to 1; of the decoded files, and of the model with
    its layer rounding), ``images``."""
    rows = []
    for curve in rate_curves(results):
        for point in curve.points:
            same = {name: point[name] for name in ("tables", "subsampling", "bits_per_pixel", "header", "accuracy", "hard")}
            images = results[point["arm"]][curve.seed]["images"]
            rows.append({"curve": curve.name, "arm": point["arm"], "seed": curve.seed, **same, "images": images})
    return rows


def rate_comparisons(results: Rates) -> list[Between]:
    """Every curve that is none of default JPEG, against default JPEG with either subsampling."""
    curves = rate_curves(results)
    names = list(dict.fromkeys(curve.name for curve in curves))
    images = next((r["images"] for by_seed in results.values() for r in by_seed.values()), 0)
    references = [name for name in REFERENCES if name in names]
    return [compare_curves(curves, name, ref, images) for name in names if name not in REFERENCES for ref in references]


def rate_text(between: Between) -> str:
    """What lies between two curves, in a sentence or two."""
    head = f"{between.curve} against {between.reference}: "
    if between.accuracy is None or between.rates is None:
        return f"{head}no figure, {between.why}."
    low, high = between.rates
    text = f"{head}{100 * between.accuracy:+.2f} points of accuracy on average between {low:.2f} and {high:.2f} bits per pixel"
    if between.interval:
        text += f", 95 % interval over test images [{100 * between.interval[0]:+.2f}, {100 * between.interval[1]:+.2f}]"
    if between.spread:
        text += f", over {between.seeds} seeds [{100 * between.spread[0]:+.2f}, {100 * between.spread[1]:+.2f}]"
    extremes = [
        f"{100 * value:+.2f} at {at:.2f}"
        for value, at in ((between.smallest, between.at_smallest), (between.largest, between.at))
        if value is not None
    ]
    text += f"; from {' to '.join(extremes)}. "
    if between.rate is None:
        return text + f"No mean ratio of rates: {between.why_no_rate}."
    return text + f"At the same accuracy {100 * between.rate:+.1f} % bits."


def rate_figure(results: Rates) -> Figure:
    """Accuracy in percent against bits per pixel, log scale; means over seeds, with bars of a standard deviation."""
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    curves, number = rate_curves(results), 0
    for name in dict.fromkeys(curve.name for curve in curves):
        rates, means, spreads = _means([curve for curve in curves if curve.name == name])
        colour, line = _GREYS.get(name, (f"C{number}", "-"))
        number += name not in _GREYS
        axes.errorbar(rates, means, yerr=spreads, color=colour, linestyle=line, marker="o", markersize=3, capsize=2, label=name)
    plain = [result["accuracy"] for result in results.get("plain", {}).values()]
    if plain:
        axes.axhline(100 * statistics.fmean(plain), color="0.6", linewidth=0.8, linestyle=":", label="plain, nothing stored")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    axes.xaxis.set_minor_formatter(FuncFormatter(lambda x, _: f"{x:g}" if f"{x:e}"[0] in "25" else ""))
    axes.set_xlabel("bits per pixel of the files")
    axes.set_ylabel("test accuracy on the decoded files, %")
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False)
    return figure


def _means(curves: Sequence[Curve]) -> tuple[list[float], list[float], list[float]]:
    """Of each point, over seeds: bits per pixel, accuracy in percent and its standard deviation; ascending in bits."""
    by_point: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for curve in curves:
        for point in curve.points:
            by_point.setdefault((point["arm"], point["tables"]), []).append(point)
    rows = []
    for points in by_point.values():
        accuracies = [100 * point["accuracy"] for point in points]
        spread = statistics.stdev(accuracies) if len(accuracies) > 1 else 0.0
        rows.append((statistics.fmean(p["bits_per_pixel"] for p in points), statistics.fmean(accuracies), spread))
    rows.sort()
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]
