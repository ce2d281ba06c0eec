"""What a network's numbers for classes are: logits, probabilities, or a sigmoid's."""

from typing import Literal

from torch import Tensor

_MANY = 8  # classes


def kind_of_answers(answers: Tensor) -> Literal["logits", "probabilities", "sigmoid"]:
    """Judge what a network gives, by what it gives for a few images.

    Args:
        answers: (N, classes), one row for each image.

    Returns:
        "probabilities" if none is below 0 and each row adds up to 1. "sigmoid" if all are between 0 and 1, of so many classes
        that chance would hardly put logits there. Otherwise "logits".
    """
    if bool((answers >= 0).all()) and bool(((answers.sum(1) - 1).abs() < 1e-3).all()):
        return "probabilities"
    return "sigmoid" if answers.shape[1] >= _MANY and bool(((answers >= 0) & (answers <= 1)).all()) else "logits"
