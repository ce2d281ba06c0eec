"""From settings to backbones, layers and loaded models; what cannot be built is refused here."""

import difflib
import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import safetensors
import safetensors.torch
import timm
import torch
import torchvision
from torch import Tensor, nn

from jpegdl.calibrate import magnitude_tables
from jpegdl.data import Data
from jpegdl.data.config import check as check_data
from jpegdl.errors import UsageError
from jpegdl.functional import largest_level
from jpegdl.layer import (
    STEP_RANGE,
    CompandingLayer,
    GainLayer,
    ImageNormalization,
    JpegCascade,
    JpegLayer,
    PrependedModel,
    RegionalJpegLayer,
    SubsampledJpegLayer,
    ZeroDcJpegLayer,
)
from jpegdl.tables import read_tables, standard_tables
from jpegdl.training.config import LayerConfig, OptimizerConfig, RunConfig

_OPTIMIZERS = ("sgd", "adam", "adamw")
_SCHEDULES = ("constant", "cosine", "onecycle", "multistep", "exponential")
SMALLEST_RANDOM_STEP = 0.01

#: In front of the names of torchvision's classifiers.
TORCHVISION = "torchvision/"
# Without googlenet and inception_v3, which while they train return more than logits.
_TORCHVISION_NAMES = sorted({*torchvision.models.list_models(module=torchvision.models)} - {"googlenet", "inception_v3"})


def check_config(config: RunConfig) -> None:
    """Refuse settings that would fail later.

    Raises:
        UsageError: names the setting, what it is and what it may be.
    """
    check_data(config.data)
    _check_backbone(config.backbone)
    if not 0 < config.layer.q_max <= STEP_RANGE[1]:
        raise UsageError(f"layer.q_max must be greater than 0 and at most {STEP_RANGE[1]:g}, got {config.layer.q_max}")
    if config.layer.images < 1:
        raise UsageError(f"layer.images must be at least 1, got {config.layer.images}")
    training = config.training
    for name in ("epochs", "test_every", "devices", "num_nodes"):
        if getattr(training, name) < 1:
            raise UsageError(f"training.{name} must be at least 1, got {getattr(training, name)}")
    if not 0 <= training.label_smoothing < 1:
        raise UsageError(f"training.label_smoothing must be at least 0 and less than 1, got {training.label_smoothing}")
    for name in ("mixup", "cutmix"):
        if not 0 <= getattr(training, name) < math.inf:
            raise UsageError(f"training.{name} must be 0, for none, or a number above, got {getattr(training, name)}")
    if training.clip is not None and not 0 < training.clip < math.inf:
        raise UsageError(f"training.clip must be a number greater than 0, or null, got {training.clip}")
    if training.ema is not None and not 0 < training.ema < 1:
        raise UsageError(f"training.ema must be between 0 and 1, or null, got {training.ema}")
    for name in ("optimizer", "layer_optimizer"):
        optimizer: OptimizerConfig = getattr(training, name)
        if optimizer.name not in _OPTIMIZERS:
            raise UsageError(f"training.{name}.name must be one of {', '.join(_OPTIMIZERS)}, got {optimizer.name!r}")
        if optimizer.schedule not in _SCHEDULES:
            raise UsageError(f"training.{name}.schedule must be one of {', '.join(_SCHEDULES)}, got {optimizer.schedule!r}")
        if not optimizer.lr > 0 or not math.isfinite(optimizer.lr):
            raise UsageError(f"training.{name}.lr must be a finite number greater than 0, got {optimizer.lr}")
        for option in ("momentum", "weight_decay"):
            if not 0 <= getattr(optimizer, option) < math.inf:
                raise UsageError(f"training.{name}.{option} must not be negative, got {getattr(optimizer, option)}")
        if not 0 < optimizer.gamma < math.inf:
            raise UsageError(f"training.{name}.gamma must be a finite number greater than 0, got {optimizer.gamma}")
        if optimizer.milestones and min(optimizer.milestones) < 1:
            raise UsageError(f"training.{name}.milestones must be at least 1, got {optimizer.milestones}")
        if optimizer.warmup < 0:
            raise UsageError(f"training.{name}.warmup must not be negative, got {optimizer.warmup}")
        if optimizer.warmup and optimizer.schedule == "onecycle":
            raise UsageError(f"training.{name}.warmup has no use with schedule onecycle, which warms up by itself")
    if table_source(config.layer) == "file":
        read_tables(config.layer.tables)
    build_layer(config.layer, (torch.ones(8, 8), torch.ones(8, 8)), config.data.size)


def _check_backbone(name: str) -> None:
    of_torchvision = name.startswith(TORCHVISION)
    short = name.removeprefix(TORCHVISION) if of_torchvision else name.split(".")[0]
    # timm knows older names than it lists, too.
    if not (short in _TORCHVISION_NAMES if of_torchvision else timm.is_model(short)):
        names, library = _TORCHVISION_NAMES, "classifier of torchvision"
        if not of_torchvision:
            names, library = timm.list_models(), "timm model"
        similar = difflib.get_close_matches(short, names, n=3)
        hint = f"did you mean {', '.join(similar)}?" if similar else f"{names[0]} is one; timm.list_models() has all of timm's"
        raise UsageError(f"backbone {name!r} is no {library}; {hint}")


def build_backbone(name: str, classes: int, seed: int, size: int) -> nn.Module:
    """A model with random weights, the same for the same seed.

    Args:
        name: timm's name of it, or ``torchvision/`` and torchvision's.
        classes: number of logits.
        seed: of the weights.
        size: side of the square images it will see, in pixels.

    Raises:
        UsageError: it cannot be built.
    """
    create, sized = functools.partial(timm.create_model, name, pretrained=False), "img_size"
    if name.startswith(TORCHVISION):
        create = functools.partial(torchvision.models.get_model, name.removeprefix(TORCHVISION), weights=None)
        sized = "image_size"
    # Models that are made for one size take it; the others refuse to be told.
    attempts: list[dict[str, Any]] = [{sized: size}, {}]
    for options in attempts:
        lightning.seed_everything(seed, verbose=False)
        try:
            model: nn.Module = create(num_classes=classes, **options)
            return model
        except Exception as error:  # whatever the model's own code raises
            if sized in str(error) and options:
                continue
            raise UsageError(f"backbone {name!r} cannot be built for {size}-pixel images: {error}") from error
    raise AssertionError("unreachable")


def table_source(config: LayerConfig) -> str:
    """Which kind of initial tables: sensitivity, magnitude, ones, random, learned, standard or file.

    Raises:
        UsageError: neither a known kind nor an existing file.
    """
    kind, _, quality = config.tables.partition(":")
    if config.tables in ("sensitivity", "magnitude", "ones", "random", "learned"):
        return config.tables
    if kind == "standard" and quality.isdecimal() and 1 <= int(quality) <= 100:
        return "standard"
    if Path(config.tables).is_file():
        return "file"
    raise UsageError(
        "layer.tables must be sensitivity, magnitude, ones, random, learned, standard:Q with Q from 1 to 100, or an existing "
        f"file, got {config.tables!r}"
    )


def initial_tables(config: LayerConfig, data: Data) -> tuple[Tensor, Tensor]:
    """The (luma, chroma) tables that need no other run: every kind but sensitivity and learned."""
    kind = table_source(config)
    if kind == "ones":
        return torch.ones(8, 8), torch.ones(8, 8)
    if kind == "random":
        generator = torch.Generator().manual_seed(data.seed)
        low, high = math.log(SMALLEST_RANDOM_STEP), math.log(config.q_max)
        luma, chroma = torch.exp(low + (high - low) * torch.rand(2, 8, 8, generator=generator))
        return luma, chroma
    if kind == "standard":
        return standard_tables(int(config.tables.partition(":")[2]))
    if kind == "file":
        return read_tables(config.tables)
    if kind == "magnitude":
        return magnitude_tables(data.calibration_dataloader(), bits=config.bits or 11, images=config.images)
    raise UsageError(f"{kind} tables come from another run: jpegdl compare and jpegdl train find it")


def needs_tables(config: LayerConfig) -> bool:
    """Whether the layer starts from quantization tables."""
    return config.kind not in ("none", "gain", "normalize")


def build_layer(config: LayerConfig, tables: tuple[Tensor, Tensor], size: int) -> nn.Module:
    """The layer of a config, with its initial (luma, chroma) tables, for square images of ``size`` pixels.

    Raises:
        UsageError: a setting that no such layer can have.
    """
    if config.kind not in LAYER_KINDS:
        raise UsageError(f"layer.kind must be one of {', '.join(LAYER_KINDS)}, got {config.kind!r}")
    return LAYER_KINDS[config.kind](config, tables, size).requires_grad_(config.train)


def _jpeg_options(config: LayerConfig) -> dict[str, Any]:
    options: dict[str, Any] = {
        name: getattr(config, name) for name in ("hardness", "bits", "window", "rounding", "trainable_alpha")
    }
    if isinstance(config.alpha, list):
        if len(config.alpha) != 2:
            raise UsageError(f"layer.alpha must be one number, or two for luma and chroma, got {config.alpha}")
        options["alpha"] = tuple(config.alpha)
    elif config.alpha is not None:
        options["alpha"] = config.alpha
    return options


def _jpeg(layer: Callable[..., nn.Module]) -> Callable[[LayerConfig, tuple[Tensor, Tensor], int], nn.Module]:
    return lambda config, tables, size: layer(*tables, **_jpeg_options(config))


def _cascade(config: LayerConfig, tables: tuple[Tensor, Tensor], size: int) -> nn.Module:
    if config.depth < 1:
        raise UsageError(f"layer.depth must be at least 1, got {config.depth}")
    return JpegCascade(JpegLayer(*tables, **_jpeg_options(config)) for _ in range(config.depth))


def _compander(curve: str) -> Callable[[LayerConfig, tuple[Tensor, Tensor], int], nn.Module]:
    def build(config: LayerConfig, tables: tuple[Tensor, Tensor], size: int) -> nn.Module:
        cap = largest_level(config.bits)
        if cap is None:
            raise UsageError(f"layer.kind {curve} starts from the level cap; give layer.bits, an integer from 2 to 16")
        return CompandingLayer(cap * tables[0], cap * tables[1], curve=curve)

    return build


#: What builds each kind of layer.
LAYER_KINDS: dict[str, Callable[[LayerConfig, tuple[Tensor, Tensor], int], nn.Module]] = {
    "jpeg": _jpeg(JpegLayer),
    "zero-dc": _jpeg(ZeroDcJpegLayer),
    "subsampled": _jpeg(SubsampledJpegLayer),
    "regions": lambda config, tables, size: RegionalJpegLayer(
        *tables, size=size, region=config.region, **_jpeg_options(config)
    ),
    "cascade": _cascade,
    "log": _compander("log"),
    "tanh": _compander("tanh"),
    "gain": lambda config, tables, size: GainLayer(),
    "normalize": lambda config, tables, size: ImageNormalization(),
    "none": lambda config, tables, size: nn.Identity(),
}


def load_model(file: Path, model: PrependedModel) -> None:
    """Load a run's ``model.safetensors`` into a model built from its config.

    Raises:
        UsageError: no such file, not a safetensors file, or the weights of another architecture.
    """
    if not file.is_file():
        raise UsageError(f"no model file {file}; train it first")
    try:
        state = safetensors.torch.load_file(file)
    except (safetensors.SafetensorError, OSError) as error:
        raise UsageError(f"{file} is not a safetensors file that can be read ({error})") from error
    own = model.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    other = [
        f"{k} is {tuple(state[k].shape)}, not {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
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
