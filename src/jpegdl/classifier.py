"""A trained model at work on photos: :func:`load` opens what training, or :meth:`Classifier.save_pretrained`, left behind."""

import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, overload

import torch
from PIL import Image
from torch import Tensor, nn

from jpegdl import pretrained
from jpegdl.data import TestTransform
from jpegdl.data.images import bad_file
from jpegdl.data.pixels import orientation_note
from jpegdl.data.sources.listing import IMAGES, Passed, in_folder, natural_key, warn_passed
from jpegdl.errors import UsageError
from jpegdl.files import folder_hint
from jpegdl.layer import PrependedModel
from jpegdl.opener import BadImage, open_image
from jpegdl.random import isolated
from jpegdl.runs import RunConfig, RunFolder, open_run
from jpegdl.runs.device import compute_device

Photo = Image.Image | str | os.PathLike[str]
P = TypeVar("P", bound=Photo)
BATCH = 64  # photos at a time
ARM = "jpeg-dl"  # of a comparison's folder


@dataclass(frozen=True)
class Prediction:
    """What a classifier says of one photo.

    Attributes:
        labels: names of the likeliest classes, the likeliest first.
        probabilities: theirs, 0 to 1.
    """

    labels: tuple[str, ...]
    probabilities: tuple[float, ...]

    @property
    def label(self) -> str:
        """The likeliest class."""
        return self.labels[0]

    @property
    def probability(self) -> float:
        """The probability of the likeliest class, 0 to 1."""
        return self.probabilities[0]

    def __str__(self) -> str:
        return ", ".join(f"{label} {100 * p:.1f} %" for label, p in zip(self.labels, self.probabilities, strict=True))


class Classifier(nn.Module):
    """A trained model, ready for use: it knows its classes, and how to prepare photos.

    :func:`load` and :meth:`from_pretrained` make one. Call it with a batch (N, 3, size, size) of images in [0, 1], not
    normalised, as :attr:`transform` makes them. It returns logits (N, classes).

    Args:
        model: from such a batch to logits.
        classes: names of the classes, in the order of the logits.
        config: the settings that it was trained with. ``config.data`` says how photos are prepared. ``config.backbone`` and
            ``config.layer`` build the model again when it is loaded from a saved folder.
        measured: what its test gave: arm, seed, accuracy (0 to 1), loss, and more; for the model card.

    Attributes:
        model: the layer, normalisation and the backbone, a :class:`jpegdl.layer.PrependedModel`.
        classes: names of the classes, in the order of the logits.
        transform: takes a PIL image of any size and mode, and returns (3, size, size) float32 RGB in [0, 1]: the same pixels
            that a test of the model sees. It scales the image to a short side of ``data.resize``, and takes the middle. It
            follows the EXIF orientation if training did (``data.orientation``).
    """

    def __init__(
        self, model: PrependedModel, classes: Sequence[str], config: RunConfig, measured: dict[str, Any] | None = None
    ) -> None:
        super().__init__()
        self.model, self.classes, self.config, self.measured = model, list(classes), config, measured
        self.transform = TestTransform(config.data)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (N, classes) of images (N, 3, size, size): RGB in [0, 1], not normalised."""
        logits: Tensor = self.model(images)
        return logits

    @overload
    def predict(self, photos: Photo, top: int = 1) -> Prediction: ...
    @overload
    def predict(self, photos: list[P] | tuple[P, ...], top: int = 1) -> list[Prediction]: ...
    def predict(self, photos: Any, top: int = 1) -> Prediction | list[Prediction]:
        """Predict what one photo shows, or each of several. This puts the model in eval mode.

        Args:
            photos: a PIL image, the path of an image file, or a list of these.
            top: how many of the likeliest classes to return.

        Returns:
            A :class:`Prediction`; for a list, a list of them.

        Raises:
            TypeError: something is not a photo.
            UsageError: a file that cannot be read, or more classes than there are.

        Example:
            >>> import jpegdl
            >>> model = jpegdl.load("runs/mine/jpeg-dl/0")
            >>> model.predict("photo.jpg").label in model.classes
            True
        """
        several = isinstance(photos, list | tuple)
        predictions = []
        for each in self.predict_each(photos if several else [photos], top):
            if isinstance(each, UsageError):
                raise each
            predictions.append(each)
        return predictions if several else predictions[0]

    def predict_each(self, photos: Iterable[Photo], top: int = 1) -> Iterator[Prediction | UsageError]:
        """Predict many photos, in batches, and yield a prediction for each, or the error if its file cannot be read.

        Raises:
            TypeError, UsageError: as :meth:`predict`, except for files that cannot be read.
        """
        if not 1 <= top <= len(self.classes):
            raise UsageError(f"top must be at least 1 and at most {len(self.classes)}, the number of classes, got {top}")
        photos, turned = list(photos), 0
        for start in range(0, len(photos), BATCH):
            read = []
            for photo in photos[start : start + BATCH]:
                image, note = self._read(photo)
                read.append(image)
                turned += note != 1
            predictions = iter(self._predict_batch([image for image in read if isinstance(image, Tensor)], top))
            for image in read:
                yield next(predictions) if isinstance(image, Tensor) else image
        if turned and self.config.data.orientation == "stored":
            warnings.warn(
                f"{turned} of {len(photos)} photos should be turned, by their EXIF orientation; they are "
                "read as they are stored, because the model was trained on such images",
                stacklevel=2,
            )

    def _read(self, photo: Photo) -> tuple[Tensor | UsageError, int]:
        """The photo as the model takes it, and its EXIF orientation, where it is to be turned, 1 for not at all."""
        if not isinstance(photo, Image.Image | str | os.PathLike):
            raise TypeError(
                f"a photo must be a PIL image or the path of a file, got {type(photo).__name__}; "
                "a batch of tensors in [0, 1] goes to the model itself, model(batch)"
            )
        try:
            if isinstance(photo, Image.Image):
                note = orientation_note(photo)
                return self.transform(photo), note
            with open_image(photo) as image:
                note = orientation_note(image)
                return self.transform(image), note
        except (BadImage, OSError, ValueError) as error:  # ValueError: of an image that was closed
            name = "the image" if isinstance(photo, Image.Image) else os.fspath(photo)
            return UsageError(f"{name} cannot be read ({bad_file(error)})"), 1

    def _predict_batch(self, images: list[Tensor], top: int) -> list[Prediction]:
        if not images:
            return []
        self.eval()
        with torch.inference_mode():
            found = self(torch.stack(images).to(self.model.mean.device)).float().softmax(-1).topk(top)
        return [
            Prediction(tuple(self.classes[index] for index in indices), tuple(probabilities))
            for indices, probabilities in zip(found.indices.tolist(), found.values.tolist(), strict=True)
        ]

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Save the model as a folder that :func:`load` and :meth:`from_pretrained` open.

        ``config.json`` has timm's format, with a section on the layer and one on the run. ``model.safetensors`` holds the
        backbone's weights under its own names, and ``layer.safetensors`` the layer's tables. ``README.md`` is a model card with
        what was measured. If the backbone is one of timm's, timm opens it too:
        ``timm.create_model("local-dir:FOLDER", pretrained=True)``. No path of this machine is written.

        Args:
            folder: a new or empty one, or one that this method wrote before; then its files are replaced.

        Raises:
            UsageError: the folder holds something else.
        """
        pretrained.write(Path(folder).expanduser(), self.model, self.classes, self.config, self.measured)

    def push_to_hub(self, repository: str, *, private: bool = False) -> str:
        """Upload what :meth:`save_pretrained` writes to the Hugging Face Hub, with the token of ``hf auth login``.

        Args:
            repository: its name on the Hub, such as user/flowers. It is created if it does not exist. Files of the same names
                are replaced, the model card too.
            private: make a new repository private.

        Returns:
            The repository's address.

        Raises:
            UsageError: ``huggingface_hub`` is not installed, or the upload failed.
        """
        with tempfile.TemporaryDirectory() as folder:
            pretrained.write(Path(folder), self.model, self.classes, self.config, self.measured, repository)
            return pretrained.upload(Path(folder), repository, private)

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], *, revision: str | None = None, device: str = "cpu") -> "Classifier":
        """Open a saved folder, or download one from the Hugging Face Hub.

        Args:
            name: the folder, or a repository on the Hub, such as user/flowers; a folder of that name comes first.
            revision: branch, tag or commit of the repository.
            device: where to put the model.

        Raises:
            UsageError: ``huggingface_hub`` is not installed, the download failed, the model needs its author's own code, or
                what :func:`load` raises.
        """
        if Path(name).expanduser().is_dir():
            return load(name, device)
        folder = pretrained.download(os.fspath(name), revision)
        pretrained.refuse_code(folder)
        return load(folder, device)


def load(folder: str | os.PathLike[str], device: str | torch.device = "cpu") -> Classifier:
    """Open a trained model for use, in eval mode.

    The training data are not needed. Of a run's folder, ``config.yaml``, ``data.json`` and ``model.safetensors`` are.

    Args:
        folder: a run's folder, ``runs/NAME/ARM/SEED``, or one that :meth:`Classifier.save_pretrained` wrote. For
            ``runs/NAME/ARM`` it opens the lowest seed that is trained, and for ``runs/NAME`` that of the arm jpeg-dl. It never
            chooses by test accuracy.
        device: where to put the model: auto, cpu, gpu, cuda, cuda:N, mps, or any of PyTorch's own.

    Raises:
        UsageError: no trained model is there, a file of it is missing or damaged, or the device cannot be used.

    Example:
        >>> import jpegdl
        >>> model = jpegdl.load("runs/mine")
        >>> [len(prediction.labels) for prediction in model.predict(["a.jpg", "b.png"], top=2)]
        [2, 2]
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        hint = folder_hint(path, 3)
        meant = f"{hint} " if hint.endswith("?") else ""
        raise UsageError(
            f"no folder {path}; {meant}give a run's, such as runs/NAME/jpeg-dl/0, or one that save_pretrained wrote; "
            "jpegdl.Classifier.from_pretrained opens what is on the Hugging Face Hub"
        )
    where = device if isinstance(device, torch.device) else compute_device(device)
    with isolated():  # building a model seeds every generator
        if (path / pretrained.CONFIG).is_file():
            classifier = Classifier(*pretrained.read(path))
        else:
            run = _find_run(path)
            trained = open_run(run)
            classifier = Classifier(trained.model, trained.classes, trained.config, pretrained.measurements(run))
    try:
        return classifier.to(where)
    except (RuntimeError, AssertionError) as error:  # PyTorch's, for one that is unknown and one that it is not built for
        raise UsageError(f"device {where} cannot be used ({str(error).partition(chr(10))[0]})") from error


def _find_run(path: Path) -> RunFolder:
    """The run that a folder is, or the one that stands for a folder of several."""
    if RunFolder(path).config_file.is_file():
        return RunFolder(path)
    arm = path / ARM if (path / ARM).is_dir() else path
    seeds = [int(one.name) for one in arm.iterdir() if one.name.isdecimal() and RunFolder(one).model_file.is_file()]
    if seeds:
        return RunFolder(arm / str(min(seeds)))
    models = {file.parent for depth in ("*", "*/*") for file in path.glob(f"{depth}/{RunFolder(path).model_file.name}")}
    found = ", ".join(map(str, sorted(models)[:3]))
    hint = f"give one of those there are, such as {found}" if found else "train one first"
    raise UsageError(f"{path} is not the folder of a run, and holds no trained {ARM}; {hint}")


def find_photos(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Find the image files among paths: files as they are given, and all images in folders, however deep, in order of name.

    Links to folders are followed, but not in circles; what is no image is passed over with a warning.

    Raises:
        UsageError: a folder without an image, or one that cannot be read.
    """
    photos: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            photos.append(path)
            continue
        passed = Passed()
        try:
            inside = [path.joinpath(*file.parts) for file in in_folder(path, passed) if file.parts[-1]]
        except OSError as error:
            raise UsageError(f"folder {path} cannot be read ({error})") from error
        passed.warn_circles()
        warn_passed(passed.suffixes, path)
        if not inside:
            raise UsageError(f"folder {path} holds no image file ({', '.join(IMAGES)})")
        photos += sorted(inside, key=lambda one: natural_key(str(one)))
    return photos
