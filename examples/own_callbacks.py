"""A callback and a logger of your own beside Lightning's: nothing of the package is edited.

    cd examples
    jpegdl compare --config own_callbacks.yaml

own_callbacks.yaml beside this file names them as ``own_callbacks.StepsMoved`` and ``own_callbacks.Ledger``.
"""

import json
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from jpegdl import JpegLayer


class StepsMoved(Callback):
    """Logs how far the quantization steps are from where they started, as ``steps_moved``: their mean distance, or largest.

    What a callback logs is in metrics.csv, in TensorBoard, and goes to all loggers. Here the layer is ``module.model.layer``
    and the backbone ``module.model.backbone``; the plain arm has no JPEG layer.
    """

    def __init__(self, largest: bool = False) -> None:
        self.largest = largest
        self.start: Tensor | None = None

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        if self.start is None and isinstance(module.model.layer, JpegLayer):
            self.start = module.model.layer.luma.detach().cpu().clone()

    def on_train_epoch_end(self, trainer: Trainer, module: LightningModule) -> None:
        if self.start is not None:
            distance = (module.model.layer.luma.detach().cpu() - self.start).abs()
            module.log("steps_moved", distance.max() if self.largest else distance.mean())

    def state_dict(self) -> dict[str, Any]:
        """Kept in the checkpoint, so that a resumed run still knows where it started: numbers, text and tensors."""
        return {"start": self.start}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.start = state["start"]


class Ledger(Logger):
    """One line of JSON for each epoch, with the accuracy on the held-out images, in a file for each run."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = Path(file)
        self.run: dict[str, Any] = {}

    @property
    def name(self) -> str:
        return "ledger"

    @property
    def version(self) -> int:
        return 0

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any]) -> None:
        """Called once, with all settings, nested as in config.yaml."""
        self.run = {"arm": params["arm"], "seed": params["seed"]}

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if "val_accuracy" in metrics:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({**self.run, "accuracy": metrics["val_accuracy"]}) + "\n")
