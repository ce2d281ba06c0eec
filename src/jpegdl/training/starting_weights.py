"""The backbone that a run starts from."""

import warnings
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from jpegdl.backbones.build import build_backbone
from jpegdl.backbones.weights import Head, load_weights, pretrained_weights, read_weights
from jpegdl.data.config import ORDERED
from jpegdl.data.sources.listing import natural_key
from jpegdl.errors import UsageError
from jpegdl.layer import PrependedModel
from jpegdl.runs import open_run
from jpegdl.runs.config import RunConfig
from jpegdl.runs.folder import RunFolder
from jpegdl.runs.model import named_classes
from jpegdl.runs.record import class_difference
from jpegdl.user_code import is_own


def starting_backbone(
    config: RunConfig, classes: Sequence[str], seed: int, *, untrained: bool = False
) -> tuple[nn.Module, Head]:
    """Return the backbone with the weights that settings ask for, and what became of their head.

    Args:
        config: ``weights``, a file, comes before ``pretrained``, the library's own; without both the weights
            are random, or those that the user's own code gives its model.
        classes: names of the classes, in the order of the logits.
        seed: of random weights: all of them, or those of a new head.
        untrained: whether it is used as it is, whatever the settings say of training.

    Returns:
        The backbone, and its head: own (the weights' own, or what the user's own code made), selected (those of its rows that
        stand for ``classes``) or new (random, to be trained).

    Raises:
        UsageError: it cannot be built, or the weights cannot be had, read or fitted.
    """
    backbone = build_backbone(config.backbone, len(classes), seed, config.data.pixels)
    # Else what it begins with is trained.
    as_it_is = untrained or config.training.train == "layer" or config.layer.tables == "pretrained"
    if config.weights is None and is_own(config.backbone):
        if as_it_is:
            check_order(config, classes, f"the weights that {config.backbone} may begin with")
        return backbone, "own"
    if not config.trained:
        return backbone, "new"
    if config.weights is not None:
        state, source = read_weights(Path(config.weights)), f"weights {config.weights}"
    else:
        state, source = pretrained_weights(config.backbone, config.data.pixels), f"the pretrained weights of {config.backbone}"
    head = load_weights(backbone, state, classes, source)
    if head == "own":
        check_order(config, classes, source, as_it_is=as_it_is)
    return backbone, head


def check_order(config: RunConfig, classes: Sequence[str], source: str, *, as_it_is: bool = True) -> None:
    """Hold the data's classes and their order against those of weights from elsewhere, with a head for as many.

    Where the weights name other classes, warn if the head is trained. Where they do not name their classes, warn if
    torchvision's ImageFolder has them in another order than this package, and ``data.class_order`` does not say which of the
    two is meant.

    Args:
        config: ``data`` and ``weights`` count.
        classes: names of the classes, in the order of the logits.
        source: where the weights are from, for messages.
        as_it_is: whether the head's answers count before it is trained.

    Raises:
        UsageError: the weights name the same classes in another order; or, with ``as_it_is``, other classes.
    """
    named = None if config.weights is None else named_classes(Path(config.weights))
    if named is not None:
        if sorted(named) == sorted(classes) and named != list(classes):
            raise UsageError(
                f"{source} know the classes in another order, {_first(named)}, and the data have {_first(classes)}: give the "
                f"--data.class-order that they were trained with{_other_order(config)}"
            )
        if (difference := class_difference(named, list(classes))) is not None:
            other = f"{source} know other classes than these data, as many ({difference})"
            if as_it_is:
                raise UsageError(f"{other}; give data of those")
            warnings.warn(f"{other}: training starts from a head for those", stacklevel=3)
        return
    natural, imagefolders = sorted(classes, key=natural_key), sorted(classes)
    if config.data.kind in ORDERED and config.data.class_order is None and natural != imagefolders:
        warnings.warn(
            f"{source} do not name their classes, taken to be {_first(classes)}; in torchvision's ImageFolder they are "
            f"{_first(imagefolders)}. Give --data.class-order sorted if the weights were trained with ImageFolder, natural "
            "otherwise",
            stacklevel=3,
        )


def _first(classes: Sequence[str]) -> str:
    return ", ".join(classes[:4]) + (", ..." if len(classes) > 4 else "")


def _other_order(config: RunConfig) -> str:
    if config.data.kind not in ORDERED:
        return ""
    return ", natural" if config.data.class_order == "sorted" else ", sorted"


def other_networks(config: RunConfig, classes: Sequence[str]) -> list[PrependedModel]:
    """Return the networks of ``training.networks``, frozen, in eval mode and without the layers they were trained with.

    Raises:
        UsageError: a folder holds no trained model, or one that knows other classes or images of another size.
    """
    found: list[PrependedModel] = []
    for name in config.training.networks:
        run = open_run(RunFolder(Path(name).expanduser()))
        if difference := class_difference(list(classes), run.classes):
            raise UsageError(f"training.networks: {name} knows other classes than the data: {difference}")
        if (trained := run.config.data.pixels) != config.data.pixels:
            raise UsageError(
                f"training.networks: {name} was trained on images of {trained} pixels, and data.size is {config.data.pixels}"
            )
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
            "layer.tables pretrained needs weights whose head fits the data's classes, and this head is new; "
            "layer.tables sensitivity takes the sensitivities of the plain model after training"
        )
