"""Trained weights for a backbone: from a file, or the library's own; and how their head fits the classes."""

import argparse
import importlib
import pickle
import textwrap
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import safetensors.torch
import timm
import torch
import torchvision
from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset
from torch import Tensor, nn

from jpegdl.backbones.build import TORCHVISION, pretrained_source
from jpegdl.errors import UsageError

State = dict[str, Tensor]
#: What became of the head: it is the weights' own, those rows of it that stand for the classes, or a new, untrained one.
Head = Literal["own", "selected", "new"]

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")
#: Where checkpoints keep weights, the first of these that is there; a moving average before what it is the average of.
_ENTRIES = ("state_dict_ema", "model_ema", "ema", "state_dict", "model")
#: What wrappers put in front of names: DDP, torch.compile, Lightning modules, this project's models.
_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")
#: The way out where published weights cannot be had.
_FILE = "--weights FILE, or NAME@FILE for a network that reads files"


def read_weights(file: Path) -> State:
    """Return the tensors by name in a file of weights or in a checkpoint, as they stand there.

    Args:
        file: safetensors, or what ``torch.save`` wrote; of a checkpoint the entry with the weights is taken, a moving average
            before others. Code in a file is not run.

    Raises:
        UsageError: no such file, another format, code in it, no tensors, or numbers that are not finite.
    """
    if not file.is_file():
        raise UsageError(f"weights {file}: there is no such file")
    if file.suffix not in SUFFIXES:
        raise UsageError(f"weights {file} must be a file named {', '.join(SUFFIXES)}")
    content = _safetensors(file) if file.suffix == ".safetensors" else _torch(file)
    while isinstance(content, dict) and (inside := [name for name in _ENTRIES if isinstance(content.get(name), dict)]):
        content = content[inside[0]]
    if not isinstance(content, dict) or not content:
        raise UsageError(f"weights {file} must hold a state dict, tensors by name, got {_what(content)}")
    state = {name: tensor for name, tensor in content.items() if isinstance(tensor, Tensor)}
    if other := content.keys() - state.keys():
        raise UsageError(f"weights {file} must hold a state dict, tensors by name; {min(map(str, other))!r} is not a tensor")
    check_finite(state, f"weights {file}")
    return state


def _safetensors(file: Path) -> Any:
    try:
        return safetensors.torch.load_file(file)
    except (safetensors.SafetensorError, OSError) as error:
        raise UsageError(f"weights {file} cannot be read as a safetensors file ({error}); save or download it again") from error


def _torch(file: Path) -> Any:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):  # timm keeps its arguments in one
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UsageError(
            f"weights {file} are damaged, or hold code, which is not run here. If you trust the file, load it elsewhere "
            "and save only the model's state_dict()"
        ) from error
    except Exception as error:  # torch.load raises whatever its readers met
        text = str(error).strip().partition("\n")[0]
        kind = "" if len(text.split()) > 1 else f"{type(error).__name__} "
        raise UsageError(f"weights {file} cannot be read: {kind}{text}") from error


def _what(content: Any) -> str:
    return "nothing" if isinstance(content, dict) else type(content).__name__


def check_finite(state: State, source: str) -> None:
    """Refuse numbers that are not finite.

    Raises:
        UsageError: names the first tensor that has one.
    """
    for name, tensor in state.items():
        if not bool(tensor.isfinite().all()):
            raise UsageError(f"{source} hold numbers that are not finite, first in {name}")


def pretrained_weights(name: str, size: int) -> State:
    """Return the weights that timm or torchvision publish for a backbone, with their own head; downloaded on first use.

    Args:
        name: of the backbone, with or without timm's tag of the weights.
        size: side of the square images it will see, in pixels.

    Raises:
        UsageError: there are none, or they cannot be fetched.
    """
    source = pretrained_source(name)
    if not source:
        raise UsageError(f"pretrained: no weights of backbone {name!r} are published; give a file: {_FILE}")
    try:
        if name.startswith(TORCHVISION):
            short = name.removeprefix(TORCHVISION)
            model: nn.Module = torchvision.models.get_model(short, weights="DEFAULT", progress=False)
        else:
            try:
                model = timm.create_model(name, pretrained=True, img_size=size)
            except TypeError as error:
                if "img_size" not in str(error):
                    raise
                model = timm.create_model(name, pretrained=True)
    except Exception as error:  # whatever the network's and the libraries' layers raise
        reason = textwrap.shorten(f"{type(error).__name__}: {error}", 120, placeholder=" ...")
        raise UsageError(
            f"the pretrained weights of {name!r} could not be fetched from {source} ({reason}); offline, give a file: {_FILE}"
        ) from error
    state = model.state_dict()
    check_finite(state, f"the pretrained weights of {name!r}")
    return state


def load_weights(model: nn.Module, state: State, classes: Sequence[str], source: str) -> Head:
    """Load weights into a backbone whose logits are those of ``classes``.

    Names may have the prefixes of DDP, torch.compile, Lightning or of this project's models. What timm's own code converts for
    the model (its authors' layout, another image size) is converted. Where the weights know ImageNet's classes and ``classes``
    are WordNet ids (n01440764, ...) of some of them, the head becomes those of its rows, in the order of ``classes``: the same
    logits, nothing to train. A head of another number of classes is left out, with a warning; the model keeps its own.

    Args:
        model: the backbone, with random weights and ``len(classes)`` logits.
        state: tensors by name.
        classes: names of the classes, in the order of the logits.
        source: where the weights are from, for messages.

    Raises:
        UsageError: the weights are another architecture's; names the first tensors that do not fit.
    """
    own, head = model.state_dict(), head_names(model, len(classes))
    state = _unwrapped(state, own, source)
    if _misfit(state, own, head):
        state = _converted(model, state)
    if misfit := _misfit(state, own, head):
        more = f", {len(misfit)} in all" if len(misfit) > 3 else ""
        raise UsageError(
            f"{source} do not fit {type(model).__name__}: {'; '.join(misfit[:3])}{more}; give the backbone that they belong to"
        )
    known = state[head[0]].shape[0] if head and head[0] in state else 0
    rows = imagenet_rows(known, classes)
    if rows is not None and rows != list(range(known)):
        state = {**state, **{name: state[name][rows] for name in head}}
    elif head and known != len(classes):
        state = {name: tensor for name, tensor in state.items() if name not in head}
        knows = f"is for {known} classes" if known else "is missing"
        warnings.warn(
            f"the head of {source} {knows}, and the data have {len(classes)}: it is replaced by a new one with random weights",
            stacklevel=2,
        )
    model.load_state_dict({**own, **state})
    if rows is None and head and known != len(classes):
        return "new"
    return "own" if known in (0, len(classes)) else "selected"


def imagenet_rows(known: int, classes: Sequence[str]) -> list[int] | None:
    """Return where ``classes`` are among the ``known`` ones of a model of ImageNet's; None unless it knows them all, by
    WordNet id."""
    subset = infer_imagenet_subset({"num_classes": known})
    if subset is None:
        return None
    place = {name: index for index, name in enumerate(ImageNetInfo(subset).label_names())}  # type: ignore[no-untyped-call]
    return [place[name] for name in classes] if all(name in place for name in classes) else None


def _unwrapped(state: State, own: State, source: str) -> State:
    """Without the wrappers' prefixes, and without what stands beside the network in them."""
    while not state.keys() & own.keys():
        prefix = next((prefix for prefix in _PREFIXES if any(name.startswith(prefix) for name in state)), None)
        if prefix is None:
            break
        if prefix == "backbone." and any(name.startswith("layer.") for name in state):
            warnings.warn(f"{source} are of a backbone and a layer: only the backbone's are loaded", stacklevel=3)
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    counts = {name: own[name] for name in own if name.endswith("num_batches_tracked")}  # which old PyTorch did not keep
    return {**counts, **state} if state.keys() & own.keys() else state


def _misfit(state: State, own: State, head: Sequence[str]) -> list[str]:
    """In words, each tensor that does not fit, but for a head of another number of classes, or none."""
    other = [name for name in own if name in state and state[name].shape != own[name].shape]
    heads = {state[name].shape[:1] for name in head if name in state}
    missing = [name for name in own if name not in state]
    if len(heads) < 2 and (not heads or not set(head) & set(missing)):
        other = [name for name in other if name not in head or state[name].shape[1:] != own[name].shape[1:]]
        missing = [name for name in missing if name not in head]
    return [
        *(f"{name} is {tuple(state[name].shape)}, not {tuple(own[name].shape)}" for name in other),
        *(f"{name} is missing" for name in missing),
        *(f"{name} is unknown" for name in state if name not in own),
    ]


def _converted(model: nn.Module, state: State) -> State:
    """As timm converts its authors' layouts and other image sizes for this kind of model; as it is where timm does not."""
    kind = type(model).__module__
    convert = getattr(importlib.import_module(kind), "checkpoint_filter_fn", None) if kind.startswith("timm.") else None
    if convert is None:
        return state
    try:
        converted: State = convert(dict(state), model)
    except Exception:  # it expects weights of that kind of model; what does not fit is said by name
        return state
    return converted


def head_names(model: nn.Module, classes: int) -> list[str]:
    """Return names of the parameters of a backbone's head, the layer that gives its ``classes`` logits.

    They are those of what timm records as its classifier, else of the last module with that many outputs.
    """
    own = dict(model.named_parameters())
    recorded = (getattr(model, "pretrained_cfg", None) or {}).get("classifier") or ()
    modules = [recorded] if isinstance(recorded, str) else list(recorded)
    if not any(name.startswith(f"{module}.") for name in own for module in modules):
        outputs = {
            name: (getattr(module, "out_features", None), getattr(module, "out_channels", None))
            for name, module in model.named_modules()
        }
        modules = [name for name, numbers in outputs.items() if classes in numbers][-1:]
    return [name for name in own for module in modules if name.startswith(f"{module}.") and own[name].shape[:1] == (classes,)]
