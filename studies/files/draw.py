"""Pictures of the study: photos that take the same bytes as each encoder writes them, and curves over rates.

    python studies/files/draw.py photos OUT.png --images ../shared/data/imagenet1000/images.tar --weights FILE
    python studies/files/draw.py curves OUT.png TABLE.csv

Photos: of each encoder the setting whose file comes nearest to ``--bits`` bits per pixel; of files that EfficientNet-Lite0
guides, the quality. Above each stand its bits per pixel, and how sure Lite0 and Lite1, which had no say, are of the true
class, in percent. TABLE.csv is what ``summarize.py --csv`` wrote.
"""

import argparse
import csv
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from encoders import ENCODERS
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator
from measure import SIDE, decoded, images_of
from PIL import Image

from jpegdl.codec import PhotoReader, guide, open_reader
from jpegdl_studies.judges import lite1

NAMED = {"4:2:0": "libjpeg", "mozjpeg": "mozjpeg", "jpegli": "jpegli", "webp": "WebP", "avif": "AVIF"}
PHOTOS = ("n02099601", "n03445777", "n07753592")  # golden retriever, golf ball, banana: chosen before they were seen
SHOWN = {  # curves: how rows of the table begin and end, name, colour, line
    ("libjpeg 4:2:0 ", ""): ("libjpeg 4:2:0", "C7", "-"),
    ("mozjpeg ", ""): ("mozjpeg", "C1", "-"),
    ("jpegli ", ""): ("jpegli", "C2", "-"),
    ("webp ", ""): ("WebP", "C4", "-"),
    ("avif ", ""): ("AVIF", "C5", "-"),
    ("control: least 1 - SSIM, ", ""): ("libjpeg, quality by SSIM + bits", "C7", ":"),
    ("chosen by the reader, mu ", "robust"): ("libjpeg, quality by Lite0", "C0", "-"),
    ("guided, mu ", "robust"): ("guided by Lite0", "C3", "-"),
}
LEAST, MOST = 0.18, 2.6  # bits per pixel that are shown
COLOURS = 128  # of the picture


def nearest(encode: Callable[[int], bytes], settings: range, size: int) -> bytes:
    """The file of the setting that comes nearest to a size in bytes; files grow with the setting."""
    low, high = settings.start, settings.stop - 1
    files = {setting: encode(setting) for setting in (low, high)}
    while high - low > 1:
        middle = (low + high) // 2
        files[middle] = encode(middle)
        low, high = (middle, high) if len(files[middle]) <= size else (low, middle)
    return min(files.values(), key=lambda content: abs(math.log(len(content) / size)))


def guided(image: Image.Image, reader: PhotoReader, quality: int) -> bytes:
    (file,) = guide([image], reader, 0.0, qualities=(quality,), floor=quality)
    return file.content


@torch.no_grad()
def sure(reader: PhotoReader, pixels: torch.Tensor, target: int) -> float:
    return 100 * float(reader.answers(reader.view(pixels)[None])[0, target].exp())


def photos(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    lite0 = open_reader(f"tf_efficientnet_lite0@{arguments.weights}")
    lite0.resize = SIDE
    networks = lite0, lite1()
    wanted = {}
    for name, target, image in images_of(arguments.images, None, 0):
        folder = Path(name).parent.name
        if folder in arguments.classes:
            wanted[folder] = target, image
    size = int(arguments.bits * SIDE**2 / 8)
    columns = ["original", *NAMED.values(), "guided by Lite0"]
    figure = Figure(figsize=(1.35 * len(columns), 1.58 * len(wanted)), layout="constrained", dpi=100)
    axes = figure.subplots(len(wanted), len(columns), squeeze=False)
    for number, (row, folder) in enumerate(zip(axes, arguments.classes, strict=True)):
        target, image = wanted[folder]
        files: list[bytes | None] = [None]
        for encoder in NAMED:
            files.append(nearest(partial(ENCODERS[encoder][0], image), range(0 if encoder == "webp" else 1, 100), size))
        files.append(nearest(partial(guided, image, lite0), range(2, 60), size))
        for place, (axis, content) in enumerate(zip(row, files, strict=True)):
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1) if content is None else decoded(content)
            answers = " / ".join(f"{sure(network, pixels, target):.0f}" for network in networks)
            rate = "" if content is None else f"{8 * len(content) / SIDE**2:.2f}: "
            axis.imshow(pixels.permute(1, 2, 0)[arguments.crop : SIDE - arguments.crop, arguments.crop : SIDE - arguments.crop])
            axis.set_title(("" if number else f"{columns[place]}\n") + f"{rate}{answers} %", fontsize=6.5, pad=2)
            axis.set_axis_off()
            print(folder, columns[place], rate, answers, flush=True)
    temporary = arguments.out.with_suffix(".full.png")
    figure.savefig(temporary)
    with Image.open(temporary) as full:
        full.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(arguments.out, optimize=True)
    temporary.unlink()
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1000:.0f} kB")


def curves(arguments: argparse.Namespace) -> None:
    with arguments.table.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    figure = Figure(figsize=(9.2, 3.9), layout="constrained")
    for axis, (who, title) in zip(
        figure.subplots(1, 2, sharey=True),
        {"reader": "read by Lite0", "judge": "read by Lite1, which had no say"}.items(),
        strict=True,
    ):
        for (begins, ends), (name, colour, style) in SHOWN.items():
            points = sorted(
                (float(row["bits per pixel"]), float(row["loss"]))
                for row in rows
                if row["files"].startswith(begins) and row["files"].endswith(ends) and row["read by"] == who
            )
            points = [point for point in points if LEAST <= point[0] <= MOST]
            axis.plot(*zip(*points, strict=True), style, color=colour, marker="o", markersize=3, label=name)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xticks([0.2, 0.3, 0.4, 0.6, 0.8, 1, 1.5, 2])
        axis.xaxis.set_minor_locator(NullLocator())
        for scale in (axis.xaxis, axis.yaxis):
            scale.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
            scale.set_minor_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
        axis.set_xlabel("bits per pixel of whole files")
        axis.set_title(title, fontsize=10)
        axis.grid(alpha=0.25, which="both")
    figure.axes[0].set_ylabel(f"loss, nats ({rows[0]['images']} images)")
    figure.axes[1].legend(fontsize=7.5, frameon=False)
    figure.savefig(arguments.out, dpi=110)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1000:.0f} kB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(required=True)
    one = kinds.add_parser("photos")
    one.add_argument("out", type=Path)
    one.add_argument("--images", type=Path, required=True)
    one.add_argument("--weights", type=Path, required=True, help="of tf_efficientnet_lite0")
    one.add_argument("--bits", type=float, default=0.4, help="bits per pixel of all files, as far as there are such")
    one.add_argument("--classes", type=str, nargs="+", default=PHOTOS, help="folders of the photos")
    one.add_argument("--crop", type=int, default=56, help="pixels that are cut off at each side, to see more")
    one.set_defaults(make=photos)
    other = kinds.add_parser("curves")
    other.add_argument("out", type=Path)
    other.add_argument("table", type=Path)
    other.set_defaults(make=curves)
    mpl.use("agg")
    arguments = parser.parse_args()
    arguments.make(arguments)


if __name__ == "__main__":
    main()
