"""What is explained: a finished run's model, the plain one beside it, and the test images."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.utils.data import DataLoader, StackDataset

from jpegdl.explain.config import ExplainConfig
from jpegdl.layer import ImageDctLayer
from jpegdl.random import isolated
from jpegdl.runs import RunFolder, TrainedRun
from jpegdl.runs.opened import OpenedRun, open_for_test, open_plain


class NotApplicable(Exception):  # noqa: N818
    """What was to be shown does not exist for this run; its message says why."""


@dataclass
class Subject(OpenedRun):
    """A finished run, opened, and what was asked of it.

    Attributes:
        config: what was asked for.
        plain: the run without a layer to compare with, if there is one; its model is on the same device.
        left_out: what there is nothing to show of, and why.
    """

    config: ExplainConfig
    plain: TrainedRun | None = None
    left_out: list[dict[str, str]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Arm and seed, for titles."""
        return f"{self.settings['arm']}, seed {self.settings['seed']}"

    @functools.cached_property
    def made_of(self) -> dict[str, Any]:
        """Digest of the model, and of the test images."""
        found = self.data.fingerprint
        return {"model": self.digest, "data": {name: found[name] for name in ("name", "test")}}

    @functools.cached_property
    def indices(self) -> list[int]:
        """Indices of the test images in use, ascending."""
        return self.images(self.config.images, self.config.images_seed)

    def batches(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Return the test images in use, in order: indices (N,), images (N, 3, H, W) in [0, 1] and classes (N,), on the device.

        What is random in a layer is drawn anew from the number of the batch, so that it is the same in each pass.
        """
        numbered: Any = StackDataset(range(len(self.data.test)), self.data.test)  # type: ignore[arg-type]
        workers = self.config.data.workers
        loader = DataLoader(numbered, batch_size=self.config.batch_size, sampler=self.indices, num_workers=workers)
        for number, (indices, (images, targets)) in enumerate(loader):
            with isolated(number, self.device):
                yield indices, images.to(self.device), targets.to(self.device)


def open_subject(folder: RunFolder, config: ExplainConfig, plain: RunFolder | None) -> Subject:
    """Open a run, and find its test images; nothing is decoded yet.

    Raises:
        UsageError: the run, or the plain one, is not finished or damaged; other classes; no such device.
    """
    subject = Subject(**vars(open_for_test(folder, config.data, config.device)), config=config)
    if plain is not None:
        subject.plain = open_plain(plain, subject)
        if (trained := subject.plain.config.data.pixels) != (own := subject.run.config.data.pixels):
            why = f"it was trained at {trained} pixels, this run at {own}"
            subject.left_out.append({"what": "the plain model", "why": why})
            subject.plain = None
    return subject


def dct_layer(layer: nn.Module) -> ImageDctLayer:
    """Return the layer, where it works on the DCT coefficients of images.

    Raises:
        NotApplicable: it does not.
    """
    if isinstance(layer, ImageDctLayer):
        kind = type(layer)
        for method in (kind.forward, kind.round_trip):
            if not method.__module__.startswith("jpegdl.layer."):  # of the user's own: the three steps are not all it does
                raise NotApplicable(f"{kind.__name__} has a {method.__name__} of its own, of which its coefficients say a part")
        return layer
    if isinstance(layer, nn.Identity):
        raise NotApplicable("the run has no layer")
    raise NotApplicable(f"{type(layer).__name__} has no single set of DCT coefficients")


def planes_of(layer: ImageDctLayer) -> dict[str, slice]:
    """Return which planes of a layer's coefficients are luma's, and which chroma's: the last two."""
    assert layer.planes is not None, "layers for images have a number of planes"
    return {"luma": slice(0, layer.planes - 2), "chroma": slice(layer.planes - 2, layer.planes)}
