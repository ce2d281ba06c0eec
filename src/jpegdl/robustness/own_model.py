"""An attack on any model, with anything in front of it: ``jpegdl attack --model my_module:make``."""

import copy
import functools
import hashlib
import inspect
import re
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jpegdl.data import Data, DataConfig
from jpegdl.data.config import SMALL
from jpegdl.errors import UsageError
from jpegdl.layer import LayerConfig, PrependedModel, prepend
from jpegdl.robustness.config import AttackConfig, check_attack
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
            it (identity), so that a masked gradient shows. Preprocessing without a gradient counts as one with gradient 0.
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
    model, keeps_shape = _made(name, len(opened_data.classes), data.pixels)
    if not keeps_shape:
        config = replace(config, gradients=[gradient for gradient in config.gradients if gradient != "identity"])
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


def _made(name: str, classes: int, size: int) -> tuple[PrependedModel, bool]:
    """The model, and whether what is in front of it leaves images their shape."""
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
        layer = front if isinstance(front, nn.Identity) else _WithGradient(front)
        model = prepend(_Whole(network), layer, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    images = torch.full((2, 3, size, size), 0.5)
    try:
        with torch.no_grad():
            shown, logits = model.eval().layer(images), model(images)
    except (Exception, SystemExit) as error:
        raise UsageError(f"--model {name} fails on images (2, 3, {size}, {size}): {said(error)}") from error
    if not isinstance(logits, Tensor) or tuple(logits.shape) != (2, classes) or not bool(logits.isfinite().all()):
        got = f"{tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise UsageError(
            f"--model {name} must give finite logits (2, {classes}) for images (2, 3, {size}, {size}), one for each class of "
            f"the data, got {got}"
        )
    return model, shown.shape == images.shape


class _Whole(nn.Module):
    """A network as it is; timm's record of how it is to be normalised is not looked at, as it does that itself."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Any:
        return self.network(images)


class _WithGradient(nn.Module):
    """Preprocessing whose gradient is 0 where it has none."""

    def __init__(self, front: nn.Module) -> None:
        super().__init__()
        self.front = front

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.front(images)
        if torch.is_grad_enabled() and images.requires_grad and not output.requires_grad:
            return output + 0 * images.sum()
        return output
