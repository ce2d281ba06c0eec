"""The checks that refuse settings which no data set could be loaded with."""

import re

from jpegdl.data.config import LARGEST, OBJECT, ORDERED, DataConfig
from jpegdl.data.sources.registry import set_names
from jpegdl.earlier import SETS
from jpegdl.errors import UsageError
from jpegdl.settings import check_fields
from jpegdl.user_code import is_own

_NUMBER = r"\d+(\.\d+)?"
#: timm's own reading passes over what it does not know, so that a typing error would go unseen.
_AUTO_AUGMENT = re.compile(
    rf"rand(-(m\d+|n\d+|p{_NUMBER}|mstd{_NUMBER}|mmax\d+|inc[01]|t(weights|3a|3aw)))*"
    rf"|(v0r?|originalr?|3a)(-mstd{_NUMBER})?"
    rf"|augmix(-(m\d+|w[1-9]\d*|d[1-9]\d*|a{_NUMBER}|b[01]|mstd{_NUMBER}))*"
)


def check_data(config: DataConfig) -> None:
    """Refuse settings that no data set could be loaded with.

    Raises:
        UsageError: names the setting.
    """
    name = config.name
    if name not in (None, OBJECT) and not is_own(name):
        known = set_names()
        for prefix, instead in SETS.items():
            if name.startswith(prefix):
                raise UsageError(f"data.name {name!r}: {prefix} was removed; take {instead}")
        if name not in known and not name.startswith(tuple(prefix for prefix in known if prefix.endswith("/"))):
            names = ", ".join(f"{name}NAME" if name.endswith("/") else name for name in known)
            raise UsageError(f"data.name must be one of {names}, or your own, my_package.my_module:make, got {name!r}")
    check_fields(config, "data.")
    if config.classes is not None and config.kind != "made-up":
        raise UsageError(f"data.classes is for made-up only, got {config.classes} with {config.kind}")
    if config.class_order is not None and config.kind not in ORDERED:
        raise UsageError(f"data.class_order is for {' and '.join(ORDERED)} only, got {config.class_order} with {config.kind}")
    for name, side in (("size", config.pixels), ("resize", config.side), ("pad", config.pixels + 2 * config.pad)):
        if side > LARGEST:
            given = getattr(config, name)
            raise UsageError(f"data.{name} {given} makes images of {side} pixels per side; take at most {LARGEST}")
    if config.resize is not None and config.resize < config.pixels:
        raise UsageError(f"data.resize must be at least data.size = {config.pixels}, got {config.resize}")
    if config.pad and config.crop == "resized":
        raise UsageError(f"data.pad cannot be combined with data.crop resized, got {config.pad}")
    _check_split(config)
    _check_augmentation(config)
    if (low_high := config.jpeg_train) is not None and not (len(low_high) == 2 and low_high[0] <= low_high[1]):
        raise UsageError(f"data.jpeg_train must be the lowest and the highest quality, 1 to 100, got {low_high}")


def _check_split(config: DataConfig) -> None:
    held = config.holdout is not None and config.holdout > 0
    if held and config.folds is not None:
        raise UsageError(f"data.holdout {config.holdout:g} and data.folds {config.folds} both hold images out: give one")
    if (config.folds is None) != (config.fold is None):
        given, missing = ("folds", "fold") if config.fold is None else ("fold", "folds")
        which = f", 0 to {config.folds - 1}: which of them is held out" if config.folds is not None else ", how many there are"
        raise UsageError(f"data.{given} {getattr(config, given)} needs data.{missing}{which}")
    if config.folds is not None and config.fold is not None and config.fold >= config.folds:
        raise UsageError(f"data.fold must be 0 to {config.folds - 1} with data.folds {config.folds}, got {config.fold}")
    if config.test_share is not None and not (
        config.kind in (*ORDERED, OBJECT) or config.kind.startswith("hfds/") or is_own(config.kind)
    ):
        raise UsageError(f"data.test_share is for sets without test images of their own, and {config.kind} has some")


def _check_augmentation(config: DataConfig) -> None:
    policy, jitter = config.auto_augment, config.color_jitter
    if policy is not None and not _AUTO_AUGMENT.fullmatch(policy):
        raise UsageError(
            "data.auto_augment must be a name that timm knows, such as rand-m9-mstd0.5-inc1, original-mstd0.5 or "
            f"augmix-m5-w4, got {policy!r}"
        )
    if policy is not None and jitter is not None and "3a" not in policy:
        raise UsageError(
            f"data.color_jitter {jitter} cannot be combined with data.auto_augment {policy}, which replaces it in timm"
        )
