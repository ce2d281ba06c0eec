"""Every kind of layer that settings can name, one record each: what builds it, and what its tables are."""

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jpegdl.errors import UsageError
from jpegdl.functional import largest_level
from jpegdl.layer.cascade import JpegCascade
from jpegdl.layer.companding import CompandingLayer
from jpegdl.layer.config import LayerConfig, table_source
from jpegdl.layer.gain import GainLayer
from jpegdl.layer.jpeg import JpegLayer
from jpegdl.layer.normalization import ImageNormalization
from jpegdl.layer.quantizing import STEP_RANGE, QuantizingLayer
from jpegdl.layer.regional import RegionalJpegLayer
from jpegdl.layer.subsampled import SubsampledJpegLayer
from jpegdl.layer.zero_dc import ZeroDcJpegLayer
from jpegdl.tables import read_tables
from jpegdl.user_code import find_object, is_own, said

_OPTIONS = ("alpha", "hardness", "bits", "window", "rounding", "trainable_alpha")  # that a JpegLayer takes
Tables = tuple[Tensor, Tensor]  # luma and chroma, each (8, 8), in JPEG table units


@dataclass(frozen=True)
class LayerKind:
    """One kind of layer.

    Attributes:
        build: makes it from its settings, its initial tables and the side of the square images it will see, in pixels.
        tables: what the numbers in its tables are, one of :data:`jpegdl.tables.KINDS`; None where it has no tables.
        from_tables: whether it starts from a (luma, chroma) pair of quantization tables.
        single: whether it has one (luma, chroma) pair of tables for the whole image, which another layer may start from.
    """

    build: Callable[[LayerConfig, Tables, int], nn.Module]
    tables: str | None
    from_tables: bool
    single: bool = True


def _jpeg(layer: Callable[..., nn.Module]) -> LayerKind:
    return LayerKind(lambda config, tables, size: layer(*tables, **_jpeg_options(config)), "steps", True)


def _jpeg_options(config: LayerConfig) -> dict[str, Any]:
    options: dict[str, Any] = {name: getattr(config, name) for name in _OPTIONS if name != "alpha"}
    if isinstance(config.alpha, list):
        if len(config.alpha) != 2:
            raise UsageError(f"layer.alpha must be one number, or two for luma and chroma, got {config.alpha}")
        options["alpha"] = tuple(config.alpha)
    elif config.alpha is not None:
        options["alpha"] = config.alpha
    return options


def _regions(config: LayerConfig, tables: Tables, size: int) -> nn.Module:
    return RegionalJpegLayer(*tables, size=size, region=config.region, **_jpeg_options(config))


def _cascade(config: LayerConfig, tables: Tables, size: int) -> nn.Module:
    if config.depth < 1:
        raise UsageError(f"layer.depth must be at least 1, got {config.depth}")
    return JpegCascade(JpegLayer(*tables, **_jpeg_options(config)) for _ in range(config.depth))


def _compander(curve: str) -> LayerKind:
    def build(config: LayerConfig, tables: Tables, size: int) -> nn.Module:
        cap = largest_level(config.bits)
        if cap is None:
            raise UsageError(f"layer.kind {curve} starts from the level cap; give layer.bits, an integer from 2 to 16")
        return CompandingLayer(cap * tables[0], cap * tables[1], curve=curve)

    return LayerKind(build, "scales", True)


#: By the name that ``layer.kind`` takes.
LAYER_KINDS: dict[str, LayerKind] = {
    "jpeg": _jpeg(JpegLayer),
    "zero-dc": _jpeg(ZeroDcJpegLayer),
    "subsampled": _jpeg(SubsampledJpegLayer),
    "regions": LayerKind(_regions, "steps", True, single=False),
    "cascade": LayerKind(_cascade, "steps", True, single=False),
    "log": _compander("log"),
    "tanh": _compander("tanh"),
    "gain": LayerKind(lambda config, tables, size: GainLayer(), "gains", False),
    "normalize": LayerKind(lambda config, tables, size: ImageNormalization(), None, False),
    "none": LayerKind(lambda config, tables, size: nn.Identity(), None, False),
}

#: Kinds that a JPEG file can stand for, as it has one pair of tables of steps, and the subsampling of its chroma.
STORABLE = {"jpeg": JpegLayer.subsampling, "subsampled": SubsampledJpegLayer.subsampling}


def layer_kind(config: LayerConfig) -> LayerKind:
    """The record of the kind that ``config`` names, one of ours or the user's own.

    Raises:
        UsageError: there is none.
    """
    if is_own(config.kind):
        return _own_kind(config.kind)
    if config.kind not in LAYER_KINDS:
        raise UsageError(
            f"layer.kind must be one of {', '.join(LAYER_KINDS)}, or your own, my_package.my_module:MyLayer, "
            f"got {config.kind!r}"
        )
    if config.options:
        raise UsageError(f"layer.options are for a layer.kind of your own, got {config.options} with {config.kind}")
    return LAYER_KINDS[config.kind]


def _own_kind(name: str) -> LayerKind:
    """A record of the user's own kind. It starts from tables where it is called with ``luma`` and ``chroma``."""
    maker = find_object(name, "layer.kind")
    if not callable(maker):
        raise UsageError(f"layer.kind {name!r} must be a class or a function, got {type(maker).__name__}")
    try:
        takes = inspect.signature(maker).parameters
    except ValueError as error:
        raise UsageError(f"layer.kind {name!r} must have a signature that names its arguments: {error}") from error
    all_of_them = _takes_any(maker)

    def build(config: LayerConfig, tables: Tables, size: int) -> nn.Module:
        ours = {"luma": tables[0], "chroma": tables[1], "size": size, **_jpeg_options(config)}
        arguments = {
            argument: value for argument, value in ours.items() if argument in takes or (all_of_them and argument != "size")
        }
        if twice := arguments.keys() & config.options.keys():
            raise UsageError(f"layer.options: {min(twice)} is a setting of its own")
        try:
            layer = maker(**arguments, **config.options)
        except UsageError:
            raise
        except (Exception, SystemExit) as error:  # whatever the user's code raises
            way_out = "; what it needs beside the settings goes into layer.options" if isinstance(error, TypeError) else ""
            raise UsageError(f"layer.kind {name!r} failed: {said(error)}{way_out}") from error
        if not isinstance(layer, nn.Module):
            raise UsageError(f"layer.kind {name!r} must return a torch.nn.Module, got {type(layer).__name__}")
        return layer

    def of(kind: type) -> bool:
        return isinstance(maker, type) and issubclass(maker, kind)

    from_tables = all_of_them or {"luma", "chroma"} <= takes.keys()
    return LayerKind(build, "steps" if of(QuantizingLayer) else None, from_tables, single=of(JpegLayer))


def build_layer(config: LayerConfig, tables: Tables | None, size: int) -> nn.Module:
    """The layer that ``config`` describes.

    Args:
        config: its settings.
        tables: its initial (luma, chroma) tables, each (8, 8), in JPEG table units; None where they do not matter, because
            trained ones will be loaded, or the kind has none.
        size: side of the square images it will see, in pixels.

    Raises:
        UsageError: a setting that no such layer can have.
    """
    layer: nn.Module = layer_kind(config).build(config, tables or (torch.ones(8, 8), torch.ones(8, 8)), size)
    return layer.requires_grad_(config.train)


def check_layer(config: LayerConfig, size: int) -> None:
    """Refuse settings that no layer could be built with.

    Args:
        config: the settings.
        size: side of the square images, in pixels.

    Raises:
        UsageError: names the setting, what it is and what it may be.
    """
    if not 0 < config.q_max <= STEP_RANGE[1]:
        raise UsageError(f"layer.q_max must be greater than 0 and at most {STEP_RANGE[1]:g}, got {config.q_max}")
    if config.images < 1:
        raise UsageError(f"layer.images must be at least 1, got {config.images}")
    if config.calibration not in ("eval", "train"):
        raise UsageError(f"layer.calibration must be eval or train, got {config.calibration!r}")
    if table_source(config) == "file":
        read_tables(config.tables)
    try:
        layer = build_layer(config, None, size)
    except UsageError as error:
        raise UsageError(f"layer.{str(error).removeprefix('layer.')}") from error
    if is_own(config.kind):
        _try_layer(layer, config.kind, size)
        _warn_of_unused(config)


def _takes_any(maker: Callable[..., Any]) -> bool:
    """Whether it takes arguments of any name; a module without a constructor of its own takes none."""
    parameters = inspect.signature(maker).parameters.values()
    any_name = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
    return any_name and getattr(maker, "__init__", None) is not nn.Module.__init__


def _warn_of_unused(config: LayerConfig) -> None:
    """Say which settings a layer of the user's own has no use for."""
    maker = find_object(config.kind, "layer.kind")
    if _takes_any(maker):
        return
    default, named = LayerConfig(), set(inspect.signature(maker).parameters)
    unused = [name for name in _OPTIONS if name not in named and getattr(config, name) != getattr(default, name)]
    if config.tables != default.tables and not {"luma", "chroma"} <= named:
        unused.append("tables")
    if unused:
        settings = ", ".join(f"layer.{name} {getattr(config, name)!r}" for name in unused)
        warnings.warn(f"layer.kind {config.kind!r} does not take {settings}: without use for it", stacklevel=3)


def _try_layer(layer: nn.Module, name: str, size: int) -> None:
    """Refuse a layer of the user's own that does not give images for images."""
    images = torch.full((2, 3, size, size), 0.5)
    try:
        with torch.no_grad():
            out = layer(images)
    except (Exception, SystemExit) as error:
        raise UsageError(f"layer.kind {name!r} fails on images {tuple(images.shape)}: {said(error)}") from error
    got = (tuple(out.shape), out.dtype) if isinstance(out, Tensor) else type(out).__name__
    if got != (tuple(images.shape), images.dtype):
        raise UsageError(f"layer.kind {name!r} must give images {tuple(images.shape)} of {images.dtype} for such, got {got}")
    if not bool(out.isfinite().all()):
        raise UsageError(f"layer.kind {name!r} gives values that are not finite for grey images")
