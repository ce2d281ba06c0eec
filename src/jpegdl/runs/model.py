"""What a run trained, built anew and filled from its files."""

import json
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor, nn

from jpegdl.backbones.build import build_backbone
from jpegdl.errors import UsageError
from jpegdl.layer import PrependedModel, build_layer, prepend
from jpegdl.runs.config import RunConfig
from jpegdl.runs.folder import CLASSES, RunFolder
from jpegdl.runs.record import class_difference


@dataclass(frozen=True)
class TrainedRun:
    """A finished run, opened.

    Attributes:
        folder: where it is.
        config: the settings it was trained with.
        model: from images (N, 3, H, W) in [0, 1] to logits, in eval mode, on the CPU.
        classes: names of the classes, in the order of the logits.
    """

    folder: RunFolder
    config: RunConfig
    model: PrependedModel
    classes: list[str]


def open_run(folder: RunFolder) -> TrainedRun:
    """Open what a run trained. Only its ``config.yaml``, ``data.json`` and ``model.safetensors`` are needed.

    Raises:
        UsageError: the run is not finished, or a file of it is missing, damaged, or of a run with other classes.
    """
    if not folder.finished and not folder.model_file.is_file():  # a model that came without the rest of its run will do
        state = "its training is not finished" if folder.started else f"no run is there{folder.hint}"
        raise UsageError(f"no trained model in {folder}: {state}")
    config, classes = folder.config(), folder.data()["classes"]
    model = build_model(config, len(classes))
    folder.check_code(config)
    with folder.reading(folder.model_file):
        load_state(safetensors.torch.load_file(folder.model_file), folder.model_file, model)
    _check_classes(folder.model_file, classes, str(folder.data_file), "copy both files from one run")
    return TrainedRun(folder, config, model.eval(), classes)


def build_model(config: RunConfig, classes: int) -> PrependedModel:
    """Build the model of a run, with weights and tables that are still to be loaded; ``classes`` is its number of logits.

    Raises:
        UsageError: it cannot be built.
    """
    layer = build_layer(config.layer, None, config.data.pixels)
    return prepend(build_backbone(config.backbone, classes, 0, config.data.pixels), layer)


def load_model(file: Path, model: PrependedModel, classes: list[str]) -> None:
    """Load a run's ``model.safetensors`` into a model built from its settings.

    Args:
        file: the weights.
        model: what they go into.
        classes: names of the classes that its logits stand for. A file without names of classes is taken for any classes.

    Raises:
        UsageError: there is no such file, it is not a safetensors file, its weights are not finite, or it is of another
            architecture or of other classes.
    """
    if not file.is_file():
        raise UsageError(f"no model file {file}; train it first")
    try:
        state = safetensors.torch.load_file(file)
    except (safetensors.SafetensorError, OSError) as error:
        raise UsageError(f"{file} cannot be read as a safetensors file ({error}); save or download it again") from error
    load_state(state, file, model)
    _check_classes(file, classes, "these data", "give those of its training")


def _check_classes(file: Path, classes: list[str], than: str, way_out: str) -> None:
    if (named := named_classes(file)) is not None and (difference := class_difference(named, classes)):
        raise UsageError(f"the model in {file} knows other classes than {than} ({difference}); {way_out}")


def named_classes(file: Path) -> list[str] | None:
    """Return the names of the classes that a file of weights stands for; None if it does not name them."""
    try:
        with safetensors.safe_open(file, "pt") as stored:
            named = json.loads((stored.metadata() or {}).get(CLASSES, "null"))
    except (safetensors.SafetensorError, OSError, ValueError):  # a checkpoint of PyTorch's, which names none
        return None
    return None if named is None else [str(name) for name in named]


def load_state(state: dict[str, Tensor], file: Path, model: nn.Module) -> None:
    """Load the content of a file into a model or a part of one.

    Raises:
        UsageError: weights that are not finite, or those of another architecture; names ``file``.
    """
    own = {name: tensor for name, tensor in model.state_dict().items() if name in state or not name.endswith("_extra_state")}
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    other = [
        f"{k} is {tuple(state[k].shape)}, not {tuple(own[k].shape)}"
        for k in own
        # Records of a layer's settings were shorter in earlier versions; the layer reads both.
        if k in state and state[k].shape != own[k].shape and not k.endswith("_extra_state")
    ]
    if missing or extra or other:
        found = other[0] if other else f"{missing[0]} missing" if missing else f"{extra[0]} unknown"
        raise UsageError(
            f"{file} holds another architecture than asked for ({found}, {len(missing) + len(extra) + len(other)} in all); "
            "give the arm, backbone and data it was trained with"
        )
    if not all(bool(tensor.isfinite().all()) for tensor in state.values()):
        raise UsageError(f"{file} holds weights that are not finite: its training diverged; train it again")
    model.load_state_dict(state)
