"""A network that chooses the quantization tables of each image: python examples/predicted_tables.py

It looks at the image and says by how much each of the 128 standard steps is to be finer or coarser. The loss is that of every
encoder, distortion + LAMBDA * rate: the mean squared error of the file's own pixels, in grey levels, and the bits per pixel of
its scan, both with gradients to the tables of each image. Beside it stand the best quality of the standard tables, and one
pair of tables for all images, trained in the same way. Test images are of the right of each photograph, training images of the
left.
"""

import argparse
import functools
from collections.abc import Callable

import skimage.data
import torch
from torch import Tensor, nn

from jpegdl import jpeg
from jpegdl.tables import standard_tables

SIDE, LAMBDA = 64, 60.0
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")

Tables = tuple[Tensor, Tensor]
Chooser = Callable[[Tensor], Tables]


class TablePredictor(nn.Module):
    """Images (N, 3, H, W) in [0, 1] to tables of luma and chroma for each, (N, 8, 8); at first those of quality 50."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.look = nn.Sequential(
            nn.Conv2d(3, width, 5, stride=2, padding=2), nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.choose = nn.Linear(2 * width, 2 * 64)
        nn.init.zeros_(self.choose.weight)
        nn.init.zeros_(self.choose.bias)
        self.register_buffer("start", torch.stack(standard_tables(50)))

    def forward(self, images: Tensor) -> Tables:
        factors = self.choose(self.look(images - 0.5)).view(-1, 2, 8, 8).exp()  # steps count by their ratios
        luma, chroma = (self.start * factors).clamp(1, 255).unbind(1)
        return luma, chroma


class OnePair(nn.Module):
    """The same pair of tables for all images."""

    def __init__(self) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.zeros(2, 8, 8))
        self.register_buffer("start", torch.stack(standard_tables(50)))

    def forward(self, images: Tensor) -> Tables:
        luma, chroma = (self.start * self.factors.exp()).clamp(1, 255)
        return luma, chroma


@functools.cache
def photograph(name: str) -> Tensor:
    """(3, H, W) in [0, 1]."""
    return torch.from_numpy(getattr(skimage.data, name)()).permute(2, 0, 1) / 255


def crops(count: int, generator: torch.Generator, *, test: bool) -> Tensor:
    """(count, 3, SIDE, SIDE), of the left three fifths of the photographs or of the rest."""
    found = []
    for i in range(count):
        source = photograph(PHOTOGRAPHS[i % len(PHOTOGRAPHS)])
        middle = source.shape[2] * 3 // 5
        low, high = (middle, source.shape[2]) if test else (0, middle)
        top = int(torch.randint(source.shape[1] - SIDE, (), generator=generator))
        left = int(torch.randint(low, high - SIDE, (), generator=generator))
        found.append(source[:, top : top + SIDE, left : left + SIDE])
    return torch.stack(found)


def cost(images: Tensor, tables: Tables) -> tuple[Tensor, Tensor]:
    """Squared error in grey levels and bits per pixel of each image, (N,)."""
    output, bits = jpeg(images, tables=tables, rounding="ste-matched", return_bits=True)
    return (255 * (output - images)).square().mean((1, 2, 3)), bits / images[0, 0].numel()


def train(chooser: nn.Module, steps: int, batch_size: int, lr: float) -> None:
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(chooser.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        images = crops(batch_size, generator, test=False)
        error, rate = cost(images, chooser(images))
        optimizer.zero_grad()
        (error + LAMBDA * rate).mean().backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def show(name: str, images: Tensor, tables: Tables) -> float:
    error, rate = cost(images, tables)
    loss = (error + LAMBDA * rate).mean().item()
    psnr = (10 * (255**2 / error).log10()).mean()
    print(f"{name}: loss {loss:.2f}, {rate.mean():.3f} bits per pixel, PSNR {psnr:.2f} dB")
    return loss


def main(arguments: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--test", type=int, default=128, help="images of the test (default: 128)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    torch.manual_seed(options.seed)
    images = crops(options.test, torch.Generator().manual_seed(1000), test=True)

    def loss_at(quality: int) -> float:
        error, rate = cost(images, standard_tables(quality))
        return (error + LAMBDA * rate).mean().item()

    best = min(range(10, 96, 5), key=loss_at)
    losses = {"standard": show(f"standard tables, quality {best}", images, standard_tables(best))}
    for name, words, chooser, lr in (
        ("one pair", "one pair of tables, trained", OnePair(), 0.02),
        ("predicted", "tables predicted for each image", TablePredictor(), 2e-3),
    ):
        train(chooser, options.steps, options.batch_size, lr)
        losses[name] = show(words, images, chooser(images))
    return losses


if __name__ == "__main__":
    main()
