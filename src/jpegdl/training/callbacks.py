"""What a run writes down and shows while it trains."""

import csv
import sys
import time
from pathlib import Path
from typing import Any

import lightning
import numpy as np
from lightning.pytorch.callbacks import Callback, ProgressBar
from torch import Tensor
from tqdm import tqdm

from jpegdl.files import replacing
from jpegdl.training.module import JointTraining


class History(Callback):
    """The run's record, an entry an epoch: ``metrics.csv``, and ``layer.npz`` with the layer's tables.

    The latter holds ``epoch``, ``steps``, ``alpha`` and ``saturation`` (the share of coefficients at the level cap, over the
    epoch's last training batch), the last three of shape (epochs, 3, 8, 8) for Y, Cb, Cr. Test metrics stand in the rows of
    tested epochs only. The record lives in the checkpoint and both files are written whole, so that a resumed run has neither
    gaps nor repeats. ``seconds`` is the time spent on training batches alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, float]] = []
        self.tables: list[dict[str, Any]] = []
        self.seconds = 0.0
        self._since = 0.0
        self._tested = False
        self._images: Tensor | None = None

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        self._since = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.seconds += time.perf_counter() - self._since
        self._images = batch[0]

    def on_train_epoch_start(self, trainer: lightning.Trainer, module: Any) -> None:
        if trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1  # the last epoch is always tested

    def on_validation_end(self, *_: Any) -> None:
        self._tested = True

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        epoch = trainer.current_epoch + 1
        row = {"epoch": epoch, "seconds": self.seconds}
        row |= {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if self._tested or not name.startswith("test_")
        }
        self._tested = False
        if isinstance(module, JointTraining) and module.jpeg is not None and self._images is not None:
            steps, alpha = module.jpeg.steps.detach(), module.jpeg.alpha.detach()
            saturation = trainer.strategy.reduce(module.jpeg.saturation(self._images), reduce_op="mean")
            assert isinstance(saturation, Tensor)
            means = {
                "step_dc_luma": steps[0, 0, 0],
                "step_mean_luma": steps[0].mean(),
                "step_mean_chroma": steps[1].mean(),
                "hardness_mean_luma": (alpha * steps**2)[0].mean(),
                "hardness_mean_chroma": (alpha * steps**2)[1].mean(),
                "saturation_dc_luma": saturation[0, 0, 0],
                "saturation_mean_luma": saturation[0].mean(),
                "saturation_mean_chroma": saturation[1:].mean(),
            }
            module.log_dict(means)
            row |= {name: float(value) for name, value in means.items()}
            entry = {"steps": steps, "alpha": alpha, "saturation": saturation}
            self.tables.append({"epoch": epoch} | {name: table.float().cpu().numpy() for name, table in entry.items()})
        self.rows.append(row)
        if trainer.is_global_zero:
            self._write()

    def _write(self) -> None:
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        with replacing(self.folder / "metrics.csv") as file, file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, names)
            writer.writeheader()
            writer.writerows(self.rows)
        if self.tables:
            columns = {name: np.stack([entry[name] for entry in self.tables]) for name in self.tables[0]}
            with replacing(self.folder / "layer.npz") as file, file.open("wb") as stream:
                np.savez_compressed(stream, **columns)  # type: ignore[arg-type]

    def state_dict(self) -> dict[str, Any]:
        entries = [{name: np.asarray(value).tolist() for name, value in entry.items()} for entry in self.tables]
        return {"rows": self.rows, "tables": entries, "seconds": self.seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows, self.seconds = state["rows"], state["seconds"]
        self.tables = [{name: np.asarray(value) for name, value in entry.items()} for entry in state["tables"]]


class Progress(ProgressBar):
    """One bar for the whole run, in batches, with the epoch, the loss and the last test accuracy."""

    def __init__(self, title: str) -> None:
        super().__init__()
        self.title, self.bar = title, tqdm(disable=True)

    def disable(self) -> None:
        """Lightning's way to silence the bars of processes other than the first."""
        self.title = ""

    def on_train_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        batches, epochs = int(trainer.num_training_batches), int(trainer.max_epochs or 0)
        self.bar = tqdm(
            total=batches * epochs,
            initial=batches * trainer.current_epoch,
            desc=self.title,
            disable=not self.title,
            file=sys.stderr,
            mininterval=0.1 if sys.stderr.isatty() else 30,
            bar_format="{desc} |{bar:20}| {percentage:3.0f}% [{elapsed}<{remaining}{postfix}]",
        )

    def on_train_batch_end(self, *_: Any) -> None:
        self.bar.update()

    def on_train_epoch_end(self, trainer: lightning.Trainer, *_: Any) -> None:
        shown = trainer.callback_metrics
        text = f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}, loss {shown['train_loss']:.3f}"
        if "test_accuracy" in shown:
            text += f", test accuracy {100 * shown['test_accuracy']:.1f} %"
        self.bar.set_postfix_str(text, refresh=False)

    def on_train_end(self, *_: Any) -> None:
        self.bar.close()

    def on_exception(self, *_: Any) -> None:
        self.bar.close()
