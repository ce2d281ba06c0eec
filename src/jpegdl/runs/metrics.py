"""What predictions say beyond accuracy."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from jpegdl.runs.predictions import Predictions, confusion

BINS = 15  # of confidence, in the calibration error


def calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float | None:
    """Compute how far confidence, 0 to 1, and accuracy are apart, (images,) both: the mean over bins, weighed by their images.

    Returns:
        It; None where a confidence is not finite.

    Source: Naeini et al. 2015, "Obtaining well calibrated probabilities using Bayesian binning"; 15 bins, and 1.0 alone.
    """
    if not np.isfinite(confidence).all():
        return None
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1), np.clip(confidence, 0, 1), side="right") - 1
    return float(np.abs(np.bincount(bins, right - np.clip(confidence, 0, 1))).sum() / len(confidence))


def describe(found: Predictions) -> dict[str, Any]:
    """Compute what a test says beyond accuracy; all but ``nll`` are shares, 0 to 1.

    Returns:
        ``top5``: the image's own class is among the five likeliest (None with five classes or fewer); ``balanced_accuracy``,
        the mean of the classes' own accuracies, over classes with test images; ``calibration_error``, the expected one
        (:func:`calibration_error`); ``nll``, the negative log-likelihood in nats, the mean cross-entropy.
    """
    counts = confusion(found)
    images = counts.sum(1)
    each = counts.diagonal()[images > 0] / images[images > 0]
    return {
        "top5": float((found.rank <= 5).mean()) if len(found.classes) > 5 else None,
        "balanced_accuracy": float(each.mean()),
        "calibration_error": calibration_error(found.probability, found.right),
        "nll": float(found.loss.mean()),
    }
