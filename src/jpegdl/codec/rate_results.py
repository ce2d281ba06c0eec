"""Accuracy and loss against true bits per pixel, as rows of a table and as a picture."""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from jpegdl.codec.bjontegaard import DEFAULT, Between, Curve, Difference, Rates, compare_curves, rate_curves
from jpegdl.heatmaps import CURVES, as_drawn

_GREYS = {f"{DEFAULT}4:4:4": ("0.35", "-"), f"{DEFAULT}4:2:0": ("0.55", "--")}
REFERENCES = tuple(_GREYS)


def rate_rows(results: Rates) -> list[dict[str, Any]]:
    """Return one row for each point of several runs.

    Returns:
        Each with ``curve``, ``arm``, ``seed``, ``tables``, ``subsampling``, ``bits_per_pixel`` (of whole files), ``header``
        (bits of these that are headers), ``accuracy`` (of the decoded files, 0 to 1), ``hard`` (of the model with its layer
        rounding, 0 to 1), ``loss`` (of the decoded files, nats; None if it was not kept) and ``images``.
    """
    rows = []
    for curve in rate_curves(results):
        for point in curve.points:
            same = {name: point[name] for name in ("tables", "subsampling", "bits_per_pixel", "header", "accuracy", "hard")}
            images = results[point["arm"]][curve.seed]["images"]
            same |= {"loss": point.get("loss"), "images": images}
            rows.append({"curve": curve.name, "arm": point["arm"], "seed": curve.seed, **same})
    return rows


def rate_comparisons(results: Rates) -> list[Between]:
    """Return how far each curve lies from those of default JPEG, one for each chroma subsampling."""
    curves = rate_curves(results)
    names = list(dict.fromkeys(curve.name for curve in curves))
    images = next((r["images"] for by_seed in results.values() for r in by_seed.values()), 0)
    references = [name for name in REFERENCES if name in names]
    return [compare_curves(curves, name, ref, images) for name in names if name not in REFERENCES for ref in references]


def rate_text(between: Between) -> str:
    """Return how far a curve lies from its reference, in a sentence or two."""
    head = f"{between.curve} against {between.reference}: "
    accuracy, loss = between.accuracy, between.loss
    if accuracy.mean is None or between.rates is None:
        return f"{head}no number, {accuracy.why}."
    low, high = between.rates
    text = f"{head}{_points(accuracy.mean)} points of accuracy on average between {low:.2f} and {high:.2f} bits per pixel"
    text += _around(accuracy, between.seeds, _points, "accuracy")
    if loss.mean is None:
        return text + f" Nothing of the loss: {loss.why}."
    return text + f" Test loss {_nats(loss.mean)} nats at the same rate{_around(loss, between.seeds, _nats, 'loss')}"


#: The columns of :func:`rate_table`.
RATE_COLUMNS = ["curve", "against default JPEG", "bits per pixel", "of", "mean [95 %]", "least", "most", "bits at the same"]


def rate_table(compared: Sequence[Between]) -> list[list[str]]:
    """Return how far curves lie from their references, as rows of :data:`RATE_COLUMNS`.

    Each pair of curves has a row for the accuracy, in points, and one for the loss, in nats: the bits per pixel that both
    reach; the mean difference, with its interval over test images and, with several seeds, that over seeds; the smallest and
    the largest difference, and where; and the BD-rate. :func:`rate_notes` says why a figure is missing.
    """
    rows = []
    for between in compared:
        if between.rates is None:
            continue
        who = [between.curve, between.reference.removeprefix(DEFAULT), "{:.2f}-{:.2f}".format(*between.rates)]
        for difference, what, show in ((between.accuracy, "accuracy", _points), (between.loss, "loss", _nats)):
            if difference.mean is None or difference.least is None or difference.most is None:
                continue
            within = "; ".join(_interval(pair, show) for pair in (difference.interval, difference.spread) if pair)
            ends = [f"{show(value)} at {rate:.2f}" for value, rate in (difference.least, difference.most)]
            rows.append([*who, what, f"{show(difference.mean)} {within}", *ends, _ratio(difference)])
    return rows


def rate_notes(compared: Sequence[Between]) -> list[str]:
    """Return why numbers are missing from :func:`rate_table`: a sentence for each reason."""
    notes: dict[tuple[str, str], list[str]] = {}
    for between in compared:
        who = f"{between.curve} against {between.reference}"
        for difference, what in ((between.accuracy, "accuracy"), (between.loss, "loss")):
            if between.rates is None:
                missing = "no number"
            elif difference.mean is None:
                missing = f"nothing of the {what}"
            else:
                missing = f"no mean ratio of rates at the same {what}"
            if why := difference.why or difference.why_no_rate:
                whose = notes.setdefault((missing, why), [])
                whose += [] if who in whose else [who]
    return [f"{'; '.join(whose)}: {missing}, {why}." for (missing, why), whose in notes.items()]


def _points(share: float) -> str:
    return f"{100 * share:+.2f}"


def _nats(nats: float) -> str:
    return f"{nats:+.3f}"


def _around(difference: Difference, seeds: int, show: Callable[[float], str], what: str) -> str:
    """Return what is known of a difference beside its mean, in words."""
    text = f", 95 % interval over test images {_interval(difference.interval, show)}"
    if difference.spread:
        text += f", over {seeds} seeds {_interval(difference.spread, show)}"
    extremes = [f"{show(value)} at {rate:.2f}" for value, rate in filter(None, (difference.least, difference.most))]
    text += f"; from {' to '.join(extremes)}{' in single seeds' if seeds > 1 else ''}."
    if difference.rate is None:
        return f"{text} No mean ratio of rates at the same {what}: {difference.why_no_rate}."
    return f"{text} At the same {what} {_ratio(difference)} of the bits."


def _interval(ends: tuple[float, float] | None, show: Callable[[float], str]) -> str:
    return f"[{', '.join(map(show, ends or ()))}]"


def _ratio(difference: Difference) -> str:
    """The BD-rate with its interval, in percent; there is none where most other draws of the images give a curve with a dip."""
    if difference.rate is None:
        return ""
    within = _interval(difference.rate_interval, _percent) if difference.rate_interval else "[no interval]"
    return f"{_percent(difference.rate)} % {within}"


def _percent(share: float) -> str:
    return f"{100 * share:+.1f}"


def rate_figure(results: Rates) -> Figure:
    """Draw accuracy in percent, and the test loss if it was kept, against bits per pixel on a logarithmic scale.

    Points are means over seeds. Bars are one standard deviation.
    """
    curves = rate_curves(results)
    with_loss = all("loss" in point for curve in curves for point in curve.points)
    figure = Figure(figsize=(12.5 if with_loss else 7.2, 4.6), layout="constrained")
    panels = figure.subplots(1, 2 if with_loss else 1, squeeze=False)[0]
    for axes, key, scale in zip(panels, ("accuracy", "loss"), (100, 1), strict=False):
        number = 0
        for name in dict.fromkeys(curve.name for curve in curves):
            rates, means, spreads = _means([curve for curve in curves if curve.name == name], key, scale)
            colour, line = _GREYS.get(name, (CURVES[number % len(CURVES)], "-"))
            number += name not in _GREYS
            style = {"color": colour, "linestyle": line, "marker": "o", "markersize": 3, "capsize": 2, "label": as_drawn(name)}
            axes.errorbar(rates, means, yerr=spreads, **style)
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axes.xaxis.set_minor_formatter(FuncFormatter(lambda x, _: f"{x:g}" if f"{x:e}"[0] in "25" else ""))
        axes.set_xlabel("bits per pixel of the files")
        axes.grid(alpha=0.25)
    plain = [result["accuracy"] for result in results.get("plain", {}).values()]
    if plain:
        level = 100 * statistics.fmean(plain)
        panels[0].axhline(level, color="0.6", linewidth=0.8, linestyle=":", label="plain, nothing stored")
    panels[0].set_ylabel("test accuracy on the decoded files, %")
    panels[0].legend(fontsize=8, frameon=False)
    if with_loss:
        panels[1].set_ylabel("test loss on the decoded files, nats")
    return figure


def _means(curves: Sequence[Curve], key: str, scale: float) -> tuple[list[float], list[float], list[float]]:
    """Of each point, over seeds: bits per pixel, what is called ``key`` and its standard deviation; ascending in bits."""
    by_point: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for curve in curves:
        for point in curve.points:
            by_point.setdefault((point["arm"], point["tables"]), []).append(point)
    rows = []
    for points in by_point.values():
        values = [scale * point[key] for point in points]
        spread = statistics.stdev(values) if len(values) > 1 else 0.0
        rows.append((statistics.fmean(p["bits_per_pixel"] for p in points), statistics.fmean(values), spread))
    rows.sort()
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]
