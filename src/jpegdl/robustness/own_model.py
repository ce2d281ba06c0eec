"""An attack on any model, with anything in front of it: ``jpegdl attack --model my_module:make``."""

import copy
import functools
import hashlib
import inspect
import re
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jpegdl.backbones.answers import kind_of_answers
from jpegdl.data import Data, DataConfig
from jpegdl.data.config import SMALL
from jpegdl.errors import UsageError
from jpegdl.layer import LayerConfig, PrependedModel, prepend
from jpegdl.robustness.config import AttackConfig, check_attack
from jpegdl.robustness.surrogates import OFFERED
from jpegdl.robustness.trials import attack_opened
from jpegdl.runs import RunConfig, RunFolder
from jpegdl.runs.device import compute_device
from jpegdl.runs.model import TrainedRun
from jpegdl.runs.opened import OpenedRun
from jpegdl.runs.progress import Progress
from jpegdl.user_code import find_object, said, source_digest


def attack_model(
    name: str,
    data: DataConfig,
    config: AttackConfig | None = None,
    *,
    folder: str | PathLike[str],
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Attack the user's own model on test images of a data set, and write ``attack.json`` and ``attack.csv``.

    Args:
        name: ``my_package.my_module:make``, a function (or class) that returns a model, called with ``num_classes`` where it
            has such a parameter: from images (N, 3, H, W) in [0, 1] to logits (N, classes), normalisation included. Or it
            returns a pair (preprocessing, network): attacks then follow the preprocessing's own gradient, and also pass around
            it (identity), so that a masked gradient shows. What has no gradient counts as having gradient 0. If answers
            differ from call to call, gradients and answers are means over ``config.draws`` calls.
        data: the test images, and their size.
        config: what to attack with. ``rounding`` and ``data`` are not used.
        folder: the results go into a folder of the model's name in it.
        progress: see :func:`jpegdl.robustness.attack_run`.

    Returns:
        See :func:`jpegdl.robustness.attack_run`; its ``arm`` is ``name``, and its ``seed`` 0.

    Raises:
        UsageError: there is no such function, it fails, or it returns something else; see also
            :func:`jpegdl.robustness.attack_run`.
    """
    config = config or AttackConfig()
    check_attack(config)
    if config.rounding is not None:
        raise UsageError("rounding is for runs, and sets it in their layer; a --model is attacked as it is")
    if data.size is None and data.kind not in SMALL:
        raise UsageError("--model needs the side of the images that the model takes, in pixels: give --size")
    device = compute_device(config.device)
    opened_data = Data(data, test_only=True)
    model = _made(name, len(opened_data.classes), data.pixels)
    place = model_folder(folder, name)
    place.path.mkdir(parents=True, exist_ok=True)
    run = TrainedRun(place, RunConfig(name, data=data, layer=LayerConfig(kind="none")), model, opened_data.classes)
    run.model.to(device).eval().requires_grad_(False)
    opened = _OpenedModel(run, opened_data, device, None, None, name)
    return attack_opened(opened, config, None, progress)


def model_folder(folder: str | PathLike[str], name: str) -> RunFolder:
    """Return the folder in ``folder`` to which :func:`attack_model` writes the results of the model ``name``."""
    return RunFolder(Path(folder) / re.sub(r"[^\w.-]", "-", name) / "0")


@dataclass
class _OpenedModel(OpenedRun):
    """A model that no run trained."""

    name: str = ""

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        return {"arm": self.name, "seed": 0}

    @functools.cached_property
    def digest(self) -> str:
        digest = hashlib.sha256(str(source_digest(self.name)).encode())
        for key, value in self.model.state_dict().items():
            digest.update(key.encode())
            if isinstance(value, Tensor):
                digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


def _made(name: str, classes: int, size: int) -> PrependedModel:
    """The model, which has answered once."""
    make = find_object(name, "--model")
    try:
        takes = "num_classes" in inspect.signature(make).parameters
    except (TypeError, ValueError):  # no signature, or nothing to call
        takes = False
    try:
        made = make(num_classes=classes) if takes else make()
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise UsageError(f"--model {name} failed: {said(error)}") from error
    front, network = made if isinstance(made, tuple | list) and len(made) == 2 else (nn.Identity(), made)
    if not all(isinstance(part, nn.Module) for part in (front, network)):
        got = type(made).__name__
        raise UsageError(f"--model {name} must return a torch.nn.Module, or a pair (preprocessing, network) of them, got {got}")
    if isinstance(network, PrependedModel) and isinstance(front, nn.Identity):
        model = copy.copy(network)
    else:
        layer = front if isinstance(front, nn.Identity) else _Part(front)
        model = prepend(_Part(network), layer, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    what = f"images (2, 3, {size}, {size})"
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0)).requires_grad_()
    try:
        shown, logits = model.eval().layer(images), model(images)
        if isinstance(logits, Tensor) and logits.requires_grad:
            torch.autograd.grad(logits.sum(), images)
    except (Exception, SystemExit) as error:
        raise UsageError(f"--model {name} fails on {what}, or in its gradient by them: {said(error)}") from error
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (2, classes) or not bool(logits.isfinite().all()):
        got = f"{tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise UsageError(
            f"--model {name} must give finite logits (2, {classes}) for {what}, one for each class of the data, got {got}"
        )
    if kind_of_answers(logits) != "logits":
        raise UsageError(
            f"--model {name} gives probabilities, whose gradient vanishes where it is sure: return logits, as before softmax "
            "or sigmoid"
        )
    if shown.shape != images.shape:
        setattr(model.layer, OFFERED, ("own",))
    return model


class _Part(nn.Module):
    """A part of a model as it is, with a gradient of 0 where it has none; what timm notes in a network is not looked at."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, images: Tensor) -> Any:
        output = self.part(images)
        if torch.is_grad_enabled() and images.requires_grad and isinstance(output, Tensor) and not output.requires_grad:
            return output + 0 * images.sum()
        return output
