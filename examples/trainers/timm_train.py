"""A JPEG layer in timm's training: python examples/trainers/timm_train.py [--data FOLDER]

It uses what timm's own train.py is made of. That script itself takes the model by its name, and needs no change:

    python examples/trainers/timm_train.py --script timm/train.py --model jpegdl_resnet18 --data-dir FOLDER --num-classes 10
"""

import argparse
import runpy
import sys
from typing import Any

import timm
from photographs import image_sets, report
from timm.models import register_model
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3
from torch import nn
from torch.utils.data import DataLoader

from jpegdl import JpegLayer, prepend
from jpegdl.layer import PrependedModel


@register_model
def jpegdl_resnet18(pretrained: bool = False, **options: Any) -> PrependedModel:
    """ResNet-18 behind a JPEG layer, for timm.create_model and timm's scripts."""
    ours = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
    options = {name: value for name, value in options.items() if name not in ours}
    return prepend(timm.create_model("resnet18", pretrained=pretrained, **options), JpegLayer.from_quality(90))


def main(arguments: list[str] | None = None) -> PrependedModel:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with train/CLASS/ and test/CLASS/")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10**9, help="at most so many in an epoch")
    options = parser.parse_args(arguments)

    train, test, classes = image_sets(options.data)
    model = timm.create_model("jpegdl_resnet18", num_classes=classes)
    # Tables are spared by weight decay: timm asks model.no_weight_decay().
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05)
    scheduler, _ = create_scheduler_v2(optimizer, sched="cosine", num_epochs=options.epochs)
    average = ModelEmaV3(model, decay=0.9)
    for epoch in range(options.epochs):
        model.train()
        for _, (images, labels) in zip(range(options.steps), DataLoader(train, 16, shuffle=True), strict=False):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()  # and the steps of the layer are in range: nothing else to call
            average.update(model)
        scheduler.step(epoch + 1)
    report(average.module, test)
    return model


if __name__ == "__main__":
    if sys.argv[1:2] == ["--script"]:
        script, sys.argv = sys.argv[2], sys.argv[2:]
        runpy.run_path(script, run_name="__main__")
    else:
        main()
