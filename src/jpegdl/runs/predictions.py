"""What a model said of each test image: ``predictions.csv`` in the folder of a run."""

import csv
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jpegdl.files import reading, with_all, write_csv
from jpegdl.runs.folder import RunFolder

_COLUMNS = ("image", "class", "predicted", "probability", "rank", "loss")


@dataclass(frozen=True)
class Predictions:
    """What a model said of images, in the order of the data set; all arrays are (images,)."""

    images: list[str]  # their names, which do not depend on where the set is kept
    classes: list[str]  # names of the classes
    target: NDArray[np.int64]  # the class that each image is of, as an index
    predicted: NDArray[np.int64]  # the class that the model takes it for
    probability: NDArray[np.float64]  # what the model gives that, 0 to 1
    rank: NDArray[np.int64]  # at which place the image's own class comes, 1 where the model is right
    loss: NDArray[np.float64]  # cross-entropy, in nats

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether the model is right on each image, (images,)."""
        return np.equal(self.predicted, self.target)

    def __len__(self) -> int:
        return len(self.images)


def predictions_file(folder: RunFolder) -> Path:
    """Return where the predictions of a run are; those trained by earlier versions have none."""
    return folder.path / "predictions.csv"


def confusion(*runs: Predictions) -> NDArray[np.int64]:
    """Count the images of each class (rows) that were taken for each class (columns), (classes, classes), over all runs."""
    counts = np.zeros((len(runs[0].classes),) * 2, np.int64)
    for run in runs:
        np.add.at(counts, (run.target, run.predicted), 1)
    return counts


def write_predictions(file: Path, found: Predictions) -> None:
    """Write predictions as CSV, a line an image: image, class, predicted, probability, rank, loss."""
    names = found.classes
    columns = (
        found.images,
        [names[index] for index in found.target],
        [names[index] for index in found.predicted],
        found.probability.tolist(),
        found.rank.tolist(),
        found.loss.tolist(),
    )
    write_csv(file, [dict(zip(_COLUMNS, row, strict=True)) for row in zip(*columns, strict=True)])


def read_predictions(file: Path, classes: list[str]) -> Predictions:
    """Read predictions back.

    Args:
        file: from :func:`write_predictions`.
        classes: names of the classes, in the order of their indices.

    Raises:
        UsageError: it is not there, damaged, or of other classes.
    """
    index = {name: number for number, name in enumerate(classes)}
    with reading(file, "run jpegdl evaluate on the run's own images to write it again", csv.Error):
        with file.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:  # names as files have them
            read = [{name: cell for name, cell in row.items() if cell is not None} for row in csv.DictReader(stream)]
        rows = [with_all(row, _COLUMNS) for row in read]
        return Predictions(
            [row["image"] for row in rows],
            classes,
            np.array([index[row["class"]] for row in rows], np.int64),
            np.array([index[row["predicted"]] for row in rows], np.int64),
            np.array([float(row["probability"]) for row in rows]),
            np.array([int(row["rank"]) for row in rows], np.int64),
            np.array([float(row["loss"]) for row in rows]),
        )
