"""How to put a layer in front of a model."""

import functools
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass, replace
from numbers import Real
from typing import Any, Generic

import torch
from torch import Tensor, nn
from typing_extensions import TypeVar

from jpegdl.errors import UsageError
from jpegdl.layer.base import ImageLayer, Layer, warn_unless_images

L = TypeVar("L", bound=nn.Module)
L_co = TypeVar("L_co", bound=nn.Module, default=nn.Module, covariant=True)  # a model with a JpegLayer is one with a Module


#: What takes images in timm's models: the layer comes first there too.
_FROM_IMAGES = ("forward_features", "forward_intermediates", "get_intermediate_layers")
#: What else timm and Transformers call on a model, and what the backbone alone can answer.
_OF_BACKBONE = (
    "forward_head", "get_classifier", "reset_classifier", "set_grad_checkpointing", "gradient_checkpointing_enable",
    "gradient_checkpointing_disable", "can_generate",
)  # fmt: skip


def _named_images(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Let ``forward(self, images)`` take further arguments for the backbone, and images by Transformers' name for them.

    Transformers looks at the signature, to tell which columns of a data set to hand over. Tracers of torch.fx look at the code
    of the function within, which has no optional arguments for them to stumble over.
    """

    @functools.wraps(forward)
    def named(self: Any, images: Any = None, *args: Any, pixel_values: Any = None, **options: Any) -> Any:
        if options.get("labels", ...) is None:
            del options["labels"]  # as good as not given, and many backbones do not know the name
        if images is None:
            images = pixel_values
        elif pixel_values is not None:
            raise TypeError("images are given twice, as the first argument and as pixel_values")
        if images is None:
            raise TypeError("forward() needs images (N, 3, H, W), as the first argument or as pixel_values")
        if args or options:
            return self.after_layer(self._through_layer(images), *args, **options)
        return forward(self, images)

    parameter = inspect.Parameter
    named.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            parameter("self", parameter.POSITIONAL_OR_KEYWORD),
            parameter("images", parameter.POSITIONAL_OR_KEYWORD, default=None),
            parameter("args", parameter.VAR_POSITIONAL),
            *(parameter(name, parameter.KEYWORD_ONLY, default=None) for name in ("pixel_values", "labels")),
            parameter("options", parameter.VAR_KEYWORD),
        ]
    )
    return named


class PrependedModel(nn.Module, Generic[L_co]):
    """``layer``, then normalisation, then ``backbone``: images in [0, 1] in, the backbone's output out.

    Further arguments of ``forward`` reach the backbone; ``pixel_values=`` is another name for the images. What timm and
    Transformers ask of a model is passed on to the backbone: ``num_classes``, ``config``, ``get_classifier()``,
    ``forward_features()`` and so on. ``pretrained_cfg`` says mean 0 and std 1, since images are not normalised in front of the
    layer.

    The state dict holds ``layer.*`` and ``backbone.*``, but not ``mean`` and ``std``. For type checkers,
    ``PrependedModel[JpegLayer]`` says which layer ``model.layer`` is.
    """

    layer: L_co
    backbone: nn.Module
    mean: Tensor
    std: Tensor
    _looked = False  # whether a batch has been looked at

    def __init__(self, backbone: nn.Module, layer: L_co, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.layer = layer
        self.backbone = backbone
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        _tell_transformers()

    @_named_images
    def forward(self, images: Tensor) -> Any:
        """Take (N, 3, H, W) RGB in [0, 1] through the layer, and return what the backbone returns.

        Args:
            images: as the layer takes them; or give them as ``pixel_values``. Other arguments go to the backbone, such as
                ``labels`` of a Transformers model.

        Raises:
            TypeError: images are not given, or given twice.
        """
        return self.after_layer(self._through_layer(images))

    def after_layer(self, x: Tensor, *args: Any, **options: Any) -> Any:
        """Return what the backbone returns for images (N, 3, H, W) that have been through the layer."""
        return self.backbone(self._normalised(x), *args, **options)

    def _through_layer(self, images: Tensor) -> Tensor:
        # Layers of ours look for themselves.
        if not (self._looked or torch.compiler.is_compiling() or isinstance(self.layer, ImageLayer)):
            self._looked = warn_unless_images(images)
        x: Tensor = self.layer(images)
        return x

    def _normalised(self, x: Tensor) -> Tensor:
        return (x - self.mean.to(x.dtype)) / self.std.to(x.dtype)

    def without_layer(self) -> "PrependedModel[nn.Identity]":
        """Return the same backbone, not copied, behind its normalisation alone; in eval mode."""
        normalisation = self.mean.flatten().tolist(), self.std.flatten().tolist()
        return PrependedModel(self.backbone, nn.Identity(), *normalisation).to(self.mean.device).eval()

    # -------------------------------------------------------------------------- what timm and Transformers ask of a model

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters without weight decay, for timm's optimizers: the layer's, and those that the backbone
        names."""
        of_backbone: Any = getattr(self.backbone, "no_weight_decay", set)()
        of_layer = {f"layer.{name}" for name, _ in self.layer.named_parameters()}
        return of_layer | {f"backbone.{name}" for name in of_backbone}

    def _group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """The backbone's patterns of parameter names, for timm's layer-wise rates; the layer belongs to its first group."""

        def moved(pattern: str) -> str:
            return rf"backbone\.(?:{_ANCHOR.sub('', pattern)})"

        def behind(part: Any) -> Any:
            if isinstance(part, str):
                return moved(part)
            return part if part is None else [(moved(pattern), suffix) for pattern, suffix in part]

        groups: dict[str, Any] = {name: behind(part) for name, part in self.backbone.group_matcher(coarse).items()}  # type: ignore[operator]
        first = next(iter(groups))
        patterns = groups[first]
        return {**groups, first: rf"layer\.|{patterns}" if isinstance(patterns, str) else [(r"layer\.", None), *patterns]}

    def _pretrained_cfg(self) -> Any:
        config = _recorded(self.backbone)
        given = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
        return replace(config, **given) if is_dataclass(config) else {**config, **given}  # type: ignore[type-var]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            _tell_transformers()  # which may have been imported since, and asks for much that is not here
            backbone = self.__dict__.get("_modules", {}).get("backbone")
            if backbone is None or name.startswith("_") or not hasattr(backbone, name):
                raise
        if name in ("pretrained_cfg", "default_cfg"):
            return self._pretrained_cfg()
        if name == "group_matcher":
            return self._group_matcher
        found = getattr(backbone, name)
        if name in _FROM_IMAGES:
            return lambda images, *args, **options: found(self._normalised(self._through_layer(images)), *args, **options)
        if name in _OF_BACKBONE or (not isinstance(found, nn.Module | Tensor) and not callable(found)):
            return found
        raise AttributeError(
            f"{type(self).__name__} has no attribute {name!r}; its backbone has: model.backbone.{name}, which does not know of "
            "the layer"
        )


def _recorded(backbone: nn.Module) -> Any:
    """What timm recorded of a backbone's weights, as a dict or as timm's own class; older models have it by another name."""
    return getattr(backbone, "pretrained_cfg", None) or getattr(backbone, "default_cfg", None) or {}


_ANCHOR = re.compile(r"(?<![\[\\])\^")  # of a pattern's beginning, where timm matches anyway


def _tell_transformers() -> None:
    """Have the Trainer of Transformers, where it is imported, leave the parameters of layers out of weight decay.

    It goes by the names of parameters and by a list of classes of its own, neither of which a layer can be on.
    """
    trainer = getattr(sys.modules.get("transformers.trainer"), "Trainer", None)
    names = getattr(trainer, "get_decay_parameter_names", None)
    if names is None or hasattr(names, "without_layers"):
        return

    @functools.wraps(names)
    def without_layers(self: Any, model: nn.Module) -> list[str]:
        ours = set(_layers(model))
        of_layers = tuple(f"{name}." for name, part in model.named_modules() if part in ours)
        return [name for name in names(self, model) if not name.startswith(of_layers)]

    without_layers.without_layers = True  # type: ignore[attr-defined]
    trainer.get_decay_parameter_names = without_layers  # type: ignore[union-attr]


def _layers(model: nn.Module) -> list[nn.Module]:
    """The layers of this package in a model, and whatever else stands in front of a backbone."""
    return [
        part.layer if isinstance(part, PrependedModel) else part
        for part in model.modules()
        if isinstance(part, PrependedModel | Layer)
    ]


def without_decay(model: nn.Module) -> set[int]:
    """Collect the ``id()`` of each parameter that the ``no_weight_decay()`` of a module in ``model`` names: timm's have it."""
    spared: set[int] = set()
    for part in model.modules():
        if callable(names := getattr(part, "no_weight_decay", None)):
            named = dict(part.named_parameters())
            spared |= {id(named[name]) for name in names() if name in named}
    return spared


def parameter_groups(model: nn.Module, lr: float, layer_lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
    """Group a model's parameters for an optimizer: layers get a learning rate of their own, and no weight decay.

    Args:
        model: from :func:`prepend`, or any that has layers of this package in it; wrapped in others or not.
        lr: learning rate of all but the layers.
        layer_lr: learning rate of the layers.
        weight_decay: of all but the layers, and what the ``no_weight_decay()`` of a module in ``model`` names: timm's models
            have it.

    Returns:
        Groups as torch.optim takes them, each with ``params``, ``lr`` and ``weight_decay``: the backbone, its parameters
        without decay where there are any, the layers' where they have any. Frozen parameters are in none.

    Raises:
        UsageError: there is no layer in ``model``, or a rate or the decay is not a number, or negative.

    Example:
        >>> import timm, torch
        >>> from jpegdl import JpegLayer, parameter_groups, prepend
        >>> model = prepend(timm.create_model("resnet10t", num_classes=10), JpegLayer.from_quality(90))
        >>> optimizer = torch.optim.AdamW(parameter_groups(model, lr=1e-3, layer_lr=3e-3, weight_decay=0.05))
    """
    for name, value in (("lr", lr), ("layer_lr", layer_lr), ("weight_decay", weight_decay)):
        if isinstance(value, bool) or not isinstance(value, Real) or not 0 <= value < float("inf"):
            raise UsageError(f"{name} must be a number from 0 up, got {value!r}")
    if not _layers(model):
        raise UsageError(f"this {type(model).__name__} has no layer of jpegdl: put one in front with prepend")
    layers = {id(p) for part in _layers(model) for p in part.parameters()}
    spared = without_decay(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        ([p for p in trained if id(p) not in layers | spared], lr, weight_decay),
        ([p for p in trained if id(p) in spared - layers], lr, 0.0),
        ([p for p in trained if id(p) in layers], layer_lr, 0.0),
    ]
    return [{"params": params, "lr": rate, "weight_decay": decay} for params, rate, decay in groups if params]


def prepend(
    backbone: nn.Module, layer: L, mean: Sequence[float] | None = None, std: Sequence[float] | None = None
) -> PrependedModel[L]:
    """Put a layer in front of a model.

    Args:
        backbone: any module that takes normalised images (N, 3, H, W). It is not copied: unwrapped, it stays usable.
        layer: a :class:`jpegdl.JpegLayer`, or any module from images to images (``nn.Identity()`` for a plain model).
        mean, std: the backbone's own normalisation, for images in [0, 1], one number per channel. Default: what timm
            recorded in ``backbone.pretrained_cfg``, else ImageNet's. Hugging Face keeps them in a model's image processor
            (``image_mean``, ``image_std``), torchvision in ``weights.transforms()``.

    Returns:
        A module with ``.layer`` and ``.backbone`` that takes images in [0, 1].

    Raises:
        UsageError: ``backbone`` and ``layer`` are swapped or not modules, ``mean`` or ``std`` is not three finite numbers, or a
            ``std`` is not positive.

    Example:
        >>> import timm, torch
        >>> from jpegdl import JpegLayer, prepend
        >>> model = prepend(timm.create_model("resnet10t", num_classes=102), JpegLayer.from_quality(90))
        >>> model(torch.rand(2, 3, 64, 64)).shape
        torch.Size([2, 102])
    """
    for name, module in (("backbone", backbone), ("layer", layer)):
        if not isinstance(module, nn.Module):
            raise UsageError(f"{name} must be a torch.nn.Module, got {type(module).__name__}")
    swapped = isinstance(backbone, Layer | nn.Identity) and not isinstance(layer, Layer | nn.Identity)
    if swapped or hasattr(layer, "pretrained_cfg"):
        raise UsageError(
            f"prepend takes the backbone first and the layer second, got {type(backbone).__name__} as the backbone and "
            f"{type(layer).__name__} as the layer"
        )
    recorded = _recorded(backbone)
    config = recorded.__dict__ if is_dataclass(recorded) else recorded
    mean = mean if mean is not None else config.get("mean") or (0.485, 0.456, 0.406)
    std = std if std is not None else config.get("std") or (0.229, 0.224, 0.225)
    for name, values in (("mean", mean), ("std", std)):
        try:
            usable = len(values) == 3 and all(abs(float(value)) < float("inf") for value in values)
        except (TypeError, ValueError):
            usable = False
        if not usable or (name == "std" and min(values) <= 0):
            raise UsageError(f"{name} must be three finite numbers{', all > 0' if name == 'std' else ''}, got {values!r}")
    return PrependedModel(backbone, layer, [float(v) for v in mean], [float(v) for v in std])
