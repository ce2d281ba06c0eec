"""What a run starts with, what it writes down while it trains, and how far it says it is."""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import filelock
import lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.loggers import Logger, TensorBoardLogger
from torch import Tensor, nn

from jpegdl.errors import UsageError
from jpegdl.extras import installed
from jpegdl.layer import JpegLayer, describe_tables
from jpegdl.runs.folder import RunFolder
from jpegdl.runs.progress import Display, Standing
from jpegdl.runs.record import share
from jpegdl.training.module import JointTraining

_STOPPED = "jpegdl_stopped"  # in the checkpoint: whether a callback has ended training with this epoch


class Start(Callback):
    """What a run starts with as soon as its processes are connected: its layer, and only then its folder.

    Args:
        make_layer: gives the layer, which takes the place of the model's.
        size: side of the square images that it will see, in pixels.
        folder: where the first process writes its log.
        begin: called by the first process, before anything else is written there.
        make_loggers: gives the user's own loggers, which are told the settings.
        settings: of the run.

    Attributes:
        before: the layer's tables, from :func:`jpegdl.layer.describe_tables`.
        loggers: the user's own.
    """

    def __init__(
        self,
        make_layer: Callable[[], nn.Module],
        size: int,
        folder: Path,
        begin: Callable[[], None],
        make_loggers: Callable[[], list[Logger]],
        settings: dict[str, Any],
    ) -> None:
        self.make_layer, self.size, self.folder, self.begin = make_layer, size, folder, begin
        self.make_loggers, self.settings = make_loggers, settings
        self.before: dict[str, Any] = {}
        self.loggers: list[Logger] = []

    def setup(self, trainer: lightning.Trainer, module: JointTraining, stage: str) -> None:  # type: ignore[override]
        if stage != "fit":  # a last test
            return
        layer = self.make_layer()
        module.model.layer = layer
        module.to(trainer.strategy.root_device)  # an average of the model is set up after this, and stays where it finds it
        if module.idle:
            trainer.fit_loop.max_epochs = 1
        self.before = describe_tables(layer)
        _load_kernels(layer, self.size, trainer.strategy.root_device)
        if trainer.is_global_zero:
            self.begin()
        with _one_by_one(self.folder, self.settings["training"]["loggers"]):
            self._make_loggers(trainer)
        events = [_Logger(self.folder)] if installed("tensorboard") else []
        trainer.loggers = [*events, *self.loggers]

    def _make_loggers(self, trainer: lightning.Trainer) -> None:
        # A logger that the trainer had from the beginning would have made the folder.
        self.loggers = self.make_loggers()
        for logger in self.loggers:
            if logger.log_dir is not None and Path(logger.log_dir).absolute() == self.folder.absolute():
                raise UsageError(
                    f"training.loggers: {type(logger).__name__} would write among the run's own files in {self.folder}: give "
                    "it a folder of its own there, by its name or version"
                )
            if trainer.is_global_zero:
                logger.log_hyperparams(self.settings)


class EndAtOnce(Callback):
    """Has SIGTERM end the processes that train one model as it did before training, in place of Lightning's own way.

    Lightning's handler hands a tensor from process to process wherever the signal happens to interrupt the first. Within an
    exchange between them, each then waits for what the other does not send, for ever. Only a script under Slurm that leaves
    SIGTERM to Lightning keeps Lightning's handler, which lets the job be queued again.
    """

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        self._before = signal.getsignal(signal.SIGTERM)

    def on_train_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        # Lightning has set its handler just before this, and sets back what was there when it is done.
        if trainer.world_size == 1 or threading.current_thread() is not threading.main_thread():
            return
        if self._before is not None and (callable(self._before) or "SLURM_JOB_ID" not in os.environ):
            signal.signal(signal.SIGTERM, self._before)

    on_validation_start = on_train_start


def _one_by_one(folder: Path, loggers: Any) -> AbstractContextManager[Any]:
    """Keep runs that begin at a time from making one database of MLflow's at a time."""
    if not any(str(entry["class_path"]).endswith("MLFlowLogger") for entry in loggers):
        return nullcontext()
    locks = folder.absolute().parent.parent / "locks"
    locks.mkdir(parents=True, exist_ok=True)
    return filelock.FileLock(locks / "mlflow")


def _load_kernels(layer: nn.Module, size: int, device: torch.device) -> None:
    """Take the layer forward and backward once, so that the time of training does not include loading its kernels."""
    parameters = [parameter for parameter in layer.parameters() if parameter.requires_grad]
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), torch.enable_grad():
        output = layer(torch.full((1, 3, size, size), 0.5, device=device))
        if parameters:
            torch.autograd.grad(output.sum(), parameters, allow_unused=True)


class _Logger(TensorBoardLogger):
    """TensorBoard events beside the run's other files, where it is installed; the settings are in config.yaml already."""

    NAME_HPARAMS_FILE = "config.yaml"

    def __init__(self, folder: Path) -> None:
        # An interrupt at the wrong moment makes the writer wait until its next flush, which by default is after two minutes.
        super().__init__(folder, name="", version="", default_hp_metric=False, flush_secs=5)


class History(Callback):
    """The run's record, one entry per epoch: ``metrics.csv``, and ``layer.npz`` with the layer's tables where it has one for
    each of Y, Cb and Cr.

    The latter holds ``epoch``, ``steps``, ``alpha`` and ``saturation`` (the share of coefficients at the level cap, over the
    epoch's last training batch), the last three of shape (epochs, 3, 8, 8) for Y, Cb, Cr; as they train, where what is tested
    is an average. Only the rows of tested epochs have test metrics; where images are held out, these are ``val_loss`` and
    ``val_accuracy``, and the last row has those of the test beside them. The record lives in the checkpoint and both files are
    written whole, so that a resumed run has neither gaps nor repeats, and no epoch more where a callback had stopped training.
    ``seconds`` is the time spent on training batches alone; ``test_saturation``, ``test_grey`` and ``counts`` are those of
    :class:`JointTraining`, at the last test.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.rows: list[dict[str, float]] = []
        self.tables: list[dict[str, Any]] = []
        self.seconds = 0.0
        self.test_saturation: list[Any] | None = None
        self.test_grey: bool | None = None
        self.counts: dict[str, tuple[int, int]] = {}
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

    def on_validation_end(self, trainer: lightning.Trainer, module: JointTraining) -> None:  # type: ignore[override]
        self._tested = True
        self.test_saturation = None if module.test_saturation is None else module.test_saturation.tolist()
        self.test_grey, self.counts = module.test_grey, {**self.counts, **module.counts}

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: JointTraining) -> None:  # type: ignore[override]
        epoch = trainer.current_epoch + 1
        row = {"epoch": epoch, "seconds": self.seconds}
        row |= {
            name: float(value)
            for name, value in trainer.callback_metrics.items()
            if self._tested or not name.startswith(("test_", "val_"))
        }
        if self._tested:
            row[f"{module.part}_accuracy"] = share(*self.counts[module.part])
        self._tested = False
        entry = self._tables(trainer, module)
        means = _means(entry)
        module.log_dict(means, sync_dist=True)  # the same in all processes
        row |= {name: float(value) for name, value in means.items()}
        if "steps" in entry:
            self.tables.append({"epoch": epoch} | {name: table.float().cpu().numpy() for name, table in entry.items()})
        self.rows.append(row)
        if trainer.is_global_zero:
            self.write()

    def _tables(self, trainer: lightning.Trainer, module: JointTraining) -> dict[str, Tensor]:
        """Return what the layer has of ``saturation``, and of ``steps`` and ``alpha`` with one table a plane; each (3, 8,
        8)."""
        if module.saturation is None:
            return {}
        assert self._images is not None
        saturation = trainer.strategy.reduce(module.saturation(self._images), reduce_op="mean")
        assert isinstance(saturation, Tensor)
        layer = module.model.layer
        if not isinstance(layer, JpegLayer) or layer.steps.ndim > 3:
            return {"saturation": saturation}
        return {"steps": layer.steps.detach(), "alpha": layer.alpha.detach(), "saturation": saturation}

    def write(self) -> None:
        """Write both files."""
        self.folder.write_metrics(self.rows)
        if self.tables:
            self.folder.write_layer({name: np.stack([entry[name] for entry in self.tables]) for name in self.tables[0]})

    def on_save_checkpoint(self, trainer: lightning.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint[_STOPPED] = trainer.should_stop  # by now all callbacks but those that save have had their say

    def on_load_checkpoint(self, trainer: lightning.Trainer, module: Any, checkpoint: dict[str, Any]) -> None:
        if checkpoint.get(_STOPPED):
            trainer.fit_loop.max_epochs = checkpoint["epoch"] + 1

    def state_dict(self) -> dict[str, Any]:
        entries = [{name: np.asarray(value).tolist() for name, value in entry.items()} for entry in self.tables]
        return {
            "rows": self.rows,
            "tables": entries,
            "seconds": self.seconds,
            "test_saturation": self.test_saturation,
            "test_grey": self.test_grey,
            "counts": {part: list(counts) for part, counts in self.counts.items()},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows, self.seconds = state["rows"], state["seconds"]
        self.test_saturation, self.test_grey = state["test_saturation"], state["test_grey"]
        counts = state.get("counts") or {"test": state.get("test_counts")}  # of checkpoints of earlier versions, maybe none
        self.counts = {part: (found[0], found[1]) for part, found in counts.items() if found is not None}
        self.tables = [{name: np.asarray(value) for name, value in entry.items()} for entry in state["tables"]]


def _means(entry: dict[str, Tensor]) -> dict[str, Tensor]:
    """The columns of ``metrics.csv`` that come from tables."""
    means = {}
    if "steps" in entry:
        steps, hardness = entry["steps"], entry["alpha"] * entry["steps"] ** 2
        means = {
            "step_dc_luma": steps[0, 0, 0],
            "step_mean_luma": steps[0].mean(),
            "step_mean_chroma": steps[1].mean(),
            "hardness_mean_luma": hardness[0].mean(),
            "hardness_mean_chroma": hardness[1].mean(),
        }
    if "saturation" in entry:
        saturation = entry["saturation"]
        means |= {
            "saturation_dc_luma": saturation[0, 0, 0],
            "saturation_mean_luma": saturation[0].mean(),
            "saturation_mean_chroma": saturation[1:].mean(),
        }
    return means


class Progress(ProgressBar):
    """Tells a display how far the run is."""

    def __init__(self, display: Display) -> None:
        super().__init__()
        self._display, self._silent = display, False
        self._loss: float | None = None
        self._accuracy: float | None = None
        self._resumed = 0
        self._part = "test"

    def disable(self) -> None:
        """Lightning's way to silence processes other than the first."""
        self._silent = True

    def on_train_start(self, trainer: lightning.Trainer, *_: Any) -> None:
        self._resumed = trainer.current_epoch
        self._show(trainer, 0)

    def on_train_batch_end(self, trainer: lightning.Trainer, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._show(trainer, batch_idx + 1)

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: Any) -> None:
        found = trainer.callback_metrics
        self._loss = float(found["train_loss"])
        self._part = module.part
        if (accuracy := found.get(f"{self._part}_accuracy")) is not None:
            self._accuracy = float(accuracy)
        self._show(trainer, int(trainer.num_training_batches))

    def on_train_end(self, *_: Any) -> None:
        self._display.close()

    def on_exception(self, *_: Any) -> None:
        self._display.close()

    def _show(self, trainer: lightning.Trainer, batches: int) -> None:
        if self._silent:
            return
        each, epochs, epoch = int(trainer.num_training_batches), int(trainer.max_epochs or 0), trainer.current_epoch
        done = min(each * epoch + batches, each * epochs)
        part = "validation" if self._part == "val" else self._part
        shown = min(epoch + 1, epochs)
        self._display.show(Standing(done, each * epochs, shown, epochs, self._loss, self._accuracy, self._resumed, part))
