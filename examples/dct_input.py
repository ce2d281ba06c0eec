"""A classifier that reads JPEG files without decoding them to pixels: python examples/dct_input.py

Files hold the DCT coefficients of 8x8 blocks. Each frequency becomes a channel, of an eighth of the resolution, and a small
network starts there: 64 channels of Y, and 64 of Cb and of Cr, which 4:2:0 files have at half of that again ("Faster Neural
Networks Straight from JPEG", NeurIPS 2018). Nothing is computed that a decoder's inverse DCT and colours would take.

Without --data, crops of four photographs are written as files of qualities 50 to 95 first, and the photograph is the class;
training crops are of the left of it, test crops of the right. --data FOLDER takes your own: FOLDER/train/CLASS/*.jpg and
FOLDER/test/CLASS/*.jpg, of 4:2:0 and at least 64 x 64 pixels.
"""

import argparse
import tempfile
from pathlib import Path

import skimage.data
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate
from torch.utils.data import DataLoader, Dataset

from jpegdl.codec import read_coefficients

BLOCKS = 8  # of Y, down and across, that the network sees: 64 pixels
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")


class JpegFiles(Dataset[tuple[Tensor, Tensor, int]]):
    """(64, 8, 8) of Y, (128, 4, 4) of Cb and Cr, and the class of each file; crops are of whole blocks, and cost nothing."""

    def __init__(self, folder: Path, *, train: bool) -> None:
        self.classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
        self.files = [(file, i) for i, name in enumerate(self.classes) for file in sorted((folder / name).iterdir())]
        self.files = [(file, label) for file, label in self.files if file.suffix.lower() in (".jpg", ".jpeg")]
        self.train = train

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, int]:
        path, label = self.files[index]
        found = read_coefficients(path)
        luma, chroma = found.planes
        if chroma is None or found.subsampling != "4:2:0" or min(found.size) < 8 * BLOCKS:
            raise ValueError(f"{path} is grey, not 4:2:0, or smaller than {8 * BLOCKS} x {8 * BLOCKS} pixels")
        half = BLOCKS // 2
        room = [side - half for side in chroma.shape[2:4]]  # 4:2:0: a block of Cb and Cr lies on 2 x 2 of Y
        top, left = (int(torch.randint(most + 1, ())) if self.train else most // 2 for most in room)
        luma = luma[0, :, 2 * top : 2 * top + BLOCKS, 2 * left : 2 * left + BLOCKS]
        chroma = chroma[0, :, top : top + half, left : left + half]
        return channels(luma), channels(chroma), label


def channels(planes: Tensor) -> Tensor:
    """(C, h, w, 8, 8) to (64 C, h, w)."""
    return planes.flatten(-2).permute(0, 3, 1, 2).flatten(0, 1)


class Network(nn.Module):
    """Coefficients of Y and of Cb and Cr to logits."""

    def __init__(self, classes: int, width: int = 64) -> None:
        super().__init__()
        # Each frequency has a scale of its own: DC is a thousand times the highest.
        self.luma, self.chroma = nn.BatchNorm2d(64), nn.BatchNorm2d(128)
        self.body = nn.Sequential(
            nn.Conv2d(192, width, 1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes),
        )  # fmt: skip

    def forward(self, luma: Tensor, chroma: Tensor) -> Tensor:
        logits: Tensor = self.body(torch.cat((self.luma(luma), interpolate(self.chroma(chroma), scale_factor=2.0)), 1))
        return logits


def write_files(folder: Path, count: int, side: int = 96) -> None:
    """``count`` files of each photograph for training, and half as many for the test."""
    generator = torch.Generator().manual_seed(0)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    for name in PHOTOGRAPHS:
        photograph = Image.fromarray(getattr(skimage.data, name)())
        middle = photograph.width * 3 // 5
        for part, number, low, high in (("train", count, 0, middle), ("test", count // 2, middle, photograph.width)):
            (folder / part / name).mkdir(parents=True)
            for i in range(number):
                left, top = draw(low, high - side + 1), draw(0, photograph.height - side + 1)
                crop = photograph.crop((left, top, left + side, top + side))
                crop.save(folder / part / name / f"{i:03d}.jpg", quality=draw(50, 96), subsampling="4:2:0")


def train(files: JpegFiles, steps: int, batch_size: int) -> Network:
    loader = DataLoader(files, batch_size, shuffle=True, drop_last=len(files) > batch_size)
    network = Network(len(files.classes))
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3)
    step = 0
    while step < steps:
        for luma, chroma, labels in loader:
            loss = cross_entropy(network(luma, chroma), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
            if step % max(1, steps // 6) == 0:
                print(f"  step {step:4d}: loss {loss.item():.3f}")
            if step == steps:
                break
    return network.eval()


@torch.no_grad()
def accuracy(network: Network, files: JpegFiles) -> float:
    right = sum(
        int((network(luma, chroma).argmax(1) == labels).sum()) for luma, chroma, labels in DataLoader(files, batch_size=64)
    )
    return right / len(files)


def main(arguments: list[str] | None = None) -> tuple[Network, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of train/CLASS and test/CLASS with JPEG files")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--files", type=int, default=100, help="written of each photograph (default: 100)")
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.data or Path(temporary)
        if options.data is None:
            write_files(folder, options.files)
        files, tests = JpegFiles(folder / "train", train=True), JpegFiles(folder / "test", train=False)
        if files.classes != tests.classes:  # each numbers its own
            odd = ", ".join(sorted(set(files.classes) ^ set(tests.classes)))
            raise SystemExit(f"{folder}: only one of train/ and test/ has the classes {odd}")
        network = train(files, options.steps, options.batch_size)
        share = accuracy(network, tests)
    print(f"{100 * share:.1f} % of the test files are told by their coefficients")
    return network, share


if __name__ == "__main__":
    main()
