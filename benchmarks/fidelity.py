"""How near differentiable JPEGs come to the file: `python benchmarks/fidelity.py [--data FOLDER]`.

Photographs are compressed at each quality by Pillow (libjpeg-turbo) and read again, and by

- ``jpegdl.jpeg``: the exact path;
- jpegdl, float: the layer's transforms with hard rounding, in floating point (``JpegLayer``, ``SubsampledJpegLayer``), then
  rounded and clipped;
- Diff-JPEG's formula (``diff_jpeg.py``), and kornia's ``jpeg_codec_differentiable`` where kornia is installed, both for 4:2:0
  alone: as they come, and rounded and clipped. Of Diff-JPEG with values of the discrete steps (``ste``), rounded.

Prints a Markdown table: of all pixels and channels the share that is equal, the mean and the largest difference in grey levels,
and the PSNR; then how many random crops of all sizes, with random tables, are equal in every pixel.
"""

import argparse
import importlib
import io
import platform
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL
import skimage.data
import torch
from diff_jpeg import diff_jpeg
from PIL import Image, ImageDraw, features

from jpegdl import JpegLayer, jpeg
from jpegdl.layer import SubsampledJpegLayer
from jpegdl.tables import standard_tables

QUALITIES = (1, *range(5, 100, 5), 100)
SAMPLINGS = ("4:4:4", "4:2:2", "4:2:0", "grey")
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")
GROUPS = {"1 to 10": (1, 10), "15 to 45": (15, 45), "50 to 75": (50, 75), "80 to 95": (80, 95), "100": (100, 100)}


def photographs(folder: Path | None, most: int):
    """(name, (3, H, W) uint8)."""
    for name in PHOTOGRAPHS:
        yield name, torch.from_numpy(np.ascontiguousarray(getattr(skimage.data, name)())).permute(2, 0, 1)
    files = (
        sorted(file for file in folder.rglob("*") if file.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
        if folder
        else []
    )
    for file in files[:: max(1, len(files) // most)][:most]:
        with Image.open(file) as image:
            yield file.name, torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def from_file(pixels: torch.Tensor, subsampling: str, **options) -> torch.Tensor:
    """What Pillow reads from the file that it writes."""
    grey = len(pixels) == 1
    file = io.BytesIO()
    image = Image.fromarray(pixels[0].numpy() if grey else pixels.permute(1, 2, 0).numpy())
    image.save(file, "JPEG", subsampling="4:2:0" if grey else subsampling, **options)
    decoded = torch.from_numpy(np.array(Image.open(file)))
    return decoded[None] if grey else decoded.permute(2, 0, 1)


def contestants(sampling: str):
    """Functions of (images in [0, 1], quality) to images in [0, 255]."""
    ways = {"jpegdl.jpeg": lambda x, q: jpeg(x, q, subsampling="4:2:0" if sampling == "grey" else sampling) * 255}
    layers = {"4:4:4": JpegLayer, "4:2:0": SubsampledJpegLayer}
    if sampling in layers:
        layer = layers[sampling]

        def floats(x, quality):
            return (layer.from_quality(quality, rounding="hard")(x) * 255).round().clamp(0, 255)

        ways["jpegdl, float"] = floats
    if sampling == "4:2:0":
        others = {"Diff-JPEG": diff_jpeg}
        with suppress(ImportError):
            others["kornia"] = importlib.import_module("kornia.enhance").jpeg_codec_differentiable
        for name, other in others.items():
            ways[name] = lambda x, quality, other=other: other(x, torch.tensor([float(quality)])) * 255
            ways[f"{name}, rounded"] = lambda x, quality, way=ways[name]: way(x, quality).round().clamp(0, 255)
        ways["Diff-JPEG, ste, rounded"] = lambda x, quality: (
            diff_jpeg(x, torch.tensor([float(quality)]), ste=True) * 255
        ).round()
    return ways


class Tally:
    """Differences to the file, over all pixels that were seen."""

    def __init__(self) -> None:
        self.seen, self.equal, self.absolute, self.square, self.largest = 0, 0, 0.0, 0.0, 0.0

    def add(self, values: torch.Tensor, expected: torch.Tensor) -> None:
        apart = (values.double() - expected.double()).abs()
        self.seen += apart.numel()
        self.equal += int((apart < 1e-3).sum())
        self.absolute += float(apart.sum())
        self.square += float(apart.square().sum())
        self.largest = max(self.largest, float(apart.max()))

    def row(self) -> str:
        share = "100" if self.equal == self.seen else f"{100 * self.equal / self.seen:.2f}"
        psnr = "inf" if self.square == 0 else f"{10 * np.log10(255**2 * self.seen / self.square):.1f}"
        return f"{share} | {self.absolute / self.seen:.3f} | {self.largest:.0f} | {psnr}"


def crops(count: int) -> tuple[int, int]:
    """How many of ``count`` crops, with sides 1 to 40 and quality or tables at random, are equal in every pixel."""
    random, source, equal = np.random.default_rng(0), torch.from_numpy(skimage.data.astronaut()).permute(2, 0, 1), 0
    for number in range(count):
        height, width = (int(side) for side in random.integers(1, 41, 2))
        top, left = random.integers(0, 470, 2)
        sampling = SAMPLINGS[number % 4]
        pixels = source[: 1 if sampling == "grey" else 3, top : top + height, left : left + width].contiguous()
        if random.integers(2):
            quality = int(random.integers(1, 101))
            ours, theirs = {"tables": standard_tables(quality)}, {"quality": quality}
        else:
            tables = torch.from_numpy(random.integers(1, 256, (2, 8, 8)))
            ours, theirs = {"tables": tuple(tables)}, {"qtables": tables.flatten(1).tolist()}
        subsampling = "4:2:0" if sampling == "grey" else sampling
        equal += torch.equal(jpeg(pixels, subsampling=subsampling, **ours), from_file(pixels, sampling, **theirs))
    return equal, count


def picture(file: Path, side: int = 96) -> None:
    """Draw a crop of a photograph before and after; scikit-image's cat is CC0."""
    before = torch.from_numpy(skimage.data.chelsea()[72 : 72 + side, 120 : 120 + side]).permute(2, 0, 1).contiguous()
    shown = {"before": before} | {f"quality {quality}": jpeg(before, quality) for quality in (75, 30, 10, 5)}
    whole = Image.new("RGB", (len(shown) * (2 * side + 4) - 4, 2 * side + 14), "white")
    for column, (name, pixels) in enumerate(shown.items()):
        left = column * (2 * side + 4)
        whole.paste(Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize((2 * side, 2 * side), Image.NEAREST), (left, 0))
        ImageDraw.Draw(whole).text((left, 2 * side + 2), name, "black")
    whole.save(file, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of further photographs")
    parser.add_argument("--images", type=int, default=100, help="of that folder, at most, spread evenly (default: 100)")
    parser.add_argument("--crops", type=int, default=4000, help="random crops (default: 4000)")
    parser.add_argument("--picture", type=Path, help="only draw before and after, into this PNG file")
    options = parser.parse_args()
    if options.picture:
        picture(options.picture)
        return
    tallies: dict[tuple[str, str, str], Tally] = {}
    images = 0
    for _, photograph in photographs(options.data, options.images):
        images += 1
        for sampling in SAMPLINGS:
            pixels = photograph[1:2] if sampling == "grey" else photograph
            ways = contestants(sampling)
            for quality in QUALITIES:
                expected = from_file(pixels, sampling, quality=quality)
                group = next(name for name, (low, high) in GROUPS.items() if low <= quality <= high)
                for name, way in ways.items():
                    with torch.no_grad():
                        values = way(pixels[None] / 255, quality)[0]
                    tallies.setdefault((sampling, name, group), Tally()).add(values, expected)
    print(
        f"{images} photographs, {len(QUALITIES)} qualities; {platform.machine()}, Pillow {PIL.__version__} with libjpeg-turbo"
    )
    print(f"{features.version('libjpeg_turbo')}, PyTorch {torch.__version__}\n")
    print("| chroma | | quality | equal, % | mean difference | largest | PSNR, dB |")
    print("|---|---|---|---|---|---|---|")
    for (sampling, name, group), tally in tallies.items():
        print(f"| {sampling} | {name} | {group} | {tally.row()} |")
    equal, count = crops(options.crops)
    print(f"\nRandom crops, tables and qualities: {equal} of {count} equal in every pixel.")


if __name__ == "__main__":
    main()
