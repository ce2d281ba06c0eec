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
from torch import Tensor

from jpegdl import functional as F
from jpegdl.codec import Encoder
from jpegdl.tables import standard_tables
from jpegdl_studies.tables import header, row

SIZE = 224
REACH = 1100  # levels of an 8-bit image at a step of 1, and a little more
FEWEST = 1e-6  # share of a level that has not been seen: 20 bits
ROWS = [("symbols", h) for h in (4.0, 8.0, 16.0, 100.0)] + [("frequencies", h) for h in (8.0, 100.0)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("images")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    draw = torch.Generator().manual_seed(options.seed)
    for subsampling in ("4:4:4", "4:2:0"):
        files, estimates = [], []
        for image in _images(options.images, options.count):
            quality = int(torch.randint(5, 96, (1,), generator=draw))
            luma, chroma = (
                (table * (0.5 * torch.randn(8, 8, generator=draw)).exp()).round().clamp(1, 255)
                for table in standard_tables(quality)
            )
            files.append(8 * len(Encoder(luma, chroma, subsampling=subsampling).encode(image)) / SIZE**2)
            pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)[None].float() / 255
            scans = _scans(pixels, subsampling)
            each = [sum(BITS[kind](z, q, h) for z, q in zip(scans, (luma, chroma), strict=True)) for kind, h in ROWS]
            estimates.append([float(bits) / SIZE**2 for bits in each])
        _print(subsampling, np.array(files), np.array(estimates))


def _scans(images: Tensor, subsampling: str) -> tuple[Tensor, Tensor]:
    """Return the coefficients of luma and chroma in the order of an encoder, (rows, blocks, 8, 8), a row for each plane."""
    if subsampling == "4:4:4":
        blocks = F.images_to_coefficients(images).flatten(2, 3)  # (N, 3, blocks, 8, 8)
        return blocks[:, 0], blocks[:, 1:].flatten(0, 1)
    blocks = F.images_to_mcus(images).flatten(2, 3)  # (N, 6, units, 8, 8): four of luma a unit
    return blocks[:, :4].transpose(1, 2).flatten(1, 2), blocks[:, 4:].flatten(0, 1)


def _bits_of_symbols(z: Tensor, q: Tensor, hardness: float) -> Tensor:
    """Return the bits that the expected symbols of a file take, with a code fitted to them."""
    symbols = F.expected_symbols(z, q, hardness)
    return F.coded_bits(symbols, F.code_lengths(symbols))


def _bits_of_frequencies(z: Tensor, q: Tensor, hardness: float) -> Tensor:
    """Return the entropy of each frequency's levels, as J4D estimates a file: neither runs of zeros nor differences of DC."""
    scaled = (z / q).flatten(0, 1).flatten(1).T  # (64, blocks)
    levels = torch.stack((scaled.round() - 1, scaled.round(), scaled.round() + 1), 1)
    shares = (-hardness * (scaled[:, None] - levels).square()).softmax(1)
    counts = scaled.new_zeros(64, 2 * REACH + 1)
    counts.scatter_add_(1, (levels.clamp(-REACH, REACH) + REACH).long().flatten(1), shares.flatten(1))
    counts /= scaled.shape[1]
    return -(counts * counts.clamp(min=FEWEST).log2()).sum() * scaled.shape[1]


BITS = {"symbols": _bits_of_symbols, "frequencies": _bits_of_frequencies}


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
    columns = ["line: constant + factor", "rank correlation", "mean error, %", "mean error, bits per pixel"]
    print(header(["estimate", "hardness", *columns]))
    for (kind, hardness), column in zip(ROWS, estimates.T, strict=True):
        # Errors count as shares of the file, or the line would be that of the large ones.
        basis = np.stack((np.ones_like(column), column), 1) / files[:, None]
        (constant, factor), *_ = np.linalg.lstsq(basis[::2], np.ones(len(files[::2])), rcond=None)
        held, predicted = files[1::2], constant + factor * column[1::2]
        error = np.abs(predicted - held)
        line = f"{constant:.3f} + {factor:.3f}"
        errors = [f"{100 * (error / held).mean():.1f}", f"{error.mean():.3f}"]
        print(row([kind, f"{hardness:g}", line, f"{spearmanr(predicted, held)[0]:.4f}", *errors]))
    print()


if __name__ == "__main__":
    main()
