"""How well does the rate of training predict real files? python studies/rate/estimate.py IMAGES [--count 200]

IMAGES: a tar of images. Of each, the central 224 x 224 pixels are stored by libjpeg with optimized Huffman codes, with tables
drawn at random: the standard ones of a quality from 5 to 95, every entry changed by a random factor (exp of a normal number of
deviation 0.5). A straight line from the estimate to the bits of the file is fitted on every other image, tested on the rest.
Its constant stands for the header, of which the estimate knows nothing.
"""

import argparse
import io
import tarfile

import numpy as np
import torch
from PIL import Image
from scipy.stats import spearmanr

from jpegdl import JpegLayer
from jpegdl.codec import Encoder
from jpegdl.layer import SubsampledJpegLayer
from jpegdl.runs import RateConfig
from jpegdl.tables import standard_tables
from jpegdl.training.rate_loss import RateEstimate

SIZE = 224
ROWS = [("symbols", h) for h in (4.0, 8.0, 16.0, 100.0)] + [("frequencies", h) for h in (8.0, 100.0)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("images")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = torch.Generator().manual_seed(options.seed)
    for subsampling, kind in (("4:4:4", JpegLayer), ("4:2:0", SubsampledJpegLayer)):
        files, estimates = [], []
        for image in _images(options.images, options.count):
            quality = int(torch.randint(5, 96, (1,), generator=draw))
            tables = [
                (table * (0.5 * torch.randn(8, 8, generator=draw)).exp()).round().clamp(1, 255)
                for table in standard_tables(quality)
            ]
            files.append(8 * len(Encoder(*tables, subsampling=subsampling).encode(image)) / SIZE**2)
            pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255
            layer = kind(*tables, bits=None)
            with torch.no_grad():
                estimates.append(
                    [float(RateEstimate(RateConfig(kind=k, hardness=h, blocks=None)).eval()(layer, pixels)) for k, h in ROWS]
                )
        _print(subsampling, np.array(files), np.array(estimates))


def _images(path: str, count: int) -> list[Image.Image]:
    with tarfile.open(path) as tar:
        members = sorted((member for member in tar.getmembers() if member.isfile()), key=lambda member: member.name)
        members = members[:: max(1, len(members) // count)][:count]
        images = [Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGB") for member in members]  # type: ignore[union-attr]
    edges = [((image.width - SIZE) // 2, (image.height - SIZE) // 2) for image in images]
    return [image.crop((x, y, x + SIZE, y + SIZE)) for image, (x, y) in zip(images, edges, strict=True)]


def _print(subsampling: str, files: np.ndarray, estimates: np.ndarray) -> None:
    print(
        f"{subsampling}: {len(files)} files of {files.min():.2f} to {files.max():.2f} bits per pixel, half of them held out\n"
    )
    print("| estimate | hardness | line: constant + factor | rank correlation | mean error, % | mean error, bits per pixel |")
    print("|---|---|---|---|---|---|")
    for (kind, hardness), column in zip(ROWS, estimates.T, strict=True):
        # Errors count as shares of the file, or the line would be that of the large ones.
        basis = np.stack((np.ones_like(column), column), 1) / files[:, None]
        (constant, factor), *_ = np.linalg.lstsq(basis[::2], np.ones(len(files[::2])), rcond=None)
        held, predicted = files[1::2], constant + factor * column[1::2]
        error = np.abs(predicted - held)
        print(
            f"| {kind} | {hardness:g} | {constant:.3f} + {factor:.3f} | {spearmanr(predicted, held)[0]:.4f} | "
            f"{100 * (error / held).mean():.1f} | {error.mean():.3f} |"
        )
    print()


if __name__ == "__main__":
    main()
