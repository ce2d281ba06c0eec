"""A run's points on the plane of accuracy and rate: what its network makes of real JPEG files, and how large these are."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as nn_functional
from torch.utils.data import DataLoader, Subset

from jpegdl.codec.encoder import Encoder, encoder_version
from jpegdl.codec.learned import as_json, file_tables, learned_tables, of_run
from jpegdl.codec.read_back import FileSizes, are_right, files_of_files
from jpegdl.errors import UsageError
from jpegdl.files import claimed, read_json, remove_strays
from jpegdl.layer import JpegLayer, PrependedModel
from jpegdl.runs import RunFolder
from jpegdl.runs.config import DataPlace
from jpegdl.runs.device import compute_device
from jpegdl.runs.opened import OpenedRun, open_for_test
from jpegdl.runs.pieces import Pieces
from jpegdl.runs.progress import Progress
from jpegdl.settings import Count, Quality, Seed, check_fields
from jpegdl.tables import SUBSAMPLINGS

RATE = "rate"  # .json, in the folder of a run
_LOCK = ".rate.lock"  # there, of the process that measures it
_KEYS = ("points", "arm", "seed", "images", "accuracy", "hard")  # of it


@dataclass
class CurveConfig:
    """How to measure accuracy and rate.

    Args:
        images: how many test images, evenly over the classes; null for all.
        images_seed: seed that draws them, if not all are taken.
        qualities: qualities of default JPEG (the standard tables), 1 to 100, to test the plain model with.
        subsampling: chroma subsampling of default JPEG: 4:4:4, 4:2:0 or both.
        optimize: fit Huffman codes to each image.
        batch_size: images that go through the model at once.
        data: where the runs' own test images are now.
        device: auto (cuda where there is one, else cpu), cpu, gpu, cuda, cuda:N or mps.
    """

    images: Count | None = None
    images_seed: Seed = 0
    qualities: list[Quality] = field(default_factory=lambda: list(range(5, 100, 5)))
    subsampling: Literal["4:4:4", "4:2:0", "both"] = "both"
    optimize: bool = True
    batch_size: Count = 64
    data: DataPlace = field(default_factory=DataPlace)
    device: str = "auto"


def check_curve_config(config: CurveConfig) -> None:
    """Refuse settings that cannot be used.

    Raises:
        UsageError: names the setting, what it is and what it may be.
    """
    check_fields(config)
    if not config.qualities:
        raise UsageError("qualities must be one or more, from 1 to 100, got none")
    compute_device(config.device)


def why_no_files(folder: RunFolder) -> str | None:
    """Return why no JPEG file of its test images can stand for the layer of a finished run, in words; None if one can."""
    if why := files_of_files(folder):
        return why
    if folder.config().layer.kind == "none":
        return None
    try:
        of_run(folder)
    except UsageError as error:
        return str(error)
    return None


def rate_run(folder: RunFolder, config: CurveConfig, progress: Progress | None = None) -> dict[str, Any]:
    """Test a finished run on real JPEG files of its test images, and write ``rate.json`` to its folder.

    Each test image is encoded as the model sees it, scaled and cropped; the network, without its layer, reads the decoded
    files. A run without a layer is tested with default JPEG, at every quality and subsampling. A run with a layer is tested
    with its own tables, rounded to whole numbers, and its own subsampling. What was measured before, with the same model,
    images and settings, is kept.

    Args:
        folder: of a finished run.
        config: what to measure with.
        progress: is told what is being measured, which one it is, and how many there are.

    Returns:
        The content of ``rate.json``:

        - ``arm``, ``seed``, and ``images``: how many. ``made_of``: what the numbers depend on.
        - ``other_images``: how they differ from those of the run's own test; None if they do not.
        - ``accuracy``: of the model as it is, 0 to 1. ``hard``: with its layer rounding; None without a layer.
        - ``points``, each with ``tables`` (standard:Q, or own), ``subsampling``, ``accuracy`` (0 to 1), ``loss`` (mean
          cross-entropy, nats), ``bits_per_pixel`` (of whole files), ``header`` (bits of these that are headers), ``right`` and
          ``losses`` (for each image a bit, and a float16, as hexadecimal digits) and ``entries`` (of own tables).

    Raises:
        UsageError: a setting that cannot be used, a run that is not finished, a layer that no JPEG file can stand for, data of
            other classes, or another process that measures the same run.
    """
    check_curve_config(config)
    if why := why_no_files(folder):
        raise UsageError(why)
    opened = open_for_test(folder, config.data, config.device)
    has_layer = isinstance(opened.layer, JpegLayer)
    made_of = {
        "model": opened.digest,
        "test": opened.data.fingerprint["test"],
        "images": config.images,
        **({} if config.images is None else {"images_seed": config.images_seed}),  # of all, as earlier versions had it
        "optimize": config.optimize,
        "encoder": encoder_version(),
        "measures": ["accuracy", "loss"],
    }
    pieces = Pieces(folder.path, made_of)
    subsamplings = SUBSAMPLINGS if config.subsampling == "both" else [config.subsampling]
    qualities = list(dict.fromkeys(config.qualities))
    wanted = [("own", None)] if has_layer else [(f"standard:{q}", s) for s in subsamplings for q in qualities]
    found = pieces.find(RATE, needed=_KEYS)
    if found is None or _missing(found, wanted):
        with claimed(folder.path / _LOCK, f"{folder} is being measured"):  # or each would write over what the other has found
            remove_strays(folder.path)
            found = pieces.find(RATE, needed=_KEYS) or {"points": []}
            test, missing = _RateTest(opened, config), _missing(found, wanted)
            if "accuracy" not in found:
                found |= {name: opened.settings[name] for name in ("arm", "seed")}
                found |= {"images": len(test.chosen), "other_images": opened.other_images, **test.without_files()}
            for number, (tables, subsampling) in enumerate(missing):
                if progress is not None:
                    progress(f"{tables} {subsampling or ''}".strip(), number, len(missing))
                found["points"].append(test.standard(tables, subsampling) if subsampling else test.own(folder))
                found = pieces.keep(RATE, None, found)
    return {**found, "points": [point for point in found["points"] if _key(point) in wanted]}


def _missing(found: dict[str, Any], wanted: Sequence[tuple[str, str | None]]) -> list[tuple[str, str | None]]:
    """Of the points that are wanted, those that are not there."""
    there = {_key(point) for point in found["points"]}
    return [key for key in wanted if key not in there]


def _key(point: dict[str, Any]) -> tuple[str, str | None]:
    return point["tables"], None if point["tables"] == "own" else point["subsampling"]


def read_rate(folder: RunFolder) -> dict[str, Any] | None:
    """Read a run's ``rate.json``, as :func:`rate_run` returned it; None if there is none.

    Raises:
        UsageError: it is damaged.
    """
    return read_json(folder.path / f"{RATE}.json", ("made_of", *_KEYS))


class _RateTest:
    """A run's network, and its test images."""

    def __init__(self, opened: OpenedRun, config: CurveConfig) -> None:
        opened.data.load()
        self.data, self.config, self.device, self.model = opened.data, config, opened.device, opened.model
        self.network = self.model.without_layer()
        self.chosen = opened.images(config.images, config.images_seed)

    def without_files(self) -> dict[str, Any]:
        """Return the accuracies of the model as it is, and with hard rounding."""
        found = {"accuracy": float(self._answers(self.model)[0].mean()), "hard": None}
        if isinstance(self.model.layer, JpegLayer):
            rounding, self.model.layer.rounding = self.model.layer.rounding, "hard"
            found["hard"] = float(self._answers(self.model)[0].mean())
            self.model.layer.rounding = rounding
        return found

    def standard(self, tables: str, subsampling: str) -> dict[str, Any]:
        """Return the point of default JPEG."""
        learned = learned_tables(None, tables)
        return self._point(tables, Encoder(learned.luma, learned.chroma, None, subsampling, optimize=self.config.optimize))

    def own(self, folder: RunFolder) -> dict[str, Any]:
        """Return the point of the layer's own tables."""
        learned, layer = of_run(folder), self.model.layer
        assert isinstance(layer, JpegLayer)
        tables = file_tables(layer.luma.detach().cpu(), layer.chroma.detach().cpu())
        encoder = Encoder(*tables, None, learned.subsampling or "4:4:4", optimize=self.config.optimize)
        return {**self._point("own", encoder), "entries": as_json(*tables)}

    def _point(self, tables: str, encoder: Encoder) -> dict[str, Any]:
        size = FileSizes()
        right, losses = self._answers(self.network, lambda image: size.through(image, encoder))
        bits, header = size.rates(self.data.config.pixels**2)
        return {
            "tables": tables,
            "subsampling": encoder.subsampling,
            "accuracy": float(right.mean()),
            "loss": float(losses.mean()),
            "bits_per_pixel": bits,
            "header": header,
            "right": np.packbits(right).tobytes().hex(),
            "losses": losses.astype("<f2").tobytes().hex(),
        }

    @torch.no_grad()
    def _answers(
        self, model: PrependedModel, stored: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Of each image, whether the model is right about it, and its cross-entropy in nats, float64."""
        right, losses = [], []
        for images, targets in DataLoader(Subset(self.data.test, self.chosen), self.config.batch_size):
            seen = images if stored is None else torch.stack([stored(image) for image in images])
            logits = model(seen.to(self.device)).cpu().double()
            right.append(are_right(logits, targets).numpy())
            losses.append(nn_functional.cross_entropy(logits, targets, reduction="none").numpy())
        return np.concatenate(right), np.concatenate(losses)
