"""The backbone that a run starts from."""

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from jpegdl.backbones.build import build_backbone
from jpegdl.backbones.weights import Head, load_weights, pretrained_weights, read_weights
from jpegdl.own import is_own
from jpegdl.training.config import RunConfig


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
