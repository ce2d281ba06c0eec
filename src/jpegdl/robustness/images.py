"""Which test images of a run are attacked."""

from dataclasses import replace

import torch
from torch import Tensor

from jpegdl.data import Data
from jpegdl.errors import UsageError
from jpegdl.random import evenly
from jpegdl.robustness.config import AttackConfig
from jpegdl.runs import RunFolder, TrainedRun


def test_data(folder: RunFolder, opened: TrainedRun, config: AttackConfig, seed: int) -> tuple[Data, str | None]:
    """The run's test images, and how they differ from those that it was tested with, if they do.

    Raises:
        UsageError: they cannot be found, or the classes differ, so that the model's answers would be compared with others'.
    """
    there = opened.config.data
    data = Data(replace(there, path=config.data_path or there.path, workers=config.workers), seed, test_only=True)
    return data, folder.other_images(data.fingerprint)


def draw(data: Data, config: AttackConfig) -> tuple[list[int], Tensor, Tensor]:
    """Test images drawn evenly over the classes: indices in ascending order, images (N, 3, size, size), class indices (N,).

    Raises:
        UsageError: one of them cannot be decoded.
    """
    data.test.load()
    indices, images, labels = [], [], []
    for index in evenly(list(data.test.targets), config.images, config.attack_seed):
        if (item := data.test[index]) is not None:  # a corrupt one that the run leaves out
            indices.append(index)
            images.append(item[0])
            labels.append(item[1])
    if not indices:
        raise UsageError(f"none of the {config.images} images drawn can be decoded")
    return indices, torch.stack(images), torch.tensor(labels)
