"""Networks that read files: opened by name, each with its own scaling, crop and normalisation, differentiable."""

import copy
import functools
import hashlib
import inspect
import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as v2

from jpegdl import pretrained
from jpegdl.backbones.answers import kind_of_answers
from jpegdl.backbones.build import OwnInput, build_backbone, check_backbone, input_of, own_input
from jpegdl.backbones.weights import check_finite, head_names, load_weights, pretrained_weights, read_weights
from jpegdl.data.config import DataConfig, Orientation
from jpegdl.data.pixels import LONGEST
from jpegdl.errors import UsageError
from jpegdl.extras import require
from jpegdl.files import digest_of_file
from jpegdl.layer import PrependedModel, prepend
from jpegdl.layer.jpeg_function import jpeg
from jpegdl.runs import RunFolder
from jpegdl.runs.device import compute_device, has_bfloat16
from jpegdl.runs.model import named_classes, open_run
from jpegdl.settings import Count, Quality, check_value
from jpegdl.user_code import find_object, is_own, said, source_digest


class NotFinite(UsageError):  # noqa: N818
    """What a network says of a photo or its file is not finite."""


FEATURES = "features:"  # in front of a name: compare what comes before the head, or all that the network returns
_FILTERS = {"bicubic": InterpolationMode.BICUBIC, "bilinear": InterpolationMode.BILINEAR}
_TINY = 1e-12
_ALIKE = 0.05  # of the largest number: by more than that, no rounding changes answers
_NOT_CROPPED = 384  # from this side on, transformers scales photos for ConvNeXt to a square
# Of EXIF orientations, which ones turn a photo upside down, left to right, and, after that, rows to columns.
_UPSIDE_DOWN, _MIRRORED, _ON_ITS_SIDE = {3, 4, 6, 7}, {2, 3, 7, 8}, {5, 6, 7, 8}


def upright(pixels: Tensor, note: int) -> Tensor:
    """Return pixels turned as the EXIF orientation says.

    Args:
        pixels: (..., H, W), as they are stored.
        note: EXIF orientation, 1 to 8.
    """
    flipped = [dim for dim, notes in ((-2, _UPSIDE_DOWN), (-1, _MIRRORED)) if note in notes]
    pixels = pixels.flip(flipped) if flipped else pixels
    return pixels.transpose(-2, -1) if note in _ON_ITS_SIDE else pixels


class PhotoReader:
    """A network that files are made for, or judged by: what it sees of a photo, and what it says of that.

    Args:
        network: takes normalised images (N, 3, size, size). It returns logits (N, classes), or probabilities, which are known
            by their sum; with ``features``, anything of N rows. It is copied, and computes in eval mode. A
            :class:`jpegdl.layer.PrependedModel` has its own normalisation, and its layer.
        name: for messages and records.
        size: side of the square that it sees, in pixels.
        resize: short side that photos are scaled to before the middle is cut out; None for ``size``.
        squash: scale photos to a square of ``resize``, whatever their shape, instead of their short side.
        interpolation: bicubic or bilinear.
        jpeg: what it sees goes through a JPEG file (4:2:0) of this quality, as in a run with ``data.jpeg_test``; None for no
            file.
        orientation: follow if it sees photos turned as their EXIF orientation says; stored if it does not.
        mean, std: its normalisation, for images in [0, 1]. Default: see :func:`jpegdl.layer.prepend`.
        classes: their names, in the order of the logits; None where nobody knows.
        features: the network returns features. Their squared distance, relative to the original's squared length, replaces the
            KL divergence.
        digest: of its weights; None computes it.
        device: where to compute.
        fast: compute in bfloat16 where the processor has instructions for it.

    Attributes:
        classes, features, name, size, resize, squash, interpolation, jpeg, orientation: as given.
        outputs: how many logits, or features, there are.
        code: digest of the file with the user's own code that makes it; None where :func:`open_reader` found none.

    Raises:
        UsageError: the network takes more than images, fails on them, or gives no logits, or none that are finite; its answers
            depend on chance, or on the other images of a batch; it cannot be copied.
    """

    def __init__(
        self,
        network: nn.Module,
        name: str = "the reader",
        *,
        size: int = 224,
        resize: int | None = None,
        squash: bool = False,
        interpolation: str = "bicubic",
        jpeg: int | None = None,
        orientation: Orientation = "stored",
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        classes: Sequence[str] | None = None,
        features: bool = False,
        digest: str | None = None,
        device: str | torch.device | None = "cpu",
        fast: bool = True,
    ) -> None:
        if interpolation not in _FILTERS:
            raise UsageError(f"interpolation of {name} must be bicubic or bilinear, got {interpolation!r}")
        if orientation not in ("stored", "follow"):
            raise UsageError(f"orientation of {name} must be stored or follow, got {orientation!r}")
        for value, kind, what in ((size, Count, "size"), (resize, Count | None, "resize"), (jpeg, Quality | None, "jpeg")):
            check_value(value, kind, f"{what} of {name}")
        if resize is not None and resize < size:
            raise UsageError(f"resize of {name} must be at least size = {size}, got {resize}")
        self.squash, self.jpeg, self.orientation = squash, jpeg, orientation
        self.name, self.size, self.resize, self.interpolation = name, size, resize or size, interpolation
        self.features, self.classes = features, None if classes is None else list(classes)
        self.device = compute_device(None if device is None else str(device))
        self.digest = digest or _digest_of(network)
        self._normalised = {key: list(map(float, given)) for key, given in (("mean", mean), ("std", std)) if given is not None}
        model = network if isinstance(network, PrependedModel) else prepend(network, nn.Identity(), mean, std)
        self._model = self._copied(model).to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.outputs = self._tried()
        self._half = fast and has_bfloat16(self.device)
        if self._half:
            self._shorten()
        if self.classes is not None and not features and len(self.classes) != self.outputs:
            raise UsageError(f"{name} has {len(self.classes)} names of classes and gives {self.outputs} logits")

    def _copied(self, model: PrependedModel) -> PrependedModel:
        """A copy in eval mode and float32, to which no gradients go."""
        try:
            with torch.no_grad():  # otherwise copies of TorchScript tensors would not be leaves
                copied = copy.deepcopy(model)
        except Exception as error:  # whatever the user's classes raise
            raise UsageError(f"{self.name} cannot be copied, with copy.deepcopy: {said(error)[:300]}") from error
        copied.eval().requires_grad_(False)
        return (
            copied.float()
            if {p.dtype for p in copied.parameters()} & {torch.float64, torch.float16, torch.bfloat16}
            else copied
        )

    def _tried(self) -> int:
        """Check its answers on three images, in full precision; return how many numbers an answer has."""
        views = torch.rand((3, 3, self.size, self.size), generator=torch.Generator().manual_seed(0))
        views[1] *= 0.5  # the first is brighter than the others
        views[2] = torch.linspace(0, 0.5, self.size)  # all noise may be one class, of which a network is sure
        with torch.no_grad():
            raw = self._numbers(views)
            kind = "features" if self.features else kind_of_answers(raw)
            self._probabilities = kind == "probabilities"
            whole, alone = self.answers(views), self.answers(views[:1])
        if whole.shape[1] == 1 and not self.features:
            raise UsageError(
                f"{self.name} gives one number, which does not tell classes apart: write {FEATURES}{self.name}, and "
                "distances of that number count"
            )
        if bool((whole == whole[0]).all()):
            raise UsageError(f"{self.name} gives the same answer to any image, so that it would take any file")
        if kind == "sigmoid":
            raise UsageError(
                f"{self.name} gives numbers from 0 to 1 that do not add up to 1, as a sigmoid does for labels that may come "
                f"together; classes need logits, or probabilities: or write {FEATURES}{self.name}, and distances count"
            )
        size = float(whole.abs().max())
        if float((whole[0] - alone[0]).abs().max()) > _ALIKE * (size if self.features else max(1.0, size)):
            raise UsageError(
                f"{self.name} gives other answers when it is asked again, about one image of several alone: they are "
                "random, or depend on the other images, also in eval mode (dropout, or BatchNorm with a batch's statistics)"
            )
        return whole.shape[1]

    def _shorten(self) -> None:
        """Keep the backbone's weights in bfloat16, if it works with those alone; otherwise autocast casts them each time."""
        exact, self._model = self._model, copy.deepcopy(self._model)
        try:
            self._model.backbone.to(torch.bfloat16)
            with torch.no_grad():
                self._said(torch.full((2, 3, self.size, self.size), 0.5, device=self.device))
            self._pure = True
        except Exception:  # the network makes float32 tensors itself
            self._model, self._pure = exact, False

    def shared(self, other: "PhotoReader") -> float:
        """Return how much of a network another one shares: of the numbers that the smaller of the two has learned, the share
        that is in both, up to rounding to 16 bits, 0 to 1. Of networks that learn nothing, 1 if they are alike."""
        mine, others = self._learned(), other._learned()
        least = min(sum(tensor.numel() for tensor in tensors) for tensors in (mine, others))
        if not least:
            return float(self.digest == other.digest)
        there = sum(tensor.numel() for tensor in mine if any(_alike(tensor, another) for another in others))
        return min(1.0, there / least)

    def _learned(self) -> list[Tensor]:
        state = self._model.backbone.state_dict().values()
        return [tensor.flatten() for tensor in state if isinstance(tensor, Tensor) and tensor.is_floating_point()]

    code: str | None = None
    _pure = _half = _probabilities = False

    def record(self) -> dict[str, Any]:
        """Return what ``compress.json`` records of it: name, digest of its weights, and what it sees."""
        seen: dict[str, Any] = {"size": self.size, "resize": self.resize, "interpolation": self.interpolation}
        rare = {"squash": self.squash, "jpeg": self.jpeg, "orientation": self.orientation}
        seen |= {key: value for key, value in rare.items() if value not in (False, None, "stored")}
        return {"name": self.name, "digest": self.digest, **seen, **self._normalised, "features": self.features}

    # ------------------------------------------------------------------------------------------------------------- seeing

    def scaled(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) that a photo is scaled to, in pixels, as in a run's test."""
        if self.squash:
            return self.resize, self.resize
        short = min(height, width)
        return self.resize * self._taken(height, short) // short, self.resize * self._taken(width, short) // short

    def _taken(self, side: int, short: int) -> int:
        """Return how much of a side is seen, before scaling."""
        return side if self.squash else min(side, LONGEST * short)

    @property
    def normalisation(self) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation of each colour, each (1, 3, 1, 1), for images in [0, 1]."""
        return self._model.mean, self._model.std

    def _turns(self, note: int) -> bool:
        return note != 1 and self.orientation == "follow"

    def sees(self, height: int, width: int, note: int = 1) -> tuple[int, int, int, int]:
        """Return (top, left, bottom, right) of what it sees of a photo, in pixels, with the margin that bicubic scaling reads.

        Args:
            height, width: of the photo as it is stored, in pixels. The result is in the same pixels.
            note: EXIF orientation of the file.
        """
        if self._turns(note):
            aside = note in _ON_ITS_SIDE
            top, left, bottom, right = self.sees(*((width, height) if aside else (height, width)))
            if aside:
                top, left, bottom, right = left, top, right, bottom
            if note in _UPSIDE_DOWN:
                top, bottom = height - bottom, height - top
            if note in _MIRRORED:
                left, right = width - right, width - left
            return top, left, bottom, right
        high, wide = self.scaled(height, width)
        short = min(height, width)
        found = []
        for whole, cut in ((height, high), (width, wide)):
            taken = self._taken(whole, short)
            scale = taken / cut
            start = (whole - taken) // 2 + round((cut - self.size) / 2) * scale
            margin = 2 * max(scale, 1) if cut != taken else 0
            found.append((max(0, int(start - margin)), min(whole, -int(-(start + self.size * scale + margin) // 1))))
        (top, bottom), (left, right) = found
        return top, left, bottom, right

    def view(self, pixels: Tensor, note: int = 1) -> Tensor:
        """Return what it sees of a photo, differentiable where ``pixels`` are floating point.

        Args:
            pixels: (3, H, W), uint8, or floating point in [0, 1], as they are stored.
            note: EXIF orientation of the file.

        Returns:
            (3, size, size), float32 in [0, 1].
        """
        if self._turns(note):
            pixels = upright(pixels, note)
        height, width = pixels.shape[-2:]
        taken = [self._taken(side, min(height, width)) for side in (height, width)]
        if taken != [height, width]:
            pixels = v2.center_crop(pixels, taken)
        goal = list(self.scaled(height, width))
        if list(pixels.shape[-2:]) != goal:
            pixels = v2.resize(pixels, goal, _FILTERS[self.interpolation], antialias=True)
        pixels = v2.center_crop(pixels, [self.size, self.size])
        pixels = pixels if pixels.dtype == torch.uint8 else pixels.clamp(0, 1)
        if self.jpeg is not None:
            pixels = jpeg(pixels, self.jpeg, subsampling="4:2:0")
        return pixels.float() / 255 if pixels.dtype == torch.uint8 else pixels

    # ----------------------------------------------------------------------------------------------------------- answering

    def answers(self, views: Tensor) -> Tensor:
        """Return what it says of what it sees.

        Args:
            views: (N, 3, size, size) in [0, 1].

        Returns:
            (N, classes) logarithms of probabilities, in nats, or (N, K) features; float32, on the CPU.

        Raises:
            UsageError: the network fails, returns something else, or numbers that are not finite.
        """
        raw = self._numbers(views)
        if self._probabilities:
            raw = raw.clamp_min(_TINY).log()
        found = raw if self.features else raw.log_softmax(1)
        if not bool(found.detach().isfinite().all()):
            raise NotFinite(f"{self.name} gives answers that are not finite")
        return found

    def _numbers(self, views: Tensor) -> Tensor:
        """What the network gives, (N, K) float32, on the CPU."""
        try:
            raw = self._said(views.to(self.device))
        except UsageError:
            raise
        except (Exception, SystemExit) as error:  # whatever the user's code raises
            shape = tuple(views.shape)
            raise UsageError(f"{self.name} fails on images {shape}: {said(error)[:300]}") from error
        for part in ("pooler_output", "logits") if self.features else ("logits",):  # without a head, logits are features
            raw = raw.get(part, raw) if isinstance(raw, dict) else getattr(raw, part, raw)
        if isinstance(raw, tuple | list) and raw:
            raw = raw[0]
        fits = isinstance(raw, Tensor) and raw.ndim >= 2 and len(raw) == len(views) and not raw.is_complex()
        if not fits or (raw.ndim > 2 and not self.features):
            got = tuple(raw.shape) if isinstance(raw, Tensor) else type(raw).__name__
            hint = "" if self.features else f"; if the network gives features, write {FEATURES}{self.name}"
            wanted = f"features ({len(views)}, ...)" if self.features else f"logits ({len(views)}, classes)"
            raise UsageError(f"{self.name} must give {wanted}, got {got}{hint}")
        found: Tensor = raw.flatten(1).float().cpu()
        return found

    def _said(self, views: Tensor) -> Any:
        model = self._model
        views = views.contiguous(memory_format=torch.channels_last)
        if self._pure:
            seen = (model.layer(views) - model.mean) / model.std
            return model.backbone(seen.to(torch.bfloat16))
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._half):
            return model(views)

    def distance(self, own: Tensor, seen: Tensor) -> Tensor:
        """Return how far answers are from those on the originals.

        Args:
            own, seen: (N, K), as from :meth:`answers`.

        Returns:
            (N,): the KL divergence of seen from own, in nats; of features, the squared distance over the squared length of own.
        """
        if self.features:
            return (seen - own).square().sum(1) / own.square().sum(1).clamp_min(_TINY)
        return (own.exp() * (own - seen)).sum(1)


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether two vectors are the same numbers, up to rounding to 16 bits."""
    return one.shape == other.shape and all(
        torch.allclose(one[part].float(), other[part].float(), rtol=2**-7, atol=1e-6) for part in (slice(64), slice(None))
    )


def _digest_of(network: nn.Module) -> str:
    """16 hex digits, of all that it has learned; of a network that learns nothing, of what it is made of."""
    digest = hashlib.sha256()
    if not network.state_dict():
        digest.update(repr(network).encode())
    for name, tensor in sorted(network.state_dict().items()):
        if isinstance(tensor, Tensor):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


# ----------------------------------------------------------------------------------------------------------------- by name


def open_reader(name: str, device: str | torch.device | None = "cpu", *, fast: bool = True) -> PhotoReader:
    """Open a network that files are made for, or judged by.

    Args:
        name: the folder of a run; a folder that ``save_pretrained`` of this project, of timm or of transformers wrote; a name
            of timm's, or ``torchvision/`` and one of torchvision's, with the weights that they publish, or with yours,
            ``NAME@FILE``; or ``module:make``, a module or what makes one when called without arguments (``@FILE`` for weights),
            or a :class:`PhotoReader`. ``features:`` in front of any of them: its features, without the head.
        device: where to compute.
        fast: see :class:`PhotoReader`.

    Raises:
        UsageError: there is no such network, or it does not read images; see :class:`PhotoReader`.
    """
    plain = name.removeprefix(FEATURES)
    features = plain != name
    if not plain.strip():
        raise UsageError("a network is missing: give a run's folder, timm's name of a model, NAME@FILE or module:make")
    options: dict[str, Any] = {"features": features, "device": device, "fast": fast}
    processor = code = None
    folder = Path(plain).expanduser()
    plain_name, weights = (plain, None) if folder.is_dir() else _with_file(plain)
    if folder.is_dir():
        network, found = _of_folder(folder)
        processor = found.pop("processor", None)
    elif is_own(plain_name):
        made, code = _own(plain_name, weights), source_digest(plain_name)
        if isinstance(made, PhotoReader):
            if weights is not None:
                raise UsageError(
                    f"{plain_name} makes a PhotoReader, which has its weights: drop @{weights}, or make the network"
                )
            if features and not made.features:
                raise UsageError(f"{plain} makes a PhotoReader: have it give features with PhotoReader(..., features=True)")
            made.code = code
            return made
        network, found = made, _recorded_input(made)
    else:
        network, found = _of_library(plain_name, weights, features=features)
    if weights is not None:  # of a run they name their classes
        found["classes"] = named_classes(weights)
    if features:
        network = _without_head(network)
        found["classes"] = None
    shown = name if weights is None else f"{name.partition('@')[0]}@{weights.name}"  # in files and tables; no folder matters
    reader = PhotoReader(network, shown, **{**found, **options})
    reader.code = code
    if processor is not None:
        _check_view(reader, processor)
    return reader


def names_in(given: str, setting: str) -> list[str]:
    """Return the names of networks, separated by commas.

    Raises:
        UsageError: one is missing, or named twice.
    """
    names = [name.strip() for name in given.split(",")]
    if not all(names):
        raise UsageError(f"{setting} must be one model, or several separated by commas, got {given!r}")
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UsageError(f"{setting} names {twice} twice: drop one")
    return names


def open_readers(names: Sequence[str], device: str | torch.device | None = "cpu", *, fast: bool = True) -> list[PhotoReader]:
    """Open several readers that decide together.

    Raises:
        UsageError: see :func:`open_reader`; or one is named twice, or their answers are not of the same kind.
    """
    if len(set(names)) < len(names):
        raise UsageError(f"a reader is named twice: {', '.join(names)}")
    readers = [open_reader(name, device, fast=fast) for name in names]
    check_together(readers)
    return readers


def check_together(readers: Sequence[PhotoReader]) -> None:
    """Refuse readers whose distances cannot be compared.

    Raises:
        UsageError: there is none; two have the same weights and see photos alike; some give features and others logits; or
            they know different classes.
    """
    if not readers:
        raise UsageError("give at least one reader")
    first, seen = readers[0], [reader.record() | {"name": None} for reader in readers]
    for number, one in enumerate(seen):
        if (before := seen.index(one)) < number:
            raise UsageError(f"{readers[before].name} and {readers[number].name} have the same weights: drop one")
    for other in readers[1:]:
        if other.features != first.features:
            raise UsageError(f"{first.name} and {other.name}: one gives features, the other logits; give readers of one kind")
        if first.features:
            continue
        if other.outputs != first.outputs or (first.classes and other.classes and first.classes != other.classes):
            raise UsageError(
                f"readers know different classes: {first.name} {first.outputs}, {other.name} {other.outputs}"
                f"{'' if first.outputs != other.outputs else ', with other names'}; make files for one, and let the other judge"
            )


def _with_file(name: str) -> tuple[str, Path | None]:
    plain, at, file = name.partition("@")
    if at and not (plain and file):
        raise UsageError(f"{name!r} must be NAME@FILE: a network, and the file of its weights")
    return plain, Path(file).expanduser() if at else None


def _of_folder(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    run = RunFolder(folder)
    if run.config_file.is_file():
        trained = open_run(run)
        digest = digest_of_file(run.model_file)
        return trained.model, {**_of_data(trained.config.data), "classes": trained.classes, "digest": digest}
    file = folder / pretrained.CONFIG
    if not file.is_file():
        raise UsageError(f"{folder} is neither the folder of a run nor a saved model with a {pretrained.CONFIG}")
    try:
        there = json.loads(file.read_text(encoding="utf-8"))
        kinds = set(there)
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"{file} is damaged ({error})") from error
    if {"layer", "run"} <= kinds:
        model, classes, config, _ = pretrained.read(folder)
        return model, {**_of_data(config.data), "classes": classes}
    try:
        if "architecture" in kinds:
            network = timm.create_model(f"local-dir:{folder}", pretrained=True)
            return network, _recorded_input(network) | {"classes": there.get("label_names")}
        require("models of transformers need", "transformers")
        return _of_transformers(folder, there)
    except UsageError:
        raise
    except Exception as error:  # whatever the libraries raise
        raise UsageError(f"the model in {folder} cannot be opened: {said(error)[:300]}") from error


def _of_data(config: DataConfig) -> dict[str, Any]:
    return {
        "size": config.pixels,
        "resize": config.side,
        "interpolation": config.filter,
        "jpeg": config.jpeg_test,
        "orientation": config.orientation,
    }


def _of_transformers(folder: Path, there: dict[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    from transformers import AutoModel, AutoModelForImageClassification

    classifies = any("ForImageClassification" in kind for kind in there.get("architectures") or ())
    kind = AutoModelForImageClassification if classifies else AutoModel
    network = kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    labels = there.get("id2label") or {}
    classes = [labels[key] for key in sorted(labels, key=int)] if classifies and labels else None
    return network, {**_of_processor(folder, there.get("image_size")), "classes": classes}


def _of_processor(folder: Path, size: Any) -> dict[str, Any]:
    """What a network of transformers sees, by the image processor beside it; ``size`` is what its settings say."""
    from transformers import AutoImageProcessor

    if not (folder / "preprocessor_config.json").is_file():
        size = size if isinstance(size, int) else 224
        warnings.warn(
            f"{folder} has no preprocessor_config.json: photos are scaled to {size} pixels and normalised as ImageNet's are",
            stacklevel=2,
        )
        return {"size": size}
    processor: Any = AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)  # type: ignore[no-untyped-call]
    kind = type(processor).__name__
    side, square = _side(processor.size)
    crop, _ = _side(getattr(processor, "crop_size", None) if getattr(processor, "do_center_crop", False) else None)
    share = getattr(processor, "crop_pct", None)
    if share is not None and kind.startswith("ConvNext") and side >= _NOT_CROPPED:
        square, share = True, None
    resample, normalises = getattr(processor, "resample", None), getattr(processor, "do_normalize", True)
    return {
        "size": crop or side,
        "resize": (side if share is None else int(side / share)) or None,
        "squash": square,
        "interpolation": Image.Resampling(2 if resample is None else resample).name.lower(),
        "mean": processor.image_mean if normalises else (0.0, 0.0, 0.0),
        "std": processor.image_std if normalises else (1.0, 1.0, 1.0),
        "processor": processor,
    }


def _side(given: Any) -> tuple[int, bool]:
    """A size as image processors have it: its (first) side in pixels, 0 for none, and whether it is one of both sides."""
    if given is None or isinstance(given, int):
        return given or 0, False
    get = given.get if isinstance(given, dict) else functools.partial(getattr, given)
    short, high = get("shortest_edge", None), get("height", None)
    return int(short or high or 0), not short


def _check_view(reader: PhotoReader, processor: Any) -> None:
    """Refuse a reader that sees something else of a photo than its image processor makes of it.

    The photo is a ramp of colours: where a reader cuts, scales or normalises in another way, its ends have other values.
    """
    high, wide = 2 * reader.resize, 3 * reader.resize
    down, across = torch.linspace(0, 255, high)[:, None].expand(high, wide), torch.linspace(0, 255, wide).expand(high, wide)
    ramp = torch.stack((across, down, 255 - across)).round().to(torch.uint8)
    made = processor(images=ramp.permute(1, 2, 0).numpy(), return_tensors="pt")["pixel_values"]
    seen = reader.view(ramp)[None]
    off = math.inf
    if tuple(made.shape) == tuple(seen.shape):
        mean, std = (torch.as_tensor(each).float().cpu().view(1, 3, 1, 1) for each in reader.normalisation)
        off = float((made.float() * std + mean - seen).abs().max())
    if off > 0.01 + 2.5 / reader.size:  # a pixel more or less where a crop is cut
        raise UsageError(
            f"{reader.name}: its image processor ({type(processor).__name__}) does more to a photo than scaling, a crop "
            "of the middle and normalisation; give module:make, for a jpegdl.codec.PhotoReader whose view() does the same"
        )


def _recorded_input(network: nn.Module) -> dict[str, Any]:
    """What timm, or the author of a module, recorded beside it in ``pretrained_cfg``."""
    recorded = getattr(network, "pretrained_cfg", None) or {}
    if not isinstance(recorded, dict) or "input_size" not in recorded:
        return {}
    return _seen(input_of(recorded), "a network")


def _seen(made: OwnInput, whose: str) -> dict[str, Any]:
    """Options of a reader for the images that a network was made for."""
    if made.unlike:
        raise UsageError(f"the record (pretrained_cfg) of {whose} has {made.unlike}")
    # A crop share above 1, as three of timm's records have it, would put a border around the photo: it is seen without.
    seen = asdict(made) | {"resize": max(made.size, made.resize)}
    del seen["unlike"]
    return seen


def _own(name: str, file: Path | None) -> Any:
    made: Any = find_object(name, "network")
    if not isinstance(made, nn.Module | PhotoReader):
        if not callable(made):
            raise UsageError(f"network {name} must be a torch.nn.Module or make one, got {type(made).__name__}")
        try:
            inspect.signature(made).bind()
        except TypeError as error:
            raise UsageError(f"network {name} must be callable without arguments: {error}") from error
        except ValueError:  # it has no signature: calling it will tell
            pass
        try:
            made = made()
        except UsageError:  # of a PhotoReader that it makes, and says so
            raise
        except (Exception, SystemExit) as error:  # whatever the user's code raises
            raise UsageError(f"network {name} failed, called without arguments: {said(error)}") from error
    if isinstance(made, PhotoReader):
        return made
    if not isinstance(made, nn.Module):
        raise UsageError(f"network {name} must be a torch.nn.Module or make one, got {type(made).__name__}")
    if file is not None:
        load_weights(made, read_weights(file), (), f"weights {file}")
    check_finite(
        {key: value for key, value in made.state_dict().items() if isinstance(value, Tensor)}, f"network {name}: weights"
    )
    return made


def _of_library(name: str, file: Path | None, *, features: bool) -> tuple[nn.Module, dict[str, Any]]:
    try:
        check_backbone(name, trained=True)
    except UsageError as error:
        raise UsageError(f"{name!r} is neither a folder here nor a known network: {error}") from error
    made = own_input(name)
    seen = {} if made is None else _seen(made, name)
    size = 224 if made is None else made.size
    state = pretrained_weights(name, size) if file is None else read_weights(file)
    classes = _classes_of(name, size, state)
    network = build_backbone(name, classes, 0, size)
    source = f"the published weights of {name}" if file is None else f"weights {file}"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the head of")  # is new: for features it does not matter
        head = load_weights(network, state, [str(number) for number in range(classes)], source)
    if head == "new" and not features:
        raise UsageError(f"{source} have no head for {name}, so they know no classes: write {FEATURES}, and distances count")
    if file is None and hasattr(network, "transform_input"):  # torchvision's published weights of two networks want it
        network.transform_input = True  # type: ignore[assignment]
    return network, {**seen, **({} if file is None else {"digest": digest_of_file(file)})}


def _classes_of(name: str, size: int, state: dict[str, Tensor]) -> int:
    """How many logits the weights give: the rows of what is the head of a network of 1000."""
    network: nn.Module | None
    with torch.device("meta"):
        try:
            network = build_backbone(name, 1000, 0, size)
        except Exception:  # one that computes while it is built
            network = None
    if network is None:
        network = build_backbone(name, 1000, 0, size)
    for head in head_names(network, 1000):
        for key, tensor in state.items():
            if (key == head or key.endswith(f".{head}")) and tensor.ndim:
                return len(tensor)
    return 1000


def _without_head(network: nn.Module) -> nn.Module:
    """A network up to its head, where it is known how to leave that out."""
    bare = network.backbone if isinstance(network, PrependedModel) else network
    reset: Callable[..., Any] | None = getattr(bare, "reset_classifier", None)
    if reset is not None:
        reset(0)
        return network
    for place in ("fc", "classifier", "head", "heads"):
        if isinstance(getattr(bare, place, None), nn.Module):
            setattr(bare, place, nn.Identity())
            return network
    return network
