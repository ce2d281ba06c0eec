"""Attacks on the runs of several arms and seeds: as rows of a table, and as a picture."""

import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jpegdl.earlier import RENAMED
from jpegdl.errors import UsageError, how_many
from jpegdl.heatmaps import CURVES, as_drawn
from jpegdl.runs.record import same_images
from jpegdl.statistics import half_interval

#: By arm and seed, what :func:`jpegdl.robustness.attack_run` returned.
Results = dict[str, dict[int, dict[str, Any]]]

_SAME = ("classes", "images", "indices")
_WHERE = ("data", "data.path", "data.workers", "device")  # of the settings


def attack_rows(results: Results) -> list[dict[str, Any]]:
    """Return one row for each accuracy.

    Returns:
        Each with ``arm``, ``seed``, ``rounding``, ``norm``, ``eps`` (in units of pixels from 0 to 1), ``eps_255`` (in 1/255),
        ``attack``, ``gradient``, ``accuracy`` (0 to 1), ``alone`` (share of images that this alone broke at this eps),
        ``fools_plain`` (share of the images broken by this that the plain model, which knew them, then takes for another class
        too) and ``images``. The attack ``all`` is the worst of all, image by image: with gradient ``adaptive`` over every
        gradient, transfers and square, with ``own`` over white-box attacks through the layer's own. Without an attack the
        attack is ``none``; a corruption's is ``corruption`` or ``jpeg``, and its gradient the kind and severity, or the
        quality.
    """
    return [row for by_seed in results.values() for result in by_seed.values() for row in _rows(result)]


def _rows(result: dict[str, Any]) -> list[dict[str, Any]]:
    head = {name: result[name] for name in ("arm", "seed", "rounding")}

    def row(
        norm: str, eps: float, eps_255: float, attack: str, gradient: str, accuracy: float, trial: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        own = {"norm": norm, "eps": eps, "eps_255": eps_255, "attack": attack, "gradient": gradient, "accuracy": accuracy}
        of_trial = {name: trial[name] if trial else None for name in ("alone", "fools_plain")}
        return {**head, **own, **of_trial, "images": result["images"]}

    rows = [row("", 0.0, 0.0, "none", "", result["clean"]["accuracy"])]
    for level in result["levels"]:
        place = (level["norm"], level["eps"], level["eps_255"])
        rows.append(row(*place, "all", "adaptive", level["accuracy"]))
        if level["own_gradient"] is not None:
            rows.append(row(*place, "all", "own", level["own_gradient"]))
        rows += [row(*place, trial["attack"], trial["gradient"], trial["accuracy"], trial) for trial in level["trials"]]
    if result["corruptions"]:
        for kind, entry in result["corruptions"]["by"].items():
            rows += [row("", 0.0, 0.0, "corruption", f"{kind} {degree}", share) for degree, share in entry["by"].items()]
    if result["jpeg"]:
        rows += [row("", 0.0, 0.0, "jpeg", quality, share) for quality, share in result["jpeg"]["by"].items()]
    return rows


def attack_notes(results: Results) -> list[str]:
    """Return what one must know to compare these results, in sentences."""
    notes = []
    if len({tuple(by_seed) for by_seed in results.values()}) > 1:
        notes.append("Not all arms were attacked in the same seeds: a part of their differences may come from that.")
    used: dict[str, set[str]] = {}
    for _, result in _all(results):
        for name, version in {**result["versions"], "device": result["machine"]}.items():
            used.setdefault(name, set()).add(version)
    different = [f"{name} {' and '.join(sorted(versions))}" for name, versions in used.items() if len(versions) > 1]
    if different:
        notes.append(f"Attacked with different versions: {', '.join(different)}. An image at the edge may fall either way.")
    return notes


def attack_left_out(results: Results) -> list[str]:
    """Return what was not done in these attacks, and why, in sentences."""
    whose: dict[str, list[str]] = {}
    for name, result in _all(results):
        for what, why in result["left_out"].items():
            whose.setdefault(f"{what}, {why}", []).append(name)
    everyone = len(_all(results))
    return [
        f"Left out: {what}." if len(runs) == everyone else f"Left out of {'; '.join(runs)}: {what}."
        for what, runs in whose.items()
    ]


def attack_figure(results: Results, arms: Sequence[str] = ()) -> Figure | None:
    """Draw accuracy against eps: of each arm, adaptive (solid) and through the layer's own gradient alone (dashed).

    With several seeds, lines are means, and bands their 95 % intervals (Student's t over the seeds). The interval of two seeds
    would say nothing: thin lines show them instead.

    Args:
        results: of runs that were attacked with the same settings on the same images.
        arms: all arms of the comparison, in order, so that each has the colour of the other figures; default: those attacked.

    Returns:
        A figure with one panel for each norm; None if nothing was attacked.

    Raises:
        UsageError: the runs were attacked with different settings or on different images.
    """
    check_same(results)
    norms = list(dict.fromkeys(level["norm"] for _, result in _all(results) for level in result["levels"]))
    if not norms:
        return None
    figure = Figure(figsize=(5.6 * len(norms) + 0.8, 4), layout="constrained")
    row = figure.subplots(1, len(norms), squeeze=False)[0]
    for axes, norm in zip(row, norms, strict=True):
        _draw_norm(axes, norm, results, list(arms) or list(results))
    row[0].set_ylabel("accuracy, %")
    row[-1].legend(fontsize=8)
    images = next(result["images"] for _, result in _all(results))
    seeds = max(len(by_seed) for by_seed in results.values())
    bands = (
        "bands: 95 % interval of the mean over seeds" if seeds > 2 else "thin: each of two seeds" if seeds == 2 else "one seed"
    )
    figure.suptitle(
        f"solid: every attack, image by image; dashed: the layer's own gradient alone\n{how_many(images, 'image')}; {bands}",
        fontsize=9,
    )
    return figure


def _draw_norm(axes: Axes, norm: str, results: Results, arms: list[str]) -> None:
    for arm, by_seed in results.items():
        place = arms.index(arm)
        colour, marker = CURVES[place % len(CURVES)], "os^"[place // len(CURVES) % 3]
        for part, style, label in (("accuracy", "-", as_drawn(arm)), ("own_gradient", "--", None)):
            curves = [_curve(result, norm, part) for result in by_seed.values()]
            if not all(curves):
                continue
            eps = list(curves[0])
            points = [[100 * curve[at] for curve in curves] for at in eps]
            mean = [statistics.fmean(point) for point in points]
            axes.plot(
                eps, mean, style, color=colour, linewidth=2 if part == "accuracy" else 1.2, marker=marker, ms=3.5, label=label
            )
            if part == "accuracy" and len(curves) == 2:
                for curve in curves:
                    axes.plot(eps, [100 * curve[at] for at in eps], color=colour, linewidth=0.7, alpha=0.6)
            if part == "accuracy" and len(curves) > 2:
                half = [half_interval(point) for point in points]
                low, high = ([m + sign * h for m, h in zip(mean, half, strict=True)] for sign in (-1, 1))
                axes.fill_between(eps, low, high, color=colour, alpha=0.15, linewidth=0)
    unit = "largest change of a pixel value, 1/255" if norm == "Linf" else "Euclidean length of the change, 1/255"
    axes.set(xlabel=unit, title=norm)
    axes.set_ylim(bottom=0)
    axes.margins(x=0.03)
    axes.grid(alpha=0.25)


def _curve(result: dict[str, Any], norm: str, part: str) -> dict[float, float]:
    """Accuracy by eps in 1/255, from the clean one on; {} where the part was not measured."""
    found = {level["eps_255"]: level[part] for level in result["levels"] if level["norm"] == norm}
    if not found or any(value is None for value in found.values()):
        return {}
    return {0.0: result["clean"]["accuracy"], **found}


def _all(results: Results) -> list[tuple[str, dict[str, Any]]]:
    found = [(f"{arm}, seed {seed}", result) for arm, by_seed in results.items() for seed, result in by_seed.items()]
    if not found:
        raise UsageError("results must hold at least one run, got none")
    return found


def _what(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that numbers depend on, by the names of today, of a record that may be of an earlier version."""
    return {now: value for name, value in settings.items() if (now := RENAMED.get(name, name)) not in _WHERE}


def check_same(results: Results) -> None:
    """Refuse to put into one picture what cannot be compared.

    Raises:
        UsageError: two of them were attacked with other settings, or on other images.
    """
    for arm, by_seed in results.items():
        if len({result["plain"] is None for result in by_seed.values()}) > 1:
            raise UsageError(
                f"some seeds of {arm} have a plain model whose attacks were tried on them, and others have none: train "
                "plain with those seeds too"
            )
    (first_name, first), *others = _all(results)
    for name, result in others:
        differing = [part for part in _SAME if result[part] != first[part]]
        there, here = first["data"], result["data"]
        if there != here and (there["name"] != here["name"] or not same_images(there["test"], here["test"])):
            differing.append("data")
        then, now = _what(first["settings"]), _what(result["settings"])
        differing += [f"settings.{part}" for part in {**then, **now} if then.get(part) != now.get(part)]
        if differing:
            raise UsageError(
                f"{first_name} and {name} were attacked differently ({min(differing)}): attack them with the same settings"
            )
