"""What several pictures share: 8x8 tables as heat maps, their change by training, and the colours of these and of curves."""

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle

from jpegdl.layer import STEP_RANGE
from jpegdl.layer.companding import SMALLEST_SCALE

Array = np.ndarray[Any, np.dtype[Any]]

#: Colours of curves, which colour-blind people tell apart too: of the palettes of Okabe and Ito, and of Tol.
CURVES = (
    "#0072b2", "#d55e00", "#009e73", "#aa3377", "#e69f00", "#56b4e9", "#cc79a7", "#6e6e6e", "#999933", "#332288",
)  # fmt: skip
GREY = "grey images: no chroma to learn from"
# By what a table's numbers are: their name, the label of their colours, the bounds that training keeps them in.
_KINDS: dict[str, tuple[str, str, tuple[float, float]]] = {
    "steps": ("quantization steps", "step, JPEG table units", STEP_RANGE),
    "scales": ("compander scales", "scale, JPEG table units", (SMALLEST_SCALE, np.inf)),
    "gains": ("gains", "gain", (-np.inf, np.inf)),
}
DRAWN = tuple(_KINDS)  # the kinds of tables that are drawn
# Colours of what changed mean the same in all figures; a number beyond them is written in its cell.
_RATIOS = {1 / 30: "×1/30", 1 / 10: "×1/10", 1 / 3: "×1/3", 1.0: "×1", 3.0: "×3", 10.0: "×10", 30.0: "×30"}
_DIFFERENCES = {-1.0: "−1", -0.5: "−0.5", 0.0: "0", 0.5: "+0.5", 1.0: "+1"}


def change_figure(name: str, kind: str, entries: list[dict[str, Any]], *, grey: bool) -> Figure | None:
    """Draw tables before and after training, mean over runs, and what changed. None where no table is one for all blocks, or
    its numbers are of no kind that is drawn.

    Steps and scales have their geometric mean and the ratio of the two, gains the arithmetic mean and the difference.

    Args:
        name: whose tables they are, for the title.
        kind: what the numbers are, one of :data:`jpegdl.tables.KINDS`.
        entries: what ``tables.json`` holds, of each run.
        grey: whether all images are grey, so that the tables of chroma mean nothing.
    """
    planes = [name for name in entries[0]["after"] if name.rpartition(".")[2] in ("luma", "chroma")]
    names = [name for name in planes if np.shape(entries[0]["after"][name]) == (8, 8)]  # regions have one each
    if not names or kind not in DRAWN:
        return None
    masked = [grey and "chroma" in table for table in names]
    figure = Figure(figsize=(12, 0.6 + sum(0.9 if mask else 3.5 for mask in masked)), layout="constrained")
    grid = figure.add_gridspec(len(names), 3, height_ratios=[0.12 if mask else 1 for mask in masked])
    at_bound = False
    for row, table in enumerate(names):
        panels = [figure.add_subplot(grid[row, column]) for column in range(3)]
        if masked[row]:
            for axes, when in zip(panels, ("before training", "after training", "after / before"), strict=True):
                hatch(axes, f"{_in_words(table)}, {when}")
            continue
        tables = np.array([[entry[when][table] for entry in entries] for when in ("before", "after")], dtype=float)
        at_bound |= _draw_change(figure, panels, tables, kind, _in_words(table))
    what, _, (low, high) = _KINDS[kind]
    seeds = "one seed" if len(entries) == 1 else f"{'mean' if kind == 'gains' else 'geometric mean'} over {len(entries)} seeds"
    figure.suptitle(f"{name}: {what} ({seeds})")
    if at_bound:
        bounds = f"{short(low)} to {short(high)}" if np.isfinite(high) else f"from {short(low)} on"
        where = "" if len(entries) == 1 else ", in at least one seed"
        figure.supxlabel(f"□ at an end of the range that {kind} are kept in, {bounds}{where}", fontsize=10, color="magenta")
    return figure


def _in_words(name: str) -> str:
    """luma, chroma; of a cascade, whose tables are 0.luma, 0.chroma, 1.luma and so on, which layer's."""
    layer, _, plane = name.rpartition(".")
    return f"layer {int(layer) + 1}, {plane}" if layer.isdecimal() else plane


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
        smallest, largest, ticks = round_numbers(both if bounded.all() else both[~bounded])  # the others would stretch it
        norm, colours = LogNorm(smallest, largest), "viridis"
    for axes, table, marks, when in zip(panels, both, bounded, ("before", "after"), strict=False):
        image = heat(axes, table, norm, f"{name}, {when} training", short, colours, marks)
    colour_bar(figure, image, panels[:2], both, {tick: short(tick) for tick in ticks}, label)
    image = heat(panels[2], change, change_norm, f"{name}, {title}", short, "RdBu_r", np.any(bounded, axis=0))
    colour_bar(figure, image, panels[2:], change, change_ticks, title)
    return bool(bounded.any())


def round_numbers(values: Array) -> tuple[float, float, list[float]]:
    """Find the nearest of 1, 2, 5, 10, 20, ... below and above all values, and up to eight between or powers of ten."""
    low, high = values.min(), values.max()
    decades = range(int(np.floor(np.log10(low))) - 1, int(np.ceil(np.log10(high))) + 2)
    numbers = [digit * 10.0**decade for decade in decades for digit in (1, 2, 5)]
    first = max(i for i, number in enumerate(numbers) if number <= low * (1 + 1e-9))
    last = min(i for i, number in enumerate(numbers) if number >= high * (1 - 1e-9))
    if first == last:  # all values are the same
        first, last = first - 1, last + 1
    ticks = numbers[first : last + 1]
    return ticks[0], ticks[-1], ticks if len(ticks) <= 8 else [tick for tick in ticks if tick in numbers[::3]]


def as_drawn(name: str) -> str:
    """Return the user's name for something as figures can show it: dollars make no formula, and it is text."""
    text = name.encode(errors="backslashreplace").decode().replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text  # a label that begins so is none to Matplotlib


def short(value: float) -> str:
    """Write two digits in as little room as they take: 0.021, 127, 1e-5."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:.2g}" if abs(value) < 99.5 else f"{value:.0f}"
    digits, exponent = f"{value:.1e}".split("e")
    return f"{digits.removesuffix('.0')}e{int(exponent)}"


def heat(
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


def shares_figure(shares: dict[str, Array], label: str, *, grey: bool) -> Figure:
    """Draw shares, 0 to 1, of luma and then of chroma: by their titles (8, 8) tables, side by side, in percent.

    Where all images are ``grey``, the shares of chroma mean nothing.
    """
    figure = Figure(figsize=(12, 4.2) if len(shares) == 3 else (9, 4.8), layout="constrained")
    panels = list(figure.subplots(1, len(shares)))
    for axes, (title, share) in zip(panels, shares.items(), strict=True):
        if grey and axes is not panels[0]:
            hatch(axes, title)
            axes.set_box_aspect(1)
        else:
            image = heat(axes, 100 * share, Normalize(0, 100), title, "{:.0f}".format, "magma")
    figure.colorbar(image, ax=panels, shrink=0.8).set_label(label, fontsize=8)
    return figure


def colour_bar(
    figure: Figure, image: AxesImage, panels: list[Axes], values: Array, ticks: dict[float, str], label: str
) -> None:
    """Draw a colour bar with these ticks and no others; an arrow at an end that values lie beyond."""
    low, high = image.get_clim()
    below, above = values.min() < low * (1 - 1e-9), values.max() > high * (1 + 1e-9)
    extend = "both" if below and above else "min" if below else "max" if above else "neither"
    bar = figure.colorbar(image, ax=panels, shrink=0.8, extend=extend, ticks=list(ticks))
    bar.ax.minorticks_off()
    bar.ax.set_yticklabels(ticks.values())
    bar.set_label(label, fontsize=8)


def hatch(axes: Axes, title: str, reason: str = GREY) -> None:
    """Draw a panel that says why there is nothing in it."""
    axes.add_patch(Rectangle((0, 0), 1, 1, transform=axes.transAxes, hatch="///", facecolor="0.96", edgecolor="0.8"))
    axes.text(
        0.5, 0.5, reason, transform=axes.transAxes, ha="center", va="center", fontsize=9, bbox={"fc": "white", "ec": "0.8"}
    )
    axes.set_title(title, fontsize=10)
    axes.set_xticks([])
    axes.set_yticks([])
