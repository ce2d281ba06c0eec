"""What training minimises."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from jpegdl.layer import JpegLayer, PrependedModel
from jpegdl.runs.config import TrainingConfig
from jpegdl.training.rate_loss import RateEstimate


class Outcome(NamedTuple):
    """What an objective returns for a batch."""

    loss: Tensor  # scalar, to be minimised
    logits: Tensor  # (N, classes), the model's output
    parts: dict[str, Tensor]  # terms of the loss, each a scalar without a gradient, by the name they are logged under


class Objective(nn.Module):
    """The task's loss, cross-entropy with the targets smoothed where settings say so, and what files cost, where they do.

    Args:
        config: ``label_smoothing`` and ``rate`` count.

    Attributes:
        networks: other models, as they are and no part of the state, that judge what the layer lets through beside the model's
            own backbone: the task's loss is the mean over all.
    """

    def __init__(self, config: TrainingConfig) -> None:
        super().__init__()
        self.label_smoothing, self.weight = config.label_smoothing, config.rate.weight
        self.networks: list[PrependedModel] = []
        self.rate = RateEstimate(config.rate) if config.rate.weight else None

    def forward(self, model: PrependedModel, images: Tensor, target: Tensor) -> Outcome:
        """Take a batch through the model and judge its output.

        Args:
            model: a layer and a backbone, from images to logits.
            images: (N, 3, H, W) in [0, 1].
            target: class indices (N,), or the classes' shares (N, classes).
        """
        if not self.networks:
            logits: Any = model(images)
            loss = self._task(logits, target)
        else:
            seen = model.layer(images)
            logits = model.after_layer(seen)
            others = [network.to(seen.device).after_layer(seen) for network in self.networks]
            loss = torch.stack([self._task(answer, target) for answer in (logits, *others)]).mean()
        if self.rate is None or not isinstance(model.layer, JpegLayer):
            return Outcome(loss, logits, {})
        rate = self.rate(model.layer, images)
        return Outcome(loss + self.weight * rate, logits, {"task": loss.detach(), "bits_per_pixel": rate.detach()})

    def _task(self, logits: Tensor, target: Tensor) -> Tensor:
        return cross_entropy(logits, target, label_smoothing=self.label_smoothing)
