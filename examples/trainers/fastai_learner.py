"""A JPEG layer in a fastai Learner: python examples/trainers/fastai_learner.py [--data FOLDER]

Use Learner, not vision_learner: that one puts Normalize in front of the model.
Needs fastai: pip install '.[examples]' in a checkout.
"""

import argparse

import timm
from fastai.callback.core import CancelFitException
from fastai.vision.all import Callback, DataLoader, DataLoaders, Learner, accuracy, params
from photographs import image_sets, report
from torch import nn

from jpegdl import JpegLayer, prepend
from jpegdl.layer import PrependedModel


class AtMost(Callback):
    """Stop after so many steps."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def after_batch(self) -> None:
        if self.training and self.train_iter >= self.steps:
            raise CancelFitException


def no_decay(learner: Learner, group: int) -> None:
    """Take a group of parameters out of weight decay, as fastai does with biases and BatchNorm."""
    for _, _, state, _ in learner.opt.all_params(slice(group, group + 1)):
        state["do_wd"] = False


def main(arguments: list[str] | None = None) -> PrependedModel:
    parser = argparse.ArgumentParser(description="A JPEG layer in a fastai Learner.")
    parser.add_argument("--data", help="folder with train/CLASS/ and test/CLASS/")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--steps", type=int, help="at most so many")
    options = parser.parse_args(arguments)

    train, test, classes = image_sets(options.data)
    loaders = DataLoaders(DataLoader(train, bs=16, shuffle=True), DataLoader(test, bs=64))
    model = prepend(timm.create_model("resnet18", num_classes=classes), JpegLayer.from_quality(90))
    learner = Learner(
        loaders,
        model,
        loss_func=nn.CrossEntropyLoss(),
        metrics=accuracy,
        splitter=lambda model: [params(model.backbone), params(model.layer)],
        cbs=[] if options.steps is None else [AtMost(options.steps)],
    )
    learner.create_opt()
    no_decay(learner, 1)
    with learner.no_bar():
        learner.fit_one_cycle(options.epochs, lr_max=[1e-3, 3e-3])  # of the backbone, of the layer
    report(model, test)
    return model


if __name__ == "__main__":
    main()
