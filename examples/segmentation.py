"""A JPEG layer in front of a segmentation model: python examples/segmentation.py

The task is made up: find the discs and the squares that are laid on photographs, pixel by pixel.
"""

import skimage.data
import torch
from joint_training import PATCH, Batches, parser, train_jointly
from torch import Tensor, nn
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from jpegdl import JpegLayer, prepend
from jpegdl.layer import PrependedModel

CLASSES = ("background", "disc", "square")


def scenes(batch_size: int, size: int = PATCH) -> Batches:
    """Images (N, 3, size, size) in [0, 1] with a disc and a square on each, and each pixel's class (N, size, size); endless."""
    photographs = [torch.from_numpy(image()) / 255 for image in (skimage.data.astronaut, skimage.data.coffee)]
    generator = torch.Generator().manual_seed(0)
    rows = torch.arange(size)[:, None]

    def random(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    def scene() -> tuple[Tensor, Tensor]:
        photograph = photographs[random(0, len(photographs))]
        top, left = (random(0, length - size) for length in photograph.shape[:2])
        image, classes = photograph[top : top + size, left : left + size].clone(), torch.zeros(size, size, dtype=torch.long)
        for index in (1, 2):
            row, column, radius = random(0, size), random(0, size), random(size // 8, size // 4)
            down, right = (rows - row).abs(), (rows.T - column).abs()
            inside = down**2 + right**2 <= radius**2 if CLASSES[index] == "disc" else torch.maximum(down, right) <= radius
            image[inside] = torch.rand(3, generator=generator)
            classes[inside] = index
        return image.permute(2, 0, 1), classes

    while True:
        images, classes = zip(*(scene() for _ in range(batch_size)), strict=True)
        yield torch.stack(images), torch.stack(classes)


def pixel_cross_entropy(model: PrependedModel, images: Tensor, classes: Tensor) -> Tensor:
    # torchvision's segmentation models return a dictionary; its "out" holds logits (N, classes, H, W).
    return nn.functional.cross_entropy(model(images)["out"], classes)


def main(arguments: list[str] | None = None) -> PrependedModel:
    options = parser("A JPEG layer in front of a segmentation model.").parse_args(arguments)
    backbone = lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=len(CLASSES))
    model = prepend(backbone, JpegLayer())  # ImageNet's mean and standard deviation, which torchvision's weights want
    train_jointly(model, scenes(options.batch_size), pixel_cross_entropy, options.steps)
    return model


if __name__ == "__main__":
    main()
