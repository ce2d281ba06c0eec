"""What the examples share: photographs, and the loop in which a backbone and its JPEG layer train together."""

import argparse
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from jpegdl import JpegLayer
from jpegdl.data import Data, DataConfig
from jpegdl.layer import PrependedModel

PATCH = 64  # pixels; the embedded photographs have no room for patches of more than 80

Batches = Iterator[tuple[Tensor, Tensor]]


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that every example takes."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    result.add_argument("--steps", type=int, default=60, help="optimizer steps")
    result.add_argument("--batch-size", type=int, default=16, help="images per step")
    return result


def photographs(batch_size: int, size: int = PATCH) -> Batches:
    """Training images (N, 3, size, size) in [0, 1], NOT normalised, and their classes (N), without an end.

    They are patches of the 18 photographs that scikit-image ships, in random colours; the class is the photograph. Put your
    own loader here: take ``Normalize`` out of its transform, since ``prepend`` normalises after the layer.
    """
    loader = Data(DataConfig(name="photos", size=min(size, PATCH), batch_size=batch_size)).train_dataloader()
    epoch = 0
    while True:
        loader.sampler.set_epoch(epoch)  # another order and other flips than in the epoch before
        for images, labels in loader:
            yield nn.functional.interpolate(images, (size, size), mode="bilinear", antialias=True), labels
        epoch += 1


def train_jointly(
    model: PrependedModel, batches: Batches, loss_of: Callable[[PrependedModel, Tensor, Tensor], Tensor], steps: int
) -> list[float]:
    """Train ``model.backbone`` and ``model.layer`` on one loss, print how it goes, and return the loss of each step."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).train()
    # Two optimizers: the steps of a quantization table are not weights. They have a rate of their own, and no weight decay.
    optimizer = torch.optim.AdamW(model.backbone.parameters(), lr=5e-4, weight_decay=0.05)
    layer_optimizer = torch.optim.Adam(model.layer.parameters(), lr=0.01)
    before = {name: table.detach().clone() for name, table in model.layer.named_parameters()}

    losses: list[float] = []
    for step, (images, targets) in zip(range(steps), batches, strict=False):
        loss = loss_of(model, images.to(device), targets.to(device))
        optimizer.zero_grad()
        layer_optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        layer_optimizer.step()  # after which steps are within [1e-5, 255]
        losses.append(loss.item())
        if (step + 1) % max(1, steps // 6) == 0:
            recent = losses[-max(1, steps // 6) :]
            print(f"  step {step + 1:4d}: loss {sum(recent) / len(recent):.3f}")
    print_moves(model.layer, before)
    return losses


def print_moves(layer: JpegLayer, before: dict[str, Tensor]) -> None:
    """How far each table has gone, and which of its frequencies went furthest."""
    for name, table in layer.named_parameters():
        moves = (table.detach() - before[name]).abs()
        row, column = divmod(int(moves.argmax()), 8)
        print(
            f"  {name}: steps moved by {moves.mean():.3f} on average, most at row {row}, column {column}: "
            f"{before[name][row, column]:.3f} -> {table[row, column].item():.3f}"
        )
