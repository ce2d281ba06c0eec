"""What is explained: a finished run's model, the plain one beside it, and the test images."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from jpegdl.data import Data, ImageSet
from jpegdl.errors import UsageError
from jpegdl.explain.config import ExplainConfig
from jpegdl.files import digest_of_file
from jpegdl.layer import ImageDctLayer, PrependedModel
from jpegdl.random import evenly, isolated
from jpegdl.runs import RunFolder, TrainedRun, open_run
from jpegdl.runs.record import class_difference


class NotApplicable(Exception):  # noqa: N818
    """What was to be shown does not exist for this run; its message says why."""


@dataclass
class Subject:
    """A finished run, opened, with its test images.

    Attributes:
        run: the run; its model is on ``device``.
        plain: the run without a layer to compare with, if there is one; its model is on ``device``.
        data: its test images.
        config: what was asked for.
        device: where to compute.
        other_images: how the test images differ from those of the run's own test, in words; None if they do not.
        left_out: what there is nothing to show of, and why.
    """

    run: TrainedRun
    plain: TrainedRun | None
    data: Data
    config: ExplainConfig
    device: torch.device
    other_images: str | None
    left_out: list[dict[str, str]] = field(default_factory=list)

    @property
    def model(self) -> PrependedModel:
        return self.run.model

    @property
    def layer(self) -> nn.Module:
        return self.run.model.layer

    @functools.cached_property
    def name(self) -> str:
        """Arm and seed, for titles."""
        settings = self.run.folder.settings()
        return f"{settings['arm']}, seed {settings['seed']}"

    @functools.cached_property
    def made_of(self) -> dict[str, Any]:
        """Digest of the model, and of the test images."""
        found = self.data.fingerprint
        return {"model": digest_of_file(self.run.folder.model_file), "data": {name: found[name] for name in ("name", "test")}}

    @functools.cached_property
    def images(self) -> list[int]:
        """Indices of the test images in use, ascending; where they are fewer than all, evenly over the classes."""
        self.data.test.load()  # after which corrupt ones are gone
        return evenly(list(self.data.test.targets), self.config.images, self.config.images_seed)

    def batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """The test images in use, in order: indices (N,), images (N, 3, H, W) in [0, 1] and classes (N,), on the device.

        What is random in a layer is drawn anew from the number of the batch, so that it is the same in each pass.
        """
        loader = DataLoader(
            _Numbered(self.data.test),
            batch_size=self.config.batch_size,
            sampler=self.images,
            num_workers=self.config.workers,
        )
        for number, (indices, images, targets) in enumerate(loader):
            with isolated(number, self.device):
                yield indices, images.to(self.device), targets.to(self.device)


class _Numbered(Dataset[Any]):
    """Images with their indices."""

    def __init__(self, images: ImageSet) -> None:
        self._images = images

    def __getitem__(self, index: int) -> tuple[int, Tensor, int] | None:
        item = self._images[index]
        return None if item is None else (index, *item)


def open_subject(folder: RunFolder, config: ExplainConfig, plain: RunFolder | None) -> Subject:
    """Open a run, and find its test images; nothing is decoded yet.

    Raises:
        UsageError: the run, or the plain one, is not finished or damaged; other classes; no such device.
    """
    device = _device(config.device)
    run = open_run(folder)
    settings = replace(run.config.data, path=config.path or run.config.data.path, workers=config.workers)
    data = Data(settings, test_only=True)
    subject = Subject(run, None, data, config, device, folder.other_images(data.fingerprint))
    run.model.to(device).requires_grad_(False)
    if plain is None:
        return subject
    other = open_run(plain)
    if other.classes != run.classes:
        difference = class_difference(other.classes, run.classes)
        raise UsageError(f"{plain} knows other classes than {folder} ({difference}): give a plain run of the same data")
    if other.config.data.pixels != run.config.data.pixels:
        why = f"it was trained at {other.config.data.pixels} pixels, this run at {run.config.data.pixels}"
        subject.left_out.append({"what": "the plain model", "why": why})
        return subject
    other.model.to(device).requires_grad_(False)
    return replace(subject, plain=other)


def _device(name: str | None) -> torch.device:
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch without CUDA asserts
        raise UsageError(f"device {name!r} cannot be used here: {' '.join(str(error).split())[:200]}") from error
    return device


def dct_layer(layer: nn.Module) -> ImageDctLayer:
    """The layer, where it works on the DCT coefficients of images.

    Raises:
        NotApplicable: it does not.
    """
    if isinstance(layer, ImageDctLayer):
        return layer
    if isinstance(layer, nn.Identity):
        raise NotApplicable("the run has no layer")
    raise NotApplicable(f"{type(layer).__name__} has no single set of DCT coefficients")


def planes_of(layer: ImageDctLayer) -> dict[str, slice]:
    """Which planes of a layer's coefficients are luma's, and which chroma's: the last two."""
    assert layer.planes is not None, "layers for images have a number of planes"
    return {"luma": slice(0, layer.planes - 2), "chroma": slice(layer.planes - 2, layer.planes)}
