"""Bits hidden in photographs that survive JPEG files: python examples/watermark.py

An encoder adds a pattern to the image, a decoder reads 16 bits back, and between the two lies compression: `RandomJpeg` with
the gradient of the soft quantizer, or straight through (`--noise straight`), uniform noise in place of rounding (`uniform`),
kornia's differentiable JPEG (`kornia`), or nothing (`none`). What counts is how many bits come back from real files at quality
50, which Pillow writes and reads. The decoder sees each image less its own blur, since the network is small and the minutes are
few.
"""

import argparse
import importlib
import io
from collections.abc import Callable
from typing import Literal

import numpy as np
import skimage.data
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, binary_cross_entropy_with_logits

from jpegdl import RandomJpeg

BITS, SIDE, STRENGTH = 16, 64, 0.02  # the pattern is at most 5 grey levels high
QUALITY = 50  # of the files
RANGE = (40, 95)  # of qualities in training

Noise = Callable[[Tensor], Tensor]


class Encoder(nn.Module):
    """Images (N, 3, H, W) in [0, 1] and bits (N, BITS) to marked images."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.spread = nn.Linear(BITS, 3 * 16 * 16)  # a pattern for each bit, repeated over the image
        self.fit = nn.Sequential(nn.Conv2d(6, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, 3, 3, padding=1))

    def forward(self, images: Tensor, bits: Tensor) -> Tensor:
        pattern = self.spread(2 * bits - 1).view(-1, 3, 16, 16).repeat(1, 1, images.shape[2] // 16, images.shape[3] // 16)
        added = pattern + self.fit(torch.cat((images - 0.5, pattern), 1))
        return (images + STRENGTH * added.tanh()).clamp(0, 1)


class Decoder(nn.Module):
    """Images to logits of the bits."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.read = nn.Sequential(nn.Conv2d(3, width, 4, stride=4), nn.ReLU(), nn.Conv2d(width, width, 1), nn.ReLU())
        self.bits = nn.Linear(width * 16, BITS)

    def forward(self, images: Tensor) -> Tensor:
        detail = 10 * (images - avg_pool2d(images, 9, stride=1, padding=4, count_include_pad=False))
        tiles = self.read(detail)  # (N, width, H / 4, W / 4): the pattern repeats every 4 of them
        n, width, rows, columns = tiles.shape
        tiles = tiles.view(n, width, rows // 4, 4, columns // 4, 4).mean((2, 4))
        return self.bits(tiles.flatten(1))


def crops(count: int, generator: torch.Generator) -> Tensor:
    """(count, 3, SIDE, SIDE) of two photographs."""
    sources = [torch.from_numpy(image()).permute(2, 0, 1) / 255 for image in (skimage.data.astronaut, skimage.data.coffee)]
    found = []
    for _ in range(count):
        source = sources[int(torch.randint(len(sources), (), generator=generator))]
        top, left = (int(torch.randint(side - SIDE, (), generator=generator)) for side in source.shape[1:])
        found.append(source[:, top : top + SIDE, left : left + SIDE])
    return torch.stack(found)


def noise_of(kind: str, hardness: float) -> Noise:
    """What lies between encoder and decoder in training."""
    if kind in ("jpegdl", "straight"):
        gradient: Literal["soft", "ste"] = "soft" if kind == "jpegdl" else "ste"
        return RandomJpeg(quality=RANGE, subsampling="4:2:0", gradient=gradient, hardness=hardness)
    if kind == "uniform":
        return RandomJpeg(quality=RANGE, subsampling="4:2:0", rounding="noise")
    if kind == "none":
        return nn.Identity()
    codec = importlib.import_module("kornia.enhance").jpeg_codec_differentiable

    def kornias(images: Tensor) -> Tensor:
        compressed: Tensor = codec(images, torch.randint(RANGE[0], RANGE[1] + 1, (len(images),)).float())
        return compressed

    return kornias


def train(kind: str, steps: int, batch_size: int, seed: int = 0, hardness: float = 5.0) -> tuple[Encoder, Decoder]:
    """Encoder and decoder, trained together through a noise."""
    torch.manual_seed(seed)
    generator, noise = torch.Generator().manual_seed(seed), noise_of(kind, hardness)
    encoder, decoder = Encoder(), Decoder()
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=2e-3)
    for _ in range(steps):
        images = crops(batch_size, generator)
        bits = torch.randint(2, (batch_size, BITS), generator=generator).float()
        loss = binary_cross_entropy_with_logits(decoder(noise(encoder(images, bits))), bits)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return encoder, decoder


@torch.no_grad()
def recovered(encoder: Encoder, decoder: Decoder, count: int) -> float:
    """The share of bits that come back from files at quality QUALITY."""
    generator = torch.Generator().manual_seed(1000)
    images = crops(count, generator)
    bits = torch.randint(2, (count, BITS), generator=generator).float()
    read = []
    for image in (encoder(images, bits) * 255).round().byte():
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=QUALITY)
        read.append(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 255)
    return float(((decoder(torch.stack(read)) > 0) == (bits > 0.5)).float().mean())


def main(arguments: list[str] | None = None) -> float:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--noise", choices=("jpegdl", "straight", "uniform", "kornia", "none"), default="jpegdl")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--test", type=int, default=256, help="images whose bits are read from files (default: 256)")
    parser.add_argument("--hardness", type=float, default=5.0, help="of the soft gradient (default: 5)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    encoder, decoder = train(options.noise, options.steps, options.batch_size, options.seed, options.hardness)
    share = recovered(encoder, decoder, options.test)
    print(f"{options.noise}: {100 * share:.2f} % of the bits recovered from files at quality {QUALITY}")
    return share


if __name__ == "__main__":
    main()
