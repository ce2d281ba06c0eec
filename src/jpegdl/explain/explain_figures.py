"""Pictures of what was measured, each from the content of its JSON file."""

import textwrap
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from jpegdl.explain.config import ALPHA, KINDS, SMALLEST_MAP
from jpegdl.heatmaps import CURVES, Array, as_drawn, change_figure, hatch, heat, shares_figure, short

if TYPE_CHECKING:
    from jpegdl.explain.single_images import ShownImage

_PLANES = {"luma": "luma", "chroma": "chroma (Cb and Cr)"}
_BITS = {
    "integers": "coefficients rounded to integers",
    "levels": "levels, round(z / step) within the cap",
    "kept": "what a level drawn from P(k | z) tells of z",
}


def tables_figure(name: str, content: dict[str, Any]) -> Figure | None:
    """Draw tables before and after training, and their change; None where no table is one for all blocks."""
    return change_figure(name, content["kind"], [content], grey=content["grey"])


def history_figure(name: str, content: dict[str, Any]) -> Figure:
    """Draw steps by epoch, the chosen frequencies in colour and all others in grey."""
    figure = Figure(figsize=(12, 4.6), layout="constrained")
    low, _ = content["range"]
    for axes, plane in zip(figure.subplots(1, 2), _PLANES, strict=True):
        if plane == "chroma" and content["grey"]:
            hatch(axes, "chroma")
            continue
        steps = np.array(content[plane])
        axes.plot(content["epoch"], steps.reshape(len(steps), -1), color="0.85", linewidth=0.7, zorder=1)
        for (row, column), colour in zip(content["frequencies"], cycle(CURVES), strict=False):
            axes.plot(content["epoch"], steps[:, row, column], color=colour, linewidth=2, label=f"({row}, {column})")
        axes.axhline(low, color="magenta", linestyle="--", linewidth=1, label=f"floor, {low:g}")
        axes.set(yscale="log", xlabel="epoch (0: before training)", ylabel="step, JPEG table units")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_title(f"{plane}\n{_folded(content['words'][plane])}", fontsize=9)
        axes.legend(fontsize=8, title="(row, column)", title_fontsize=8)
        axes.grid(alpha=0.25)
    figure.suptitle(f"{name}: steps during training (grey: all other frequencies)")
    return figure


def saturation_figure(name: str, content: dict[str, Any]) -> Figure | None:
    """Draw the share of coefficients at the level cap; None where there is no cap."""
    if content["saturation"] is None:
        return None
    shares = {words: np.array(content["saturation"][plane]) for plane, words in _PLANES.items()}
    figure = shares_figure(shares, "coefficients at the cap, %", grey=content["grey"])
    cap = "" if content["cap"] is None else f", ±{content['cap']}"
    figure.suptitle(f"{name}: share of coefficients at the level cap{cap}, %, over {content['images']} test images")
    return figure


def bits_figure(name: str, content: dict[str, Any]) -> Figure | None:
    """Draw the bits per frequency of what goes in and of what is left; None where neither is known."""
    if content["bits"] is None:
        return None
    bits = dict(content["bits"])
    if bits["soft"] is not None:  # without the draw's own randomness
        parts = {plane: (np.array(bits["soft"][plane]), np.array(bits["soft_given_z"][plane])) for plane in bits["soft"]}
        bits["kept"] = {plane: np.maximum(soft - given, 0) for plane, (soft, given) in parts.items()}
    known = {what: bits[what] for what in _BITS if bits.get(what) is not None}
    planes = ["luma"] if content["grey"] else list(_PLANES)
    figure = Figure(figsize=(1.4 + 4 * len(known), 0.9 + 4.6 * len(planes)), layout="constrained")
    panels = figure.subplots(len(planes), len(known), squeeze=False)
    largest = max(np.max(known[what][plane]) for what in known for plane in planes) or 1.0
    for (row, column), axes in np.ndenumerate(panels):
        what, plane = list(known)[column], planes[row]
        table = np.array(known[what][plane])
        total = f"{plane}: {_BITS[what]}\nmean over frequencies {table.mean():.2f} bits"
        image = heat(axes, table, Normalize(0, largest), total, "{:.1f}".format, "viridis")
    figure.colorbar(image, ax=list(panels.flat), shrink=0.8).set_label("bits per coefficient", fontsize=8)
    grey = " (grey images: no chroma)" if content["grey"] else ""
    figure.suptitle(f"{name}: bits of information per frequency, over {content['images']} test images{grey}")
    return figure


def transfer_figure(name: str, content: dict[str, Any]) -> Figure | None:
    """Draw Q(z) of single frequencies over the data's histogram of z; None where there are no such curves."""
    if content["transfer"] is None:
        return None
    curves = [curve for curve in content["transfer"] if not (content["grey"] and curve["plane"] == "chroma")]
    rows = len({curve["plane"] for curve in curves})
    columns = len(curves) // rows
    figure = Figure(figsize=(1 + 3.6 * columns, 0.8 + 3 * rows), layout="constrained")
    for axes, curve in zip(figure.subplots(rows, columns, squeeze=False).flat, curves, strict=True):
        z, output = np.array(curve["z"]), np.array(curve["output"])
        behind = axes.twinx()
        _histogram(behind, np.array(curve["numbers"]), np.array(curve["counts"]), z[-1])
        axes.set_zorder(behind.get_zorder() + 1)
        axes.patch.set_visible(False)
        axes.plot(z, z, color="0.4", linewidth=0.8, linestyle=":")
        axes.plot(z, output, color=CURVES[0], linewidth=1.6)
        high = 1.15 * float(np.abs(output).max()) or 1.0
        axes.set(xlim=(z[0], z[-1]), ylim=(-high, high), xlabel="z")
        axes.set_title(f"{curve['plane']} ({curve['frequency'][0]}, {curve['frequency'][1]}){_setting(curve)}", fontsize=9)
        axes.set_ylabel("Q(z)", color=CURVES[0])
        axes.tick_params(labelsize=8)
    grey = "; grey images: no chroma" if content["grey"] else ""
    figure.suptitle(
        f"{name}: what becomes of a coefficient z (blue; dotted: unchanged) over how often it occurs (grey, log scale){grey}",
        fontsize=11,
    )
    return figure


def _setting(curve: dict[str, Any]) -> str:
    """The step and the cap that it makes, or the scale or gain; nothing for a layer that has none of these."""
    if curve["table"] is None:
        return ""
    cap = "" if curve["cap"] is None else f", cap ±{short(curve['cap'])}"
    return f", {curve['table_kind']} {short(curve['table'])}{cap}"


def _histogram(axes: Axes, numbers: Array, counts: Array, reach: float) -> None:
    """Bars of whole numbers, up to about 120 of them, within ±reach."""
    width = max(1, int(np.ceil(2 * reach / 120)))
    inside = np.abs(numbers) <= reach + 0.5
    places, where = np.unique(numbers[inside] // width, return_inverse=True)
    axes.bar(places * width + (width - 1) / 2, np.bincount(where, counts[inside]), width=width, color="0.85", linewidth=0)
    axes.set_yscale("log")
    axes.set_yticks([])
    axes.minorticks_off()


def ablation_figure(name: str, content: dict[str, Any]) -> Figure:
    """Draw how much test accuracy changes with one frequency altered, in points, a column of panels for each kind."""
    variants = content["variants"]
    kinds = [kind for kind in KINDS if any(variant.startswith(f"{kind}/") for variant in variants)]
    planes = [plane for plane in _PLANES if any(f"/{plane}/" in variant for variant in variants)]
    figure = Figure(figsize=(1.6 + 4.1 * len(kinds), 1.2 + 3.5 * len(planes)), layout="constrained")
    panels = figure.subplots(len(planes), len(kinds), squeeze=False)
    largest = max(max(abs(100 * entry["change"]) for entry in variants.values()), 0.5)
    norm = TwoSlopeNorm(0, -largest, largest)
    for (row, column), axes in np.ndenumerate(panels):
        kind, plane = kinds[column], planes[row]
        cells = [[variants[f"{kind}/{plane}/{v}/{h}"] for h in range(8)] for v in range(8)]
        change = 100 * np.array([[cell["change"] for cell in line] for line in cells])
        image = heat(axes, change, norm, f"{plane}, {KINDS[kind]}", _signed, "RdBu")
        for (v, h), _ in np.ndenumerate(change):
            if cells[v][h]["q"] >= ALPHA:
                box = Rectangle((h - 0.5, v - 0.5), 1, 1, fill=False, hatch="////", edgecolor="0.75", linewidth=0, zorder=1.5)
                axes.add_patch(box)
    figure.colorbar(image, ax=list(panels.flat), shrink=0.8).set_label("change of test accuracy, points", fontsize=8)
    grey = "" if "chroma" in planes else " Grey images: no chroma."
    figure.suptitle(
        f"{name}: one frequency altered, {content['images']} test images, unaltered {100 * content['accuracy']:.2f} %"
    )
    figure.supxlabel(
        f"hatched: not significant (McNemar's exact test, paired by image; false discovery rate {100 * ALPHA:.0f} %).{grey}",
        fontsize=9,
    )
    return figure


def _signed(value: float) -> str:
    return "0" if value == 0 else f"{value:+.1f}".replace("-", "−")


def picture_figure(name: str, content: dict[str, Any], shown: "ShownImage") -> Figure:
    """Draw one image: before and after the layer, what the bands lost, attention and first feature maps of both models."""
    numbers, models = shown.numbers, content["models"]
    figure = Figure(figsize=(14, 7.4), layout="constrained")
    panels = figure.subplots(2, 4)
    before, after = (x.permute(1, 2, 0).numpy() for x in (shown.image, shown.output))
    scale = numbers["difference_scale"]
    _image(panels[0, 0], before, f"input, test image {numbers['index']}: {as_drawn(numbers['class'])}")
    _image(panels[0, 1], np.clip(after, 0, 1), "layer output (clipped to be shown)")
    _image(panels[0, 2], np.clip(0.5 + scale * (after - before), 0, 1), f"output − input, ×{scale:g} around grey")
    _bands(panels[0, 3], numbers["energy"], bool((shown.image == shown.image[:1]).all()))
    for column, model in enumerate(models):
        chance = 100 * numbers["probability"][model]
        title = f"{model}: {as_drawn(numbers['predicted'][model])},\ntrue class {chance:.1f} %"
        if model in shown.attention:
            _attention(panels[1, column], np.clip(before, 0, 1), shown.attention[model].numpy(), f"Grad-CAM++, {title}")
        else:
            hatch(panels[1, column], title, f"no feature map of {SMALLEST_MAP} x {SMALLEST_MAP}")
        axes = panels[1, 2 + column]
        if model in shown.maps:
            title = f"{model}: first stage ({content['first_stage'][model]}),\nthe {len(shown.maps[model])} maps that vary most"
            axes.imshow(_mosaic(shown.maps[model].numpy()), cmap="viridis")
            axes.set_axis_off()
            axes.set_title(title, fontsize=9)
        else:
            hatch(axes, model, "no feature maps")
    figure.suptitle(f"{name}. {content['rule']}\nThis one: {numbers['chosen']}.", fontsize=10)
    return figure


def _image(axes: Axes, image: Array, title: str) -> None:
    axes.imshow(image, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title, fontsize=9)


def _attention(axes: Axes, image: Array, attention: Array, title: str) -> None:
    height, width = image.shape[:2]
    axes.imshow(image.mean(2), cmap="gray", vmin=0, vmax=1)
    axes.imshow(attention, cmap="inferno", vmin=0, vmax=1, alpha=0.55, extent=(-0.5, width - 0.5, height - 0.5, -0.5),
                interpolation="bilinear")  # fmt: skip
    axes.set_axis_off()
    axes.set_title(title, fontsize=9)


def _bands(axes: Axes, energy: dict[str, Any], grey: bool) -> None:
    """Bars of each band's energy after the layer and of its difference, in % of that before, and both in numbers."""
    planes = ["luma"] if grey else list(energy)
    labels, kept, error = [], [], []
    for plane in planes:
        for band, parts in energy[plane].items():
            labels.append(f"{plane}, {band}")
            known = parts["before"] > 1e-6  # else there was nothing to lose
            kept.append(100 * parts["after"] / parts["before"] if known else np.nan)
            error.append(100 * parts["difference"] / parts["before"] if known else np.nan)
    rows = np.arange(len(labels))
    widest = 120.0
    for offset, values, colour, name in ((-0.2, kept, CURVES[0], "output"), (0.2, error, CURVES[1], "difference")):
        axes.barh(rows + offset, np.minimum(np.nan_to_num(values), widest), height=0.38, color=colour, label=name)
        for row, value in zip(rows, values, strict=True):
            text = "nothing there" if np.isnan(value) else f"{value:.3g}" if value >= 0.01 else "0"
            axes.text(min(np.nan_to_num(value), widest) + 2, row + offset, text, va="center", fontsize=7)
    axes.set_yticks(rows, labels, fontsize=8)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlim(0, widest + 30)
    axes.set_xlabel("energy, % of the input's", fontsize=8)
    axes.tick_params(axis="x", labelsize=8)
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
    axes.set_title("energy by band", fontsize=9)


def _mosaic(maps: Array) -> Array:
    """(n, h, w), up to 8, as a picture of two rows, each map between its own lowest and highest value."""
    low, high = maps.min((1, 2), keepdims=True), maps.max((1, 2), keepdims=True)
    maps = (maps - low) / np.where(high > low, high - low, 1)
    columns = (len(maps) + 1) // 2
    height, width = maps.shape[1:]
    gap = max(1, height // 16)
    picture = np.full((2 * height + gap, columns * (width + gap) - gap), np.nan)
    for i, each in enumerate(maps):
        row, column = divmod(i, columns)
        picture[
            row * (height + gap) : row * (height + gap) + height, column * (width + gap) : column * (width + gap) + width
        ] = each
    return picture


def _folded(text: str) -> str:
    """Text in a few lines; what does not fit is in the JSON file."""
    return "\n".join(textwrap.wrap(text, 90, max_lines=3, placeholder=" ..."))
