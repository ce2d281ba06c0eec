"""A data set of your own, drawn here, compared with and without the layer: nothing of the package is edited.

    cd examples
    jpegdl compare --data.name own_data:make --data.size 32 --data.resize 36 --training.epochs 10 --name shapes

names the function below, which the command calls. From Python the same sets are given as objects:

    python own_data.py
"""

import argparse
import random

from PIL import Image, ImageDraw
from torch.utils.data import Dataset

import jpegdl
from jpegdl.comparison import CompareConfig
from jpegdl.data import DataConfig
from jpegdl.runs import TrainingConfig

CLASSES = ["circle", "square", "triangle"]


class Shapes(Dataset[tuple[Image.Image, int]]):
    """Shapes of random colour, size and place. As in torchvision, ``dataset[i]`` is an image and the index of its class.

    Images are left as they are, of any size: crops, flips, other augmentation and scaling to [0, 1] follow from the settings.
    An image must be the same each time it is asked for.
    """

    def __init__(self, count: int, seed: int) -> None:
        self.seed = seed
        self.targets = [index % len(CLASSES) for index in range(count)]  # optional; saves drawing all to know the classes

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        draw = random.Random(f"{self.seed} {index}")
        paper, ink = ([draw.randrange(256) for _ in range(3)] for _ in range(2))
        image = Image.new("RGB", (48, 40), tuple(paper))
        x, y, radius = draw.randint(14, 34), draw.randint(14, 26), draw.randint(6, 13)
        sides = {"square": 4, "triangle": 3}.get(CLASSES[self.targets[index]], 40)
        ImageDraw.Draw(image).regular_polygon((x, y, radius), sides, draw.randrange(360), tuple(ink))
        return image, self.targets[index]


def make() -> tuple[Shapes, Shapes, list[str]]:
    """Training images, test images and the names of the classes. With a parameter ``path``, it would be given data.path."""
    return Shapes(600, seed=0), Shapes(300, seed=1), CLASSES


def main(arguments: list[str] | None = None) -> jpegdl.comparison.Comparison:
    parser = argparse.ArgumentParser(description="Shapes, with and without the layer")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", default="runs")
    options = parser.parse_args(arguments)

    config = CompareConfig(
        data=DataConfig(size=32, resize=36),
        training=TrainingConfig(epochs=options.epochs),
        seeds=options.seeds,
        name="shapes-from-python",
        output=options.output,
    )
    done = jpegdl.compare(config, sets=make())
    print(done.table)
    return done


if __name__ == "__main__":
    main()
