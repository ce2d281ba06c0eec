"""Pictures of findings whose numbers stand in a table alone: python -m jpegdl_studies.pictures STUDIES DOCS

STUDIES is the folder of the studies, DOCS where ``attacks.png``, ``cost.png``, ``finetune.png``, ``pretrained.png``,
``rate-lite0.png``, ``resnet18.png``, ``variants-folds.png`` and ``when.png`` go. Every number is read from the studies'
FINDINGS.md and results, none is written here. The pictures are narrow and their letters large, so that they are read on a
phone too.
"""

import csv
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from cycler import cycler

WIDTH = 5.2  # inches
#: The palette of Okabe and Ito, as in jpegdl's own pictures, which colour-blind people can read.
CURVES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

Table = list[list[str]]
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")


def read_tables(page: Path) -> list[Table]:
    """Return the tables of a page in Markdown: rows of cells, without the header and its rule."""
    tables: list[Table] = []
    inside = False
    for line in page.read_text(encoding="utf-8").splitlines():
        if line.startswith("|"):
            if not inside:
                tables.append([])
            tables[-1].append([cell.strip() for cell in line.strip("|").split("|")])
        inside = line.startswith("|")
    return [table[2:] for table in tables]


def numbers(text: str) -> list[float]:
    """Return the numbers in a cell."""
    return [float(found) for found in NUMBER.findall(text.replace("±", " "))]


def main() -> None:
    studies, docs = map(Path, sys.argv[1:3])
    plt.rcParams.update({"axes.prop_cycle": cycler(color=CURVES), "font.size": 10})
    for name, draw in (("attacks", _attacks), ("cost", _cost), ("finetune", _finetune), ("pretrained", _pretrained)):
        _save(draw(studies / name / "FINDINGS.md"), docs / f"{name}.png")
    _save(_resnet18(studies / "resnet18" / "FINDINGS.md"), docs / "resnet18.png")
    _save(_folds(studies / "variants" / "FINDINGS.md"), docs / "variants-folds.png")
    _save(_when(studies / "when" / "FINDINGS.md"), docs / "when.png")
    _save(_rate(studies / "rate" / "results" / "first.csv"), docs / "rate-lite0.png")


def _save(figure: Any, path: Path) -> None:
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)


def _attacks(page: Path) -> Any:
    """Draw accuracy against the size of the attack, every attack taken together, of three networks."""
    large, small, demo, _ = read_tables(page)
    text = " ".join(page.read_text(encoding="utf-8").split())
    found = re.search(r"plain knows (\S+ ± \S+) %, jpeg-dl (\S+ ± \S+) and local contrast (\S+ ± \S+):", text)
    assert found is not None
    figure, panels = plt.subplots(3, 1, figsize=(WIDTH, 7.5), sharey=True, layout="constrained")
    curves: list[dict[str, list[tuple[float, list[float]]]]] = [{}, {}, {}]
    for row in large:
        eps = _eps(row[0])
        curves[0].setdefault("plain", []).append((eps, numbers(row[1])))
        curves[0].setdefault("jpeg-dl", []).append((eps, numbers(row[3])))
    for arm, clean, row in zip(("plain", "jpeg-dl", "local contrast"), found.groups(), small, strict=False):
        curves[1][arm] = [(0, numbers(clean)), (1, numbers(row[-2]))]
    for row in demo:
        curves[2].setdefault(row[0], []).append((_eps(row[1]), numbers(row[3])))
    titles = ("dtd10, ResNet-18", "dtd10, thin ResNet-8", "demo, ResNet-8")
    for axes, title, curve in zip(panels, titles, curves, strict=True):
        for arm, points in curve.items():
            means, spreads = [point[1][0] for point in points], [point[1][1] for point in points]
            axes.errorbar([point[0] for point in points], means, spreads, fmt="o-", capsize=3, label=arm)
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend()
    panels[-1].set_xlabel("largest change of a pixel, 1/255 (Linf)")
    figure.supylabel("accuracy, %; bars: sd over seeds", fontsize=10)
    return figure


def _eps(text: str) -> float:
    return float(text.split("/")[0])


def _cost(page: Path) -> Any:
    """Draw times relative to plain, with quartiles."""
    (table,) = read_tables(page)
    figure, panels = plt.subplots(2, 1, figsize=(WIDTH, 4.6), layout="constrained")
    size, names, times = "", [], []
    for row in table:
        size = row[0] or size
        if row[3]:
            names.append(f"{row[1].strip('`')}, {size.split(',')[0]} pixels")
            times.append((numbers(row[3]), numbers(row[5])))
    for place, (axes, title) in enumerate(zip(panels, ("forward and backward", "prediction"), strict=True)):
        for y, entry in enumerate(times):
            middle, low, high = entry[place]
            colour = f"C{y // (len(times) // 2)}"
            axes.errorbar(middle, y, xerr=[[middle - low], [high - middle]], fmt="o", color=colour, capsize=3)
        axes.axvline(1, color="#888888", linewidth=1)
        axes.set_xlabel(f"{title}, time over plain's")
        axes.grid(axis="x", alpha=0.3)
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
    return figure


def _finetune(page: Path) -> Any:
    """Draw differences from plain on both sets."""
    return _intervals({name: table[1][2] for name, table in zip(("dtd10", "flowers89"), read_tables(page), strict=True)})


def _folds(page: Path) -> Any:
    """Draw differences from plain of each arm, over folds."""
    return _intervals({row[0].strip("`"): row[4] for row in read_tables(page)[0] if row[4]})


def _when(page: Path) -> Any:
    """Draw differences from plain, one thing changed at a time."""
    names = [f"{row[0]}: {row[1]}".replace("nothing", "as it is") for row in read_tables(page)[1]]
    cells = [row[4] for row in read_tables(page)[1]]
    return _intervals({name.replace(", ", ",\n", 1): cell for name, cell in zip(names, cells, strict=True)})


def _intervals(cells: dict[str, str]) -> Any:
    """Draw differences from plain, each a cell "+1.0 [-2.0, +3.0]", with their intervals."""
    lines = sum(1 + name.count("\n") for name in cells)
    figure, axes = plt.subplots(figsize=(WIDTH, 0.8 + 0.3 * lines), layout="constrained")
    for y, cell in enumerate(cells.values()):
        difference, low, high = numbers(cell)[:3]
        ends = [[difference - low], [high - difference]]
        axes.errorbar(difference, y, xerr=ends, fmt="o", color=CURVES[0], capsize=3)
    axes.set_yticks(range(len(cells)), cells)
    axes.set_ylim(len(cells) - 0.4, -0.6)
    axes.axvline(0, color="#888888", linewidth=1)
    axes.set_xlabel("difference from plain, points of accuracy\n(bars: 95 % intervals)")
    axes.grid(axis="x", alpha=0.3)
    return figure


def _pretrained(page: Path) -> Any:
    """Draw accuracy against the quality of the tables."""
    (table,) = read_tables(page)
    none, capped = numbers(table[0][1])[0], table[-1]
    points = [(numbers(row[0])[0], numbers(row[1])[0]) for row in table[1:-1]]
    figure, axes = plt.subplots(figsize=(WIDTH, 3), layout="constrained")
    axes.plot(*zip(*points, strict=True), "o-", label="levels without a cap")
    axes.plot(numbers(capped[0])[0], numbers(capped[1])[0], "o", label="8-bit levels")
    axes.axhline(none, color="#888888", linestyle=":", label="no layer")
    axes.set_xlabel("quality of the standard tables")
    axes.set_ylabel("accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def _resnet18(page: Path) -> Any:
    """Draw each seed of both arms."""
    plain, layer = (_values(row) for row in read_tables(page)[1])
    figure, axes = plt.subplots(figsize=(WIDTH, 3.2), layout="constrained")
    for seed, pair in enumerate(zip(plain, layer, strict=True)):
        axes.plot((0, 1), pair, "o-", label=f"seed {seed}")
    axes.set_xticks((0, 1), ["plain", "jpeg-dl"])
    axes.set_xlim(-0.2, 1.2)
    axes.set_ylabel("test accuracy, %")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=8)
    return figure


def _rate(results: Path) -> Any:
    """Draw accuracy and loss on decoded files against their bits per pixel: default JPEG, and tables trained for files."""
    named = {
        "default JPEG 4:2:0": ("default, 4:2:0", "#6e6e6e", "--"),
        "default JPEG 4:4:4": ("default, 4:4:4", "#6e6e6e", "-"),
        "matched420": ("learned, 4:2:0", CURVES[0], "-"),
        "matched444": ("learned, 4:4:4", CURVES[1], "-"),
    }
    with results.open(encoding="utf-8") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: float(row["bits_per_pixel"]))
    figure, panels = plt.subplots(2, 1, figsize=(WIDTH, 6.4), sharex=True, layout="constrained")
    for curve, (label, colour, line) in named.items():
        points = [row for row in rows if row["curve"] == curve and 0.25 < float(row["bits_per_pixel"]) < 3]
        rates = [float(row["bits_per_pixel"]) for row in points]
        for axes, key, scale in ((panels[0], "accuracy", 100), (panels[1], "loss", 1)):
            axes.plot(rates, [scale * float(row[key]) for row in points], line, marker="o", ms=4, color=colour, label=label)
            axes.set_xscale("log")
            axes.grid(alpha=0.3)
    panels[0].set_ylabel("accuracy on the files, %")
    panels[1].set_ylabel("loss on the files, nats")
    panels[1].set_xticks([0.3, 0.5, 1, 2], ["0.3", "0.5", "1", "2"], minor=False)
    panels[1].minorticks_off()
    panels[1].set_xlabel("bits per pixel of the files")
    panels[0].legend()
    return figure


def _values(row: Sequence[str]) -> list[float]:
    return [numbers(cell)[0] for cell in row[1:]]


if __name__ == "__main__":
    main()
