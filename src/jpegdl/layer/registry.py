"""The kinds of layer that settings can name: how a layer becomes one, and what builds it then.

A layer registers where it stands, with :func:`register_layer` above its class. The files of this room are imported when a kind
is first asked for: none of them is listed here.
"""

import inspect
import pkgutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar, Unpack, get_args, get_origin

import torch
from torch import Tensor, nn

from jpegdl.errors import UsageError, did_you_mean
from jpegdl.layer.base import ImageLayer
from jpegdl.layer.config import LayerConfig, table_source
from jpegdl.layer.quantizing import QuantizerOptions, QuantizingLayer, quantizer_options
from jpegdl.settings import check_fields
from jpegdl.tables import read_tables
from jpegdl.user_code import find_object, is_own, said

L = TypeVar("L", bound=ImageLayer)
Tables = tuple[Tensor, Tensor]  # luma and chroma, each (8, 8), in JPEG table units
_OPTIONS = tuple(QuantizerOptions.__annotations__)  # that settings have too
_ROOM = __name__.rpartition(".")[0]
_ORDER = ("steps", "scales", "gains", None)  # of kinds, by what their tables are


@dataclass(frozen=True)
class LayerKind:
    """One kind of layer.

    Attributes:
        build: makes the layer from its settings, its initial tables and the side of the square images that it will see, in
            pixels.
        tables: what the numbers in its tables are, one of :data:`jpegdl.tables.KINDS`; None if it has no tables.
        from_tables: whether it starts from a (luma, chroma) pair of quantization tables.
        single: whether it has one (luma, chroma) pair of tables for the whole image, which another layer may start from.
        about: what it is, in a few words.
        layer: its class, where it is registered.
        subsampling: chroma subsampling of JPEG files that can stand for it; None if no file can.
    """

    build: Callable[[LayerConfig, Tables, int], nn.Module]
    tables: str | None
    from_tables: bool
    single: bool = True
    about: str = ""
    layer: type[nn.Module] | None = None
    subsampling: str | None = None


_registered: dict[str, LayerKind] = {
    "none": LayerKind(lambda config, tables, size: nn.Identity(), None, False, about="no layer: the backbone alone")
}


def register_layer(
    name: str, about: str, *, tables: str | None = None, single: bool = True, storable: bool = False
) -> Callable[[type[L]], type[L]]:
    """Register a layer as a kind. ``--layer.kind NAME`` then builds it by its ``from_config``, and ``--arms NAME`` compares it.

    Args:
        name: of the kind.
        about: what it is, in a few words; tables and reports say so.
        tables: what the numbers in its tables are, if its class has no ``table_kind``.
        single: whether it has one pair of tables for the whole image.
        storable: whether JPEG files can stand for it.

    Returns:
        The decorator of the class.

    Raises:
        ValueError: another layer has that name.

    Example::

        @register_layer("zero-dc", "the layer without the blocks' mean values")
        class ZeroDcJpegLayer(JpegLayer): ...
    """

    def register(layer: type[L]) -> type[L]:
        if name in _registered:
            raise ValueError(f"there is a layer of kind {name!r} already: {_registered[name].about}")
        kind = tables or layer.table_kind
        subsampling = getattr(layer, "subsampling", None) if storable else None
        _kinds.cache_clear()
        from_tables = kind in ("steps", "scales")
        _registered[name] = LayerKind(layer.from_config, kind, from_tables, single, about, layer, subsampling)
        return layer

    return register


@cache
def _kinds() -> dict[str, LayerKind]:
    """All kinds in the order in which they are listed: jpeg first, none last, the others by what they train."""
    for module in pkgutil.iter_modules([str(Path(__file__).parent)], f"{_ROOM}."):
        import_module(module.name)

    def place(name: str) -> tuple[bool, bool, int, str]:
        return name != "jpeg", name == "none", _ORDER.index(_registered[name].tables), name

    return {name: _registered[name] for name in sorted(_registered, key=place)}


class _Kinds(Mapping[str, LayerKind]):
    def __getitem__(self, name: str) -> LayerKind:
        return _kinds()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_kinds())

    def __len__(self) -> int:
        return len(_kinds())


#: All kinds, by the name that ``layer.kind`` takes.
LAYER_KINDS: Mapping[str, LayerKind] = _Kinds()


def storable_kinds() -> dict[str, str]:
    """Return the kinds of layers that a JPEG file can stand for, each with its chroma subsampling."""
    return {name: kind.subsampling for name, kind in LAYER_KINDS.items() if kind.subsampling is not None}


def layer_kind(config: LayerConfig) -> LayerKind:
    """Return the record of the kind that ``config`` names, one of this package or the user's own.

    Raises:
        UsageError: there is no such kind.
    """
    if is_own(config.kind):
        return _own_kind(config.kind)
    if config.kind not in LAYER_KINDS:
        raise UsageError(
            f"layer.kind must be one of {', '.join(LAYER_KINDS)}, or your own, my_package.my_module:MyLayer, got "
            f"{config.kind!r}{f'; {hint}' if (hint := did_you_mean(config.kind, LAYER_KINDS)) else ''}"
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
        takes, all_of_them = _taken(maker)
    except ValueError as error:
        raise UsageError(f"layer.kind {name!r} must have a signature that names its arguments: {error}") from error

    def build(config: LayerConfig, tables: Tables, size: int) -> nn.Module:
        ours = {"luma": tables[0], "chroma": tables[1], "size": size, **quantizer_options(config)}
        arguments = {
            argument: value for argument, value in ours.items() if argument in takes or (all_of_them and argument != "size")
        }
        if twice := arguments.keys() & config.options.keys():
            raise UsageError(f"layer.options: {min(twice)} is a setting already; give it as layer.{min(twice)}")
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

    from_tables = all_of_them or {"luma", "chroma"} <= takes
    quantizes = isinstance(maker, type) and issubclass(maker, QuantizingLayer)
    like = [kind for kind in LAYER_KINDS.values() if quantizes and kind.layer and issubclass(maker, kind.layer)]
    return LayerKind(build, "steps" if quantizes else None, from_tables, bool(like) and all(kind.single for kind in like))


def build_layer(config: LayerConfig, tables: Tables | None, size: int) -> nn.Module:
    """Build the layer that ``config`` describes.

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
    check_fields(config, "layer.")
    if table_source(config) == "file":
        read_tables(config.tables)
    try:
        layer = build_layer(config, None, size)
    except UsageError as error:
        raise UsageError(f"layer.{str(error).removeprefix('layer.')}") from error
    if is_own(config.kind):
        _try_layer(layer, config.kind, size)
        _warn_of_unused(config)


def _taken(maker: Callable[..., Any]) -> tuple[set[str], bool]:
    """The names of the arguments that it takes, and whether it takes those of any other name too; a module without a
    constructor of its own takes none."""
    parameters = inspect.signature(maker).parameters
    rest = next((parameter for parameter in parameters.values() if parameter.kind is parameter.VAR_KEYWORD), None)
    if rest is not None and get_origin(rest.annotation) is Unpack:
        return {*parameters, *get_args(rest.annotation)[0].__annotations__}, False
    return set(parameters), rest is not None and getattr(maker, "__init__", None) is not nn.Module.__init__


def _warn_of_unused(config: LayerConfig) -> None:
    """Say which settings a layer of the user's own has no use for."""
    maker = find_object(config.kind, "layer.kind")
    named, all_of_them = _taken(maker)
    if all_of_them:
        return
    default = LayerConfig()
    unused = [name for name in _OPTIONS if name not in named and getattr(config, name) != getattr(default, name)]
    if config.tables != default.tables and not {"luma", "chroma"} <= named:
        unused.append("tables")
    if unused:
        settings = ", ".join(f"layer.{name} {getattr(config, name)!r}" for name in unused)
        warnings.warn(f"layer.kind {config.kind!r} does not take {settings}, and ignores it", stacklevel=3)


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
        wanted = f"{tuple(images.shape)} of {images.dtype}, as it was given"
        raise UsageError(f"layer.kind {name!r} must give images {wanted}, got {got}")
    if not bool(out.isfinite().all()):
        raise UsageError(f"layer.kind {name!r} gives values that are not finite for grey images")
