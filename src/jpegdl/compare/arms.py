"""The arms of a comparison: each is a few settings that differ from the recipe's."""

import difflib
from dataclasses import dataclass, replace
from typing import Any

from jpegdl.errors import UsageError
from jpegdl.layer import layer_kind
from jpegdl.training import RunConfig


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Args:
        about: what it is, in a few words.
        layer: settings of the layer that differ from the recipe's.
        data: settings of the data that do.
    """

    about: str
    layer: dict[str, Any]
    data: dict[str, Any]


def _arm(about: str, **layer: Any) -> Arm:
    return Arm(about, layer, {})


def _without_layer(about: str, **data: Any) -> Arm:
    return Arm(about, {"kind": "none"}, data)


ARMS: dict[str, Arm] = {
    "plain": _without_layer("the backbone alone"),
    "jpeg-dl": _arm("the recipe's layer, trained jointly"),
    # Controls: real JPEG instead of the layer.
    "jpeg-augmentation": _without_layer("no layer; training images as JPEG files of quality 30 to 95", jpeg_train=[30, 95]),
    "jpeg-75": _without_layer("no layer; all images as JPEG files of quality 75", jpeg_train=[75, 75], jpeg_test=75),
    # Controls: tables that do not train.
    "fixed-sensitivity": _arm("sensitivity tables that stay, only the backbone trains", tables="sensitivity", train=False),
    "fixed-50": _arm("standard tables of quality 50 that stay", tables="standard:50", train=False),
    "fixed-75": _arm("standard tables of quality 75 that stay", tables="standard:75", train=False),
    "fixed-90": _arm("standard tables of quality 90 that stay", tables="standard:90", train=False),
    "learned-frozen": _arm("tables learned by jpeg-dl that stay, with a fresh backbone", tables="learned", train=False),
    # Controls: other gradients.
    "ste": _arm("hard rounding with a straight-through gradient", rounding="ste"),
    "noise": _arm("uniform noise in place of rounding", rounding="noise"),
    # Controls: other initial tables.
    "init-sensitivity": _arm("trained from sensitivity tables", tables="sensitivity"),
    "init-magnitude": _arm("trained from magnitude tables", tables="magnitude"),
    "init-ones": _arm("trained from tables of ones", tables="ones"),
    "init-random": _arm("trained from random tables", tables="random"),
    # What of the layer does it.
    "cap-only": _arm("the level cap without quantization", rounding="none"),
    "quantization-only": _arm("quantization without the level cap", bits=None),
    # The simplest competitors.
    "gain": _arm("a trained gain for each frequency, no quantizer", kind="gain"),
    "normalize": _arm("brightness and contrast of each image normalised, no layer", kind="normalize"),
    # Variants of the layer.
    "zero-dc": _arm("the layer without the blocks' mean values", kind="zero-dc"),
    "subsampled": _arm("the layer with 4:2:0 chroma subsampling", kind="subsampled"),
    "regions": _arm("the layer with tables of their own for parts of the image", kind="regions"),
    "cascade": _arm("two layers in a row", kind="cascade"),
    "alpha": _arm("the layer with trained alpha", hardness=None, trainable_alpha=True),
    "hardness": _arm("the layer with trained hardness alpha q^2, from 0.7 if the recipe has none", trainable_alpha=True),
    "log": _arm("a logarithmic compander in the quantizer's place", kind="log"),
    "tanh": _arm("a tanh compander in the quantizer's place", kind="tanh"),
}

_HARDNESS = 0.7  # the published hardness


def check_arm(arm: str) -> None:
    """Refuse an unknown arm.

    Raises:
        UsageError: names those there are, the most similar first.
    """
    if arm not in ARMS:
        similar = difflib.get_close_matches(arm, ARMS, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(similar)}? " if similar else ""
        hint = "arms are separated by commas: '[plain, jpeg-dl]'; " if " " in arm else hint
        raise UsageError(f"no arm {arm!r}; {hint}all arms: {', '.join(ARMS)}")


def arm_config(config: RunConfig, arm: str) -> RunConfig:
    """The settings of one arm of a recipe.

    Raises:
        UsageError: unknown arm.
    """
    check_arm(arm)
    layer = replace(config.layer, **ARMS[arm].layer)
    if arm == "hardness":
        layer = replace(layer, alpha=None, hardness=layer.hardness or _HARDNESS)
    return replace(config, layer=layer, data=replace(config.data, **ARMS[arm].data))


def needed_arms(config: RunConfig, arm: str) -> list[str]:
    """The arms whose finished run, of the same seed, an arm starts from.

    Raises:
        UsageError: unknown arm, or one that is to start from learned tables and cannot.
    """
    layer = arm_config(config, arm).layer
    kind = layer_kind(layer)
    source = {"sensitivity": "plain", "learned": "jpeg-dl"}.get(layer.tables)
    if source is None or not kind.from_tables:
        return []
    if source == arm:
        raise UsageError("arm jpeg-dl cannot start from the tables that it is to learn: layer.tables learned is for other arms")
    if layer.tables == "learned" and not (kind.single and kind.tables == "steps"):
        raise UsageError(
            f"arm {arm} cannot start from learned tables: with layer.kind {layer.kind} jpeg-dl does not learn two tables"
        )
    if layer.tables == "learned" and layer.trainable_alpha:
        raise UsageError(f"arm {arm} takes learned tables alone, and layer.trainable_alpha would need its learned alpha too")
    return [source]
