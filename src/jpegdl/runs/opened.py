"""A finished run opened for a test: its model on a device, its rounding, its test images, the plain run beside it."""

import functools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from jpegdl.errors import UsageError
from jpegdl.files import digest_of_file
from jpegdl.layer import PrependedModel
from jpegdl.layer.roundings import set_rounding
from jpegdl.random import evenly
from jpegdl.runs.config import DataPlace
from jpegdl.runs.device import compute_device
from jpegdl.runs.folder import RunFolder
from jpegdl.runs.model import TrainedRun, open_run
from jpegdl.runs.record import class_difference

if TYPE_CHECKING:
    from jpegdl.data import Data


@dataclass
class OpenedRun:
    """A finished run, opened for a test.

    Attributes:
        run: the run; its model is in eval mode on ``device``, and nothing in it is trained any more.
        data: its test images; nothing is decoded yet.
        device: where to compute.
        rounding: the layer's; None where nothing quantizes.
        other_images: how the test images differ from those of the run's own test, in words; None if they do not.
    """

    run: TrainedRun
    data: "Data"
    device: torch.device
    rounding: str | None
    other_images: str | None

    @property
    def folder(self) -> RunFolder:
        """Where the run is."""
        return self.run.folder

    @property
    def model(self) -> PrependedModel:
        """From images (N, 3, H, W) in [0, 1] to logits."""
        return self.run.model

    @property
    def layer(self) -> nn.Module:
        """What is in front of the backbone."""
        return self.run.model.layer

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """The run's settings, with its ``arm`` and ``seed``."""
        return self.folder.settings()

    @functools.cached_property
    def digest(self) -> str:
        """A digest of the model's file."""
        return digest_of_file(self.folder.model_file)

    def images(self, count: int | None, seed: int) -> list[int]:
        """Choose test images, evenly over the classes; those of one count and seed are the same in every command.

        Args:
            count: how many; None for all.
            seed: which ones, where they are fewer than all.

        Returns:
            Their indices, ascending. Corrupt ones that the run leaves out are not among them where images are kept decoded.
        """
        self.data.test.load()
        return evenly(list(self.data.test.targets), count, seed)


def open_for_test(
    folder: RunFolder, place: DataPlace, device: str | None, rounding: str | None = None, sets: tuple[Any, ...] | None = None
) -> OpenedRun:
    """Open a finished run, and find its test images.

    Args:
        folder: of the run.
        place: where its data are now.
        device: see :func:`jpegdl.runs.device.compute_device`.
        rounding: the quantizer to put in place of the trained one; None for that.
        sets: the data set as Python objects, of a run that was trained on such; see :class:`jpegdl.data.Data`.

    Raises:
        UsageError: the run is not finished or damaged, its data cannot be found or have other classes, there is no such device
            or rounding, or nothing to give a rounding to.
    """
    from jpegdl.data import Data  # Lightning, which those who only name a device need not wait for

    where = compute_device(device)
    run = open_run(folder)
    used = set_rounding(run.model.layer, rounding, f"the layer of {folder}")
    own = run.config.data
    data = Data(replace(own, path=place.path or own.path, workers=place.workers), test_only=True, sets=sets)
    run.model.to(where).eval().requires_grad_(False)
    return OpenedRun(run, data, where, used, folder.other_images(data.fingerprint))


def open_plain(folder: RunFolder, beside: OpenedRun) -> TrainedRun:
    """Open the plain run of the same data, to compare another with; its model is on the same device.

    Raises:
        UsageError: it is not finished or damaged, or knows other classes.
    """
    plain = open_run(folder)
    if difference := class_difference(plain.classes, beside.run.classes):
        raise UsageError(f"{folder} knows other classes than {beside.folder} ({difference}): give a plain run of the same data")
    plain.model.to(beside.device).requires_grad_(False)
    return plain
