"""What networks make of default JPEG files of their test images: python studies/stored/stored.py RUNS/NAME ARM ...

Each test image of a comparison as the networks see it, scaled and cropped, is stored by libjpeg with the standard tables at a
quality, and read again by each finished run of the arms, its layer kept. A table in Markdown: true bits per pixel of the whole
files, accuracy in percent (mean and sample sd over seeds), and the difference to another arm in points, paired over seeds, with
the 95 % interval of a paired t test. (What a layer's own tables take is said by studies/rate/files.py.)
"""

import argparse
import io
import sys
from dataclasses import replace
from pathlib import Path
from statistics import mean

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2.functional import pil_to_tensor, to_pil_image

from jpegdl.codec import Encoder
from jpegdl.data import Data
from jpegdl.runs import RunFolder, finished_runs, open_run
from jpegdl.tables import standard_tables
from jpegdl_studies.pairing import difference
from jpegdl_studies.tables import header, percent, row

Points = dict[str, dict[int, float]]  # percentages of each arm, by seed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("comparison", type=Path)
    parser.add_argument("arms", nargs="+")
    parser.add_argument("--against", default="plain", help="the arm that the others are compared with")
    parser.add_argument("--qualities", type=int, nargs="+", default=[10, 30, 50, 70, 90])
    parser.add_argument("--subsampling", nargs="+", default=["4:2:0"], choices=["4:2:0", "4:4:4"])
    parser.add_argument("--figure", type=Path, help="where to draw accuracy against bits per pixel (PNG or SVG)")
    options = parser.parse_args()
    runs = finished_runs(options.comparison)
    arms = list(dict.fromkeys([options.against, *options.arms]))
    if missing := [arm for arm in arms if arm not in runs]:
        sys.exit(f"{options.comparison} has no finished run of {', '.join(missing)}")

    data = _data(runs[options.against])
    images, targets = _images(data)
    models = {(arm, seed): open_run(folder).model.eval() for arm in arms for seed, folder in _checked(runs[arm], data).items()}
    others = arms[1:]
    print(header(["stored", "bits per pixel", *arms, *(f"{arm}, to {arms[0]}" for arm in others)]))
    found: dict[str, list[tuple[float, Points]]] = {}
    for subsampling, quality in [("", 0), *((s, q) for s in options.subsampling for q in options.qualities)]:
        name, seen, rate = "as they are", images, 24.0
        if subsampling:
            name = f"quality {quality}, {subsampling}"
            seen, rate = _stored(images, quality, subsampling)
        points: Points = {arm: {} for arm in arms}
        for (arm, seed), model in models.items():
            points[arm][seed] = 100 * _accuracy(model, seen, targets)
        found.setdefault(subsampling, []).append((rate, points))
        cells = [percent([value / 100 for value in points[arm].values()]) for arm in arms]
        cells += [difference(points[arm], points[arms[0]]) for arm in others]
        print(row([name, f"{rate:.2f}", *cells]), flush=True)
    if options.figure:
        _draw(found, options.figure)


def _data(runs: dict[int, RunFolder]) -> Data:
    config = next(iter(runs.values())).config().data
    data = Data(replace(config, workers=0), test_only=True)
    data.load()
    return data


def _checked(runs: dict[int, RunFolder], data: Data) -> dict[int, RunFolder]:
    """Return the same, if these are their test images."""
    for folder in runs.values():
        if other := folder.other_images(data.fingerprint):
            sys.exit(f"{folder} was tested with other images: {other}")
    return runs


def _images(data: Data) -> tuple[Tensor, Tensor]:
    """Return all test images (N, 3, H, W) in [0, 1], and their classes."""
    items = [item for i in range(len(data.test)) if (item := data.test[i]) is not None]  # None: it cannot be decoded
    return torch.stack([image for image, _ in items]), torch.tensor([target for _, target in items])


def _stored(images: Tensor, quality: int, subsampling: str) -> tuple[Tensor, float]:
    """Return the images as they come out of their files, and the files' bits per pixel."""
    encoder = Encoder(*standard_tables(quality), subsampling=subsampling)
    files = [encoder.encode(to_pil_image((image * 255).round().to(torch.uint8))) for image in images]
    seen = torch.stack([pil_to_tensor(Image.open(io.BytesIO(file))).float() / 255 for file in files])
    return seen, 8 * sum(map(len, files)) / (len(files) * images[0, 0].numel())


@torch.no_grad()
def _accuracy(model: torch.nn.Module, images: Tensor, targets: Tensor) -> float:
    return float(torch.cat([model(part).argmax(1) for part in torch.split(images, 64)]).eq(targets).float().mean())


def _draw(found: dict[str, list[tuple[float, Points]]], path: Path) -> None:
    import matplotlib.pyplot as plt

    ((_, unstored),) = found.pop("")
    figure, panels = plt.subplots(
        1, len(found), figsize=(5 * len(found), 3.8), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, (subsampling, curve) in zip(panels[0], found.items(), strict=True):
        rates = [rate for rate, _ in curve]
        for number, arm in enumerate(unstored):
            colour, values = f"C{number}", [list(points[arm].values()) for _, points in curve]
            axes.plot(rates, [mean(of_rate) for of_rate in values], "o-", color=colour, label=arm)
            axes.plot(rates, values, color=colour, alpha=0.25, linewidth=0.8)
            axes.axhline(mean(unstored[arm].values()), color=colour, linestyle=":", linewidth=1)
        axes.set_xlabel(f"bits per pixel, {subsampling}")
        axes.grid(alpha=0.3)
    panels[0, 0].set_ylabel("test accuracy, % (dotted: not stored)")
    panels[0, -1].legend()
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
