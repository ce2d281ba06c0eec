"""A JPEG layer in a loop with Accelerate: python examples/trainers/accelerate_loop.py [--data FOLDER]

Needs accelerate: pip install '.[examples]' in a checkout.
"""

import argparse

import timm
import torch
from accelerate import Accelerator
from photographs import image_sets, report
from torch import nn
from torch.utils.data import DataLoader

from jpegdl import JpegLayer, parameter_groups, prepend
from jpegdl.layer import PrependedModel


def main(arguments: list[str] | None = None) -> PrependedModel:
    parser = argparse.ArgumentParser(description="A JPEG layer in a loop with Accelerate.")
    parser.add_argument("--data", help="folder with train/CLASS/ and test/CLASS/")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10**9, help="at most so many in an epoch")
    options = parser.parse_args(arguments)

    accelerator = Accelerator(mixed_precision="bf16", gradient_accumulation_steps=2)
    train, test, classes = image_sets(options.data)
    model = prepend(timm.create_model("resnet18", num_classes=classes), JpegLayer.from_quality(90))
    optimizer = torch.optim.AdamW(parameter_groups(model, lr=1e-3, layer_lr=3e-3, weight_decay=0.05))
    model, optimizer, train_loader = accelerator.prepare(model, optimizer, DataLoader(train, 16, shuffle=True))
    for _ in range(options.epochs):
        model.train()
        for _, (images, labels) in zip(range(options.steps), train_loader, strict=False):
            with accelerator.accumulate(model):
                accelerator.backward(nn.functional.cross_entropy(model(images), labels))
                optimizer.step()
                optimizer.zero_grad()
    trained: PrependedModel = accelerator.unwrap_model(model)
    report(trained, test)
    return trained


if __name__ == "__main__":
    main()
