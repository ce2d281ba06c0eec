"""From a name to a backbone: timm's, torchvision's, or one of the CIFAR networks here."""

import difflib
import functools
from typing import Any

import lightning
import timm
import torchvision
from torch import nn

from jpegdl.errors import UsageError

#: In front of the names of torchvision's classifiers.
TORCHVISION = "torchvision/"
_PRETRAINED = ("hf-hub:", "hf_hub:", "local-dir:")  # in front of what timm would load, architecture and weights
# Without googlenet and inception_v3, which while they train return more than logits.
_TORCHVISION_NAMES = sorted({*torchvision.models.list_models(module=torchvision.models)} - {"googlenet", "inception_v3"})


def check_backbone(name: str) -> None:
    """Refuse an unknown backbone, and a name that stands for pretrained weights.

    Raises:
        UsageError: says what to write instead, or names the most similar ones.
    """
    of_torchvision = name.startswith(TORCHVISION)
    short, _, tag = (name.removeprefix(TORCHVISION), "", "") if of_torchvision else name.partition(".")
    # timm knows older names than it lists, too.
    known = short in _TORCHVISION_NAMES if of_torchvision else timm.is_model(short)
    if name.startswith(_PRETRAINED) or (known and tag):
        instead = repr(short) if known else "an architecture, such as 'resnet18',"
        raise UsageError(
            f"backbone {name!r} stands for pretrained weights, which are not loaded; give {instead} to start from random ones"
        )
    if not known:
        names, library = _TORCHVISION_NAMES, "classifier of torchvision"
        if not of_torchvision:
            names, library = timm.list_models(), "timm model"
        similar = difflib.get_close_matches(short, names, n=3)
        hint = f"did you mean {', '.join(similar)}?" if similar else f"{names[0]} is one; timm.list_models() has all of timm's"
        raise UsageError(f"backbone {name!r} is no {library}; {hint}")


def build_backbone(name: str, classes: int, seed: int, size: int) -> nn.Module:
    """A model with random weights, the same for the same seed.

    Args:
        name: timm's name of it, or ``torchvision/`` and torchvision's.
        classes: number of logits.
        seed: of the weights.
        size: side of the square images it will see, in pixels.

    Raises:
        UsageError: it cannot be built.
    """
    create, sized = functools.partial(timm.create_model, name, pretrained=False), "img_size"
    if name.startswith(TORCHVISION):
        create = functools.partial(torchvision.models.get_model, name.removeprefix(TORCHVISION), weights=None)
        sized = "image_size"
    # Models that are made for one size take it; the others refuse to be told.
    attempts: list[dict[str, Any]] = [{sized: size}, {}]
    for options in attempts:
        lightning.seed_everything(seed, verbose=False)
        try:
            model: nn.Module = create(num_classes=classes, **options)
            return model
        except Exception as error:  # whatever the model's own code raises
            if sized in str(error) and options:
                continue
            raise UsageError(f"backbone {name!r} cannot be built for {size}-pixel images: {error}") from error
    raise AssertionError("unreachable")
