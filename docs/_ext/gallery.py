"""Draw pictures of the gallery from comparisons: ``python docs/_ext/gallery.py runs/demo runs/textures runs/flowers``.

Small figures with large letters, for phones; the same colours as in the command's own.
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.colors import LogNorm, TwoSlopeNorm
from matplotlib.figure import Figure

from jpegdl.explain import ExplainConfig
from jpegdl.explain.config import ALPHA, KINDS
from jpegdl.explain.single_images import show
from jpegdl.explain.subject import open_subject
from jpegdl.functional import soft_quantize
from jpegdl.heatmaps import CURVES
from jpegdl.runs import RunFolder

PICTURES = Path(__file__).resolve().parents[1] / "pictures"
WIDTH = 5.2  # inches; on a phone letters of 9 points are still read
FREQUENCIES = ((0, 0), (0, 1), (2, 2), (6, 6))


def learned(runs: dict[str, RunFolder]) -> Figure:
    """Steps of luma and of chroma before and after training, a row for each set."""
    figure = Figure(figsize=(WIDTH, 0.8 + 1.45 * len(runs)), layout="constrained")
    grid = figure.subplots(len(runs), 4, squeeze=False)
    for row, (name, run) in zip(grid, runs.items(), strict=True):
        shown = [(plane, when) for plane in ("luma", "chroma") for when in ("before", "after")]
        for panel, (plane, when) in zip(row, shown, strict=True):
            image = panel.imshow(np.array(run.tables()[when][plane]), norm=LogNorm(1e-3, 30), cmap="viridis")
            panel.set_title(f"{plane}, {when}", fontsize=9)
            panel.set_xticks([])
            panel.set_yticks([])
        row[0].set_ylabel(name, fontsize=10)
    bar = figure.colorbar(image, ax=grid, location="bottom", extend="both", shrink=0.8, aspect=40)
    bar.set_label("step, JPEG table units", fontsize=10)
    return figure


def saturation(runs: dict[str, RunFolder]) -> Figure:
    """Share of coefficients at the level cap, in percent, of luma and of chroma."""
    figure = Figure(figsize=(WIDTH, 4.2), layout="constrained")
    grid = figure.subplots(2, len(runs), squeeze=False)
    for column, (name, run) in zip(grid.T, runs.items(), strict=True):
        shares = np.array(run.result()["saturation"])
        for panel, plane, share in zip(column, ("luma", "chroma"), (shares[0], shares[1:].mean(0)), strict=True):
            image = panel.imshow(100 * share, vmin=0, vmax=100, cmap="cividis")
            panel.set_title(f"{name}, {plane}\nDC {100 * share[0, 0]:.0f} %", fontsize=10)
            panel.set_xticks([])
            panel.set_yticks([])
    figure.colorbar(image, ax=grid, label="at the cap, %", shrink=0.9)
    return figure


def transfer(run: RunFolder) -> Figure:
    """What becomes of a coefficient of luma, at four frequencies, after training."""
    layer = run.config().layer
    steps = torch.tensor(run.tables()["after"]["luma"], dtype=torch.float64)
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    for panel, (row, column) in zip(figure.subplots(2, 2).flat, FREQUENCIES, strict=True):
        q = steps[row, column]
        largest = max(4 * float(q), 1.5 * 127 * float(q) if q < 0.1 else 0)
        z = torch.linspace(-largest, largest, 2001, dtype=torch.float64)
        alpha = layer.hardness / q**2 if layer.hardness else torch.tensor(layer.alpha or 5.0, dtype=torch.float64)
        panel.plot(z, soft_quantize(z, q, alpha, bits=layer.bits, window=layer.window), color=CURVES[0], linewidth=2)
        panel.plot(z, z, ":", color="black", linewidth=1)
        panel.set_title(f"{'DC' if (row, column) == (0, 0) else f'({row}, {column})'}, step {float(q):.2g}", fontsize=10)
        panel.tick_params(labelsize=8)
    figure.supxlabel("coefficient in", fontsize=10)
    figure.supylabel("coefficient out", fontsize=10)
    return figure


def ablation(run: RunFolder) -> Figure:
    """Change of accuracy with one frequency of luma or chroma altered, in points: those that are significant, in numbers."""
    content = json.loads((run.path / "explain" / "ablation.json").read_text(encoding="utf-8"))
    variants = content["variants"]
    figure = Figure(figsize=(WIDTH, 7.6), layout="constrained")
    grid = figure.subplots(3, 2)
    norm = TwoSlopeNorm(0, -80, 80)
    for row, (kind, words) in zip(grid, KINDS.items(), strict=True):
        for panel, plane in zip(row, ("luma", "chroma"), strict=True):
            cells = [[variants[f"{kind}/{plane}/{v}/{h}"] for h in range(8)] for v in range(8)]
            change = 100 * np.array([[cell["change"] for cell in line] for line in cells])
            image = panel.imshow(change, norm=norm, cmap="RdBu")
            for (v, h), points in np.ndenumerate(change):
                if cells[v][h]["q"] < ALPHA:
                    colour = "white" if abs(points) > 45 else "black"
                    panel.text(
                        h, v, f"{points:.0f}".replace("-", "\u2212"), ha="center", va="center", fontsize=7.5, color=colour
                    )
            if not panel.texts:
                panel.text(3.5, 3.5, "no significant change", ha="center", va="center", fontsize=9, color="0.4")
            panel.set_title(f"{plane}, {words}", fontsize=8)
            panel.set_xticks([])
            panel.set_yticks([])
    bar = figure.colorbar(image, ax=grid, location="bottom", shrink=0.8, aspect=40)
    bar.set_label("change of test accuracy, points", fontsize=10)
    return figure


def looked(folder: Path) -> Figure:
    """The test image whose true class gains most by the layer: before and after it, and where both networks look."""
    plain, run = (RunFolder(folder / arm / "0") for arm in ("plain", "jpeg-dl"))
    content, shown = show(open_subject(run, ExplainConfig(images=200, pictures=1), plain), [])
    first = shown[0]
    before, after = (x.permute(1, 2, 0).numpy().clip(0, 1) for x in (first.image, first.output))
    figure = Figure(figsize=(WIDTH, 5.6), layout="constrained")
    grid = figure.subplots(2, 2)
    for panel, picture, title in ((grid[0, 0], before, first.numbers["class"]), (grid[0, 1], after, "behind the layer")):
        panel.imshow(picture, interpolation="nearest")
        panel.set_title(title, fontsize=10)
    side = before.shape[0] - 0.5
    for panel, model in zip(grid[1], content["models"], strict=True):
        panel.imshow(before.mean(2), cmap="gray", vmin=0, vmax=1)
        map_of = first.attention[model].numpy()
        panel.imshow(
            map_of, cmap="inferno", vmin=0, vmax=1, alpha=0.55, extent=(-0.5, side, side, -0.5), interpolation="bilinear"
        )
        chance = 100 * first.numbers["probability"][model]
        panel.set_title(f"{model}: {first.numbers['predicted'][model]}\n({first.numbers['class']} {chance:.0f} %)", fontsize=10)
    for panel in grid.flat:
        panel.set_axis_off()
    return figure


def draw(folders: list[Path]) -> None:
    """Draw all pictures, of the runs of seed 0; the first comparison has to be explained, ``jpegdl explain``."""
    runs = {folder.name: RunFolder(folder / "jpeg-dl" / "0") for folder in folders}
    figures = {
        "learned": learned(runs),
        "saturation": saturation(runs),
        "transfer": transfer(list(runs.values())[1]),
        "ablation": ablation(next(iter(runs.values()))),
        "explain": looked(folders[1]),
    }
    for name, figure in figures.items():
        figure.savefig(PICTURES / f"gallery-{name}.png", dpi=120)


if __name__ == "__main__":
    draw([Path(name) for name in sys.argv[1:]])
