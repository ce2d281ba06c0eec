"""The backbone that a run starts from."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from jpegdl.backbones.build import build_backbone
from jpegdl.backbones.weights import Head, load_weights, pretrained_weights, read_weights
from jpegdl.errors import UsageError
from jpegdl.layer import PrependedModel
from jpegdl.own import is_own
from jpegdl.training.config import RunConfig
from jpegdl.training.folder import RunFolder
from jpegdl.training.records import class_difference


def starting_backbone(config: RunConfig, classes: Sequence[str], seed: int) -> tuple[nn.Module, Head]:
    """The backbone with the weights that settings ask for, and what became of their head.

    Args:
        config: ``weights``, a file, comes before ``pretrained``, the library's own; without both the weights
            are random, or those that the user's own code gives its model.
        classes: names of the classes, in the order of the logits.
        seed: of random weights: all of them, or those of a new head.

    Returns:
        The backbone, and its head: own (the weights' own, or what the user's own code made), selected (those of its rows that
        stand for ``classes``) or new (random, to be trained).

    Raises:
        UsageError: it cannot be built, or the weights cannot be had, read or fitted.
    """
    backbone = build_backbone(config.backbone, len(classes), seed, config.data.pixels)
    if config.weights is None and is_own(config.backbone):
        return backbone, "own"
    if not config.trained:
        return backbone, "new"
    if config.weights is not None:
        state, source = read_weights(Path(config.weights)), f"weights {config.weights}"
    else:
        state, source = pretrained_weights(config.backbone, config.data.pixels), f"the pretrained weights of {config.backbone}"
    return backbone, load_weights(backbone, state, classes, source)


def other_networks(config: RunConfig, classes: Sequence[str]) -> list[PrependedModel]:
    """The networks of ``training.networks``, frozen, in eval mode and without the layers they were trained with.

    Raises:
        UsageError: a folder holds no trained model, or one that knows other classes.
    """
    found: list[PrependedModel] = []
    for name in config.training.networks:
        run = RunFolder(Path(name).expanduser()).open()
        if difference := class_difference(list(classes), run.classes):
            raise UsageError(f"training.networks: {name} knows other classes than the data: {difference}")
        found.append(run.model.without_layer().requires_grad_(False))
    return found


def check_start(config: RunConfig, classes: Sequence[str], seed: int) -> None:
    """Build what a run starts from, and let it go: what is wrong with it shows before anything is written.

    Raises:
        UsageError: as :func:`starting_backbone`, or a head that does not do for what is to be trained or calibrated.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run itself will say it
        _, head = starting_backbone(config, classes, seed)
    check_head(config, head)
    other_networks(config, classes)


def check_head(config: RunConfig, head: Head) -> None:
    """Refuse a new head where one that knows the classes is needed.

    Raises:
        UsageError: says what to do instead.
    """
    if head == "new" and config.training.train == "layer":
        raise UsageError(
            "training.train layer needs weights whose head fits the data's classes: train both, or give weights that were "
            "trained on these classes"
        )
    if head == "new" and config.layer.kind != "none" and config.layer.tables == "pretrained":
        raise UsageError(
            "layer.tables pretrained needs weights whose head fits the data's classes, and this head is a new one; "
            "layer.tables sensitivity takes the sensitivities of the plain model after training"
        )
