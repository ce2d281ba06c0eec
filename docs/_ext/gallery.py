"""Draw pictures of the gallery from comparisons: ``python docs/_ext/gallery.py runs/demo runs/textures runs/flowers``.

Small figures with large letters, for phones; the same colours as in the command's own.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from jpegdl.functional import soft_quantize
from jpegdl.runs import RunFolder

PICTURES = Path(__file__).resolve().parents[1] / "pictures"
WIDTH = 5.2  # inches; on a phone letters of 9 points are still read
FREQUENCIES = ((0, 0), (0, 1), (2, 2), (6, 6))


def learned(runs: dict[str, RunFolder]) -> Figure:
    """Steps of luma before and after training, a row for each set."""
    figure = Figure(figsize=(WIDTH, 2.25 * len(runs)), layout="constrained")
    grid = figure.subplots(len(runs), 2, squeeze=False)
    for row, (name, run) in zip(grid, runs.items(), strict=True):
        for panel, when in zip(row, ("before", "after"), strict=True):
            image = panel.imshow(np.array(run.tables()[when]["luma"]), norm=LogNorm(1e-3, 10), cmap="viridis")
            panel.set_title(f"{name}, {when}", fontsize=10)
            panel.set_xticks([])
            panel.set_yticks([])
    figure.colorbar(image, ax=grid, label="step of luma, JPEG table units", extend="both", shrink=0.6)
    return figure


def saturation(runs: dict[str, RunFolder]) -> Figure:
    """Share of coefficients at the level cap, in percent, luma."""
    figure = Figure(figsize=(WIDTH, 2.3), layout="constrained")
    row = figure.subplots(1, len(runs), squeeze=False)[0]
    for panel, (name, run) in zip(row, runs.items(), strict=True):
        share = np.array(run.result()["saturation"])[0]
        image = panel.imshow(100 * share, vmin=0, vmax=100, cmap="cividis")
        panel.set_title(f"{name}\nDC {100 * share[0, 0]:.0f} %", fontsize=10)
        panel.set_xticks([])
        panel.set_yticks([])
    figure.colorbar(image, ax=row, label="at the cap, %", shrink=0.9)
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
        panel.plot(z, soft_quantize(z, q, alpha, bits=layer.bits, window=layer.window), color="#0072B2", linewidth=2)
        panel.plot(z, z, ":", color="black", linewidth=1)
        panel.set_title(f"{'DC' if (row, column) == (0, 0) else f'({row}, {column})'}, step {float(q):.2g}", fontsize=10)
        panel.tick_params(labelsize=8)
    figure.supxlabel("coefficient in", fontsize=10)
    figure.supylabel("coefficient out", fontsize=10)
    return figure


def draw(folders: list[Path]) -> None:
    """Draw all pictures, of the runs of seed 0."""
    runs = {folder.name: RunFolder(folder / "jpeg-dl" / "0") for folder in folders}
    figures = {"learned": learned(runs), "saturation": saturation(runs), "transfer": transfer(list(runs.values())[1])}
    for name, figure in figures.items():
        figure.savefig(PICTURES / f"gallery-{name}.png", dpi=120)


if __name__ == "__main__":
    draw([Path(name) for name in sys.argv[1:]])
