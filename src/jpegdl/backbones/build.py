"""From a name to a backbone: timm's, torchvision's, one of the CIFAR networks here, or what the user's own code makes."""

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import timm
import torch
import torchvision
from timm.data.config import resolve_data_config
from torch import nn

from jpegdl.errors import UsageError
from jpegdl.random import seed_everything
from jpegdl.user_code import find_object, is_own, said

#: In front of the names of torchvision's classifiers.
TORCHVISION = "torchvision/"
_PRETRAINED = ("hf-hub:", "hf_hub:", "local-dir:")  # in front of what timm would load, architecture and weights
# Without googlenet and inception_v3, which while they train return more than logits.
_TORCHVISION_NAMES = sorted({*torchvision.models.list_models(module=torchvision.models)} - {"googlenet", "inception_v3"})


def check_backbone(name: str, *, trained: bool = False) -> None:
    """Refuse the name of a backbone that nobody knows, and the tag of weights that are not loaded.

    Args:
        name: of the backbone.
        trained: whether trained weights are loaded, so that timm's name may have a tag: which weights, or for which settings.

    Raises:
        UsageError: says what to write instead, or names the most similar ones.
    """
    if is_own(name):
        _factory(name)
        return
    of_torchvision = name.startswith(TORCHVISION)
    short, tag, known = _split(name)
    if name.startswith(_PRETRAINED) or (known and tag and not trained):
        if known:
            instead = f"add --pretrained true to load them, or give {short!r} to start from random ones"
        else:
            instead = "give an architecture, such as 'resnet18'"
        raise UsageError(f"backbone {name!r} stands for pretrained weights, which are not loaded; {instead}")
    if known and tag and not any(name == other for other in timm.models.get_arch_pretrained_cfgs(short)):
        tags = ", ".join(timm.models.get_arch_pretrained_cfgs(short))
        raise UsageError(f"backbone {name!r} has a tag that timm does not know; available: {tags}")
    if not known:
        names, library = _TORCHVISION_NAMES, "classifier of torchvision"
        if not of_torchvision:
            names, library = timm.list_models(), "timm model"
        similar = difflib.get_close_matches(short, names, n=3)
        hint = f"did you mean {', '.join(similar)}?" if similar else f"{names[0]} is one; timm.list_models() has all of timm's"
        if ":" in name:
            hint = "a model of your own is named my_package.my_module:make_model"
        raise UsageError(f"backbone {name!r} is not a {library}; {hint}")


def _factory(name: str) -> Callable[..., Any]:
    """Return what makes the user's own model.

    Raises:
        UsageError: there is no such thing, or it cannot be called with ``num_classes``.
    """
    factory: Callable[..., Any] = find_object(name, "backbone")
    if not callable(factory):
        raise UsageError(
            f"backbone {name!r} must be a class or a function that is called with num_classes, got {type(factory).__name__}"
        )
    try:
        inspect.signature(factory).bind(num_classes=2)
    except TypeError as error:
        raise UsageError(f"backbone {name!r} must be callable with num_classes alone: {error}") from error
    except ValueError:  # it has no signature: calling it will tell
        pass
    return factory


def _split(name: str) -> tuple[str, str, bool]:
    """Architecture, tag of the weights ("" for none), and whether the architecture is known."""
    if name.startswith(TORCHVISION):
        short = name.removeprefix(TORCHVISION)
        return short, "", short in _TORCHVISION_NAMES
    short, _, tag = name.partition(".")
    return short, tag, timm.is_model(short)  # timm knows older names than it lists, too


@dataclass(frozen=True)
class OwnInput:
    """The images that published weights were made for."""

    size: int  # side of the square images, in pixels
    resize: int  # short side that images are scaled to before the crop to ``size``
    interpolation: str  # bicubic or bilinear
    squash: bool = False  # whether images of any shape are scaled to a square of ``resize`` instead
    unlike: str = ""  # what the record says that cannot be done here, and what can be


def input_of(recorded: Mapping[str, Any]) -> OwnInput:
    """Return what a record as timm's (``pretrained_cfg``) says of images, with ``unlike`` where that cannot be done here."""
    height, size = recorded["input_size"][-2:]
    crop, interpolation = recorded.get("crop_mode") or "center", recorded.get("interpolation") or "bicubic"
    unlike = ""
    if height != size:
        unlike = f"images of {height} x {size} pixels: they must be square"
    elif crop not in ("center", "squash"):
        unlike = f"crop_mode {crop!r}: it must be center or squash"
    elif interpolation not in ("bicubic", "bilinear"):
        unlike, interpolation = f"interpolation {interpolation!r}: it must be bicubic or bilinear", "bicubic"
    return OwnInput(size, int(size / recorded.get("crop_pct", 1.0)), interpolation, crop == "squash", unlike)


def own_input(name: str) -> OwnInput | None:
    """Return what a backbone's published weights were made for, as timm and torchvision record it; None where nothing is
    known."""
    short, _, known = _split(name)
    if is_own(name) or not known:
        return None
    if name.startswith(TORCHVISION):
        made = torchvision.models.get_model_weights(short).DEFAULT.transforms()
        return OwnInput(made.crop_size[0], made.resize_size[0], made.interpolation.value)
    try:
        recorded = timm.models.get_pretrained_cfg(name)
    except RuntimeError:  # a tag that there is not
        return None
    if recorded is None:
        return None
    return input_of(resolve_data_config(pretrained_cfg=recorded.to_dict()))  # type: ignore[no-untyped-call]


def pretrained_source(name: str) -> str | None:
    """Return where a known backbone's published weights are, for messages; None where there are none."""
    if is_own(name):
        return None
    if name.startswith(TORCHVISION):
        return str(torchvision.models.get_model_weights(name.removeprefix(TORCHVISION)).DEFAULT.url)
    recorded = timm.models.get_pretrained_cfg(name)
    places = () if recorded is None else (recorded.hf_hub_id, recorded.url, recorded.file)
    return next((str(place) for place in places if place), None)


def build_backbone(name: str, classes: int, seed: int, size: int) -> nn.Module:
    """Return a model with random weights, the same for the same seed; the user's own with those that its code gives it.

    Args:
        name: timm's name of it, with or without the tag of trained weights, which are not loaded here; ``torchvision/`` and
            torchvision's; or ``my_package.my_module:make_model``, a class or function that is called with ``num_classes``.
        classes: number of logits.
        seed: of the weights.
        size: side of the square images it will see, in pixels.

    Raises:
        UsageError: it cannot be built; or the user's own is no module, or does not give ``classes`` logits an image.
    """
    if is_own(name):
        return _own_backbone(name, classes, seed, size)
    create, sized = functools.partial(timm.create_model, name, pretrained=False), "img_size"
    if name.startswith(TORCHVISION):
        create = functools.partial(torchvision.models.get_model, name.removeprefix(TORCHVISION), weights=None)
        sized = "image_size"
    # Models that are made for one size take it; the others refuse to be told.
    attempts: list[dict[str, Any]] = [{sized: size}, {}]
    for options in attempts:
        seed_everything(seed)
        try:
            model: Any = create(num_classes=classes, **options)
            if name.startswith(TORCHVISION):  # which keeps them with the weights; where there are none, prepend would guess
                made = torchvision.models.get_model_weights(name.removeprefix(TORCHVISION)).DEFAULT.transforms()
                model.pretrained_cfg = {"mean": tuple(made.mean), "std": tuple(made.std)}
            return cast(nn.Module, model)
        except Exception as error:  # whatever the model's own code raises
            if sized in str(error) and options:
                continue
            raise UsageError(f"backbone {name!r} cannot be built for {size}-pixel images: {error}") from error
    raise AssertionError("unreachable")


def _own_backbone(name: str, classes: int, seed: int, size: int) -> nn.Module:
    """Make the user's own model, and try it on two black images: a mistake shows here and not in the middle of an epoch."""
    factory = _factory(name)
    seed_everything(seed)
    try:
        model = factory(num_classes=classes)
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise UsageError(f"backbone {name!r} failed, called with num_classes={classes}: {said(error)}") from error
    if not isinstance(model, nn.Module):
        raise UsageError(f"backbone {name!r} must return a torch.nn.Module, got {type(model).__name__}")
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            logits = model.eval()(torch.zeros(2, 3, size, size))
    except (Exception, SystemExit) as error:
        raise UsageError(f"backbone {name!r} fails on images (2, 3, {size}, {size}): {said(error)}") from error
    for module, mode in modes.items():
        module.training = mode
    got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
    if got != (2, classes):
        raise UsageError(f"backbone {name!r} must give logits (2, {classes}) for images (2, 3, {size}, {size}), got {got}")
    if not bool(logits.isfinite().all()):
        raise UsageError(f"backbone {name!r} gives logits that are not finite for black images")
    return model
