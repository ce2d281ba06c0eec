"""What predictions say beyond accuracy, by torchmetrics."""

from typing import Any

import numpy as np
import torch
from torchmetrics.functional.classification import binary_calibration_error

from jpegdl.runs.predictions import Predictions, confusion

BINS = 15  # of confidence, in the calibration error


def describe(found: Predictions) -> dict[str, Any]:
    """Compute what a test says beyond accuracy; all but ``nll`` are shares, 0 to 1.

    Returns:
        ``top5``: the image's own class is among the five likeliest (None with five classes or fewer); ``balanced_accuracy``,
        the mean of the classes' own accuracies, over classes with test images; ``calibration_error``, the expected one: how far
        confidence and accuracy are apart, the mean over 15 bins of confidence, weighed by their images (Naeini et al. 2015);
        ``nll``, the negative log-likelihood in nats, the mean cross-entropy.
    """
    counts = confusion(found)
    images = counts.sum(1)
    each = counts.diagonal()[images > 0] / images[images > 0]
    confidence = torch.from_numpy(np.clip(found.probability, 0, 1)).float()
    finite = bool(torch.isfinite(confidence).all())
    error = binary_calibration_error(confidence, torch.from_numpy(found.right).long(), n_bins=BINS) if finite else None
    return {
        "top5": float((found.rank <= 5).mean()) if len(found.classes) > 5 else None,
        "balanced_accuracy": float(each.mean()),
        "calibration_error": None if error is None else float(error),
        "nll": float(found.loss.mean()),
    }
