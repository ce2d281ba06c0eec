"""Joint training of a backbone and a layer: the Lightning module, its logs, and one run from start to finished folder."""

import csv
import json
import math
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import safetensors
import safetensors.torch
import timm
import torch
import yaml
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, MultiStepLR, OneCycleLR
from torchmetrics.classification import MulticlassAccuracy
from tqdm import tqdm

from jpegdl.calibrate import magnitude_tables
from jpegdl.data import Data, DataConfig
from jpegdl.errors import UsageError
from jpegdl.files import replacing
from jpegdl.layer import JpegLayer, PrependedModel, prepend
from jpegdl.tables import read_tables, standard_tables

# -------------------------------------------------------------------------------------------------------- settings


@dataclass
class LayerConfig:
    """The JPEG layer of the arm jpeg-dl.

    Args:
        tables: initial tables: sensitivity (from the plain model of the same seed), magnitude (from the training images), ones,
            standard:Q (the standard tables at quality Q, 1 to 100), or a file (JSON with luma and chroma, or a JPEG image).
        q_max: largest initial luma step of sensitivity tables, in JPEG table units.
        images: training images that sensitivity and magnitude tables are computed from, at most.
        alpha: softness of the quantizer, in 1 / step^2: one number, or two for luma and chroma. Default: 5, or tied to the
            steps where hardness is given.
        hardness: tie alpha = hardness / step^2 instead.
        bits: level cap 2^(bits-1) - 1; null for none.
        window: odd number of levels the soft quantizer sums over; null for all of them.
        rounding: soft, hard, sample, ste or noise.
        trainable_alpha: train alpha too, one for each frequency and table.
    """

    tables: str = "sensitivity"
    q_max: float = 5.0
    images: int = 5000
    alpha: float | list[float] | None = None
    hardness: float | None = None
    bits: int | None = 8
    window: int | None = 5
    rounding: str = "soft"
    trainable_alpha: bool = False


@dataclass
class OptimizerConfig:
    """An optimizer and its learning rate.

    Args:
        name: sgd, adam or adamw, as in torch.optim.
        lr: learning rate; with onecycle, its peak.
        momentum: of sgd.
        weight_decay: per step, times the learning rate.
        schedule: constant, cosine (to 0), onecycle (up over the first 30 percent, then to almost 0) or multistep.
        milestones: epochs at which multistep multiplies the learning rate by gamma.
        gamma: the factor of multistep.
    """

    name: str = "sgd"
    lr: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: str = "constant"
    milestones: list[int] = field(default_factory=list)
    gamma: float = 0.1


@dataclass
class TrainingConfig:
    """How long, with what and where to train.

    Args:
        epochs: passes over the training images.
        optimizer: of the backbone.
        layer_optimizer: of the layer's tables (and alpha, where trainable); weight decay 0, as published.
        test_every: epochs between two tests.
        accelerator, devices, num_nodes, strategy, precision: as Lightning's Trainer takes them.
    """

    epochs: int = 30
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(schedule="onecycle"))
    layer_optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(name="adam", lr=0.003, weight_decay=0.0)
    )
    test_every: int = 1
    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    precision: str = "32-true"


@dataclass
class RunConfig:
    """Everything that a single run's numbers depend on, but for arm and seed."""

    backbone: str = "cifar_resnet8"
    data: DataConfig = field(default_factory=DataConfig)
    layer: LayerConfig = field(default_factory=LayerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)


_OPTIMIZERS = ("sgd", "adam", "adamw")
_SCHEDULES = ("constant", "cosine", "onecycle", "multistep")


def check_config(config: RunConfig) -> None:
    """Refuse settings that would fail later.

    Raises:
        UsageError: names the setting, what it is and what it may be.
    """
    if not timm.is_model(config.backbone.split(".")[0]):
        similar = timm.list_models(f"*{config.backbone.split('.')[0][:6]}*")[:5]
        hint = f"; did you mean {', '.join(similar)}?" if similar else "; timm.list_models() has all names"
        raise UsageError(f"backbone {config.backbone!r} is no timm model{hint}")
    training = config.training
    for name in ("epochs", "test_every", "devices", "num_nodes"):
        if getattr(training, name) < 1:
            raise UsageError(f"training.{name} must be at least 1, got {getattr(training, name)}")
    for name in ("optimizer", "layer_optimizer"):
        optimizer: OptimizerConfig = getattr(training, name)
        if optimizer.name not in _OPTIMIZERS:
            raise UsageError(f"training.{name}.name must be one of {', '.join(_OPTIMIZERS)}, got {optimizer.name!r}")
        if optimizer.schedule not in _SCHEDULES:
            raise UsageError(f"training.{name}.schedule must be one of {', '.join(_SCHEDULES)}, got {optimizer.schedule!r}")
        if not optimizer.lr > 0 or not math.isfinite(optimizer.lr):
            raise UsageError(f"training.{name}.lr must be a finite number greater than 0, got {optimizer.lr}")
    table_source(config.layer)
    build_layer(config.layer, (torch.ones(8, 8), torch.ones(8, 8)))


# ----------------------------------------------------------------------------------------------------------- models


def build_backbone(name: str, classes: int, seed: int) -> nn.Module:
    """A timm model with random weights, the same for the same seed."""
    lightning.seed_everything(seed, verbose=False)
    return timm.create_model(name, pretrained=False, num_classes=classes)  # type: ignore[no-any-return]


def table_source(config: LayerConfig) -> str:
    """Which kind of initial tables: sensitivity, magnitude, ones, standard or file.

    Raises:
        UsageError: neither a known kind nor an existing file.
    """
    kind, _, quality = config.tables.partition(":")
    if config.tables in ("sensitivity", "magnitude", "ones"):
        return config.tables
    if kind == "standard" and quality.isdecimal() and 1 <= int(quality) <= 100:
        return "standard"
    if Path(config.tables).is_file():
        return "file"
    raise UsageError(
        "layer.tables must be sensitivity, magnitude, ones, standard:Q with Q from 1 to 100, or an existing file, "
        f"got {config.tables!r}"
    )


def initial_tables(config: LayerConfig, data: Data) -> tuple[Tensor, Tensor]:
    """The (luma, chroma) tables that need no trained model: every kind but sensitivity."""
    kind = table_source(config)
    if kind == "ones":
        return torch.ones(8, 8), torch.ones(8, 8)
    if kind == "standard":
        return standard_tables(int(config.tables.partition(":")[2]))
    if kind == "file":
        return read_tables(config.tables)
    if kind == "magnitude":
        return magnitude_tables(data.calibration_dataloader(), bits=config.bits or 11, images=config.images)
    raise UsageError("sensitivity tables need a trained plain model: see jpegdl.calibrate.sensitivity_tables")


def build_layer(config: LayerConfig, tables: tuple[Tensor, Tensor]) -> JpegLayer:
    """The layer of a config, with its initial (luma, chroma) tables."""
    options: dict[str, Any] = {}
    if isinstance(config.alpha, list):
        if len(config.alpha) != 2:
            raise UsageError(f"layer.alpha must be one number, or two for luma and chroma, got {config.alpha}")
        options["alpha"] = tuple(config.alpha)
    elif config.alpha is not None:
        options["alpha"] = config.alpha
    return JpegLayer(
        *tables,
        hardness=config.hardness,
        bits=config.bits,
        window=config.window,
        rounding=config.rounding,
        trainable_alpha=config.trainable_alpha,
        **options,
    )


def load_model(file: Path, model: PrependedModel) -> None:
    """Load a run's ``model.safetensors`` into a model built from its config.

    Raises:
        UsageError: no such file, not a safetensors file, or the weights of another architecture.
    """
    if not file.is_file():
        raise UsageError(f"no model file {file}; train it first")
    try:
        state = safetensors.torch.load_file(file)
    except (safetensors.SafetensorError, OSError) as error:
        raise UsageError(f"{file} is not a safetensors file that can be read ({error})") from error
    own = model.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    other = [f"{k}: {tuple(state[k].shape)} for {tuple(own[k].shape)}" for k in own if k in state and state[k].shape != own[k].shape]
    if missing or extra or other:
        found = other[0] if other else f"{missing[0]} missing" if missing else f"{extra[0]} unknown"
        raise UsageError(
            f"{file} holds another architecture than asked for ({found}, {len(missing) + len(extra) + len(other)} in all); "
            "give the arm, backbone and data it was trained with"
        )
    model.load_state_dict(state)


# ------------------------------------------------------------------------------------------------- Lightning module


def _optimizer(config: OptimizerConfig, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    if config.name == "sgd":
        return torch.optim.SGD(parameters, config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    kind = torch.optim.Adam if config.name == "adam" else torch.optim.AdamW
    return kind(parameters, config.lr, weight_decay=config.weight_decay)


def _scheduler(config: OptimizerConfig, optimizer: torch.optim.Optimizer, epochs: int, steps: int) -> LRScheduler:
    """A scheduler to be stepped after every batch; ``steps`` batches in all."""
    if config.schedule == "onecycle":
        return OneCycleLR(optimizer, config.lr, total_steps=steps + 1, cycle_momentum=False)
    if config.schedule == "cosine":
        return CosineAnnealingLR(optimizer, steps)
    if config.schedule == "multistep":
        return MultiStepLR(optimizer, [milestone * (steps // epochs) for milestone in config.milestones], config.gamma)
    return ConstantLR(optimizer, factor=1.0, total_iters=0)


class JointTraining(lightning.LightningModule):
    """Cross-entropy training of backbone and layer together, each with its own optimizer.

    After every step the layer's parameters are projected to their range. Training stops, before any parameter is touched, at
    a loss that is not finite.

    Args:
        model: from :func:`jpegdl.prepend`.
        config: optimizers and schedules.
        classes: number of classes.
        seed: of everything random during an epoch (dropout, random quantizers), drawn anew from (seed, epoch).
    """

    def __init__(self, model: PrependedModel, config: TrainingConfig, classes: int, seed: int) -> None:
        super().__init__()
        self.automatic_optimization = False  # two optimizers
        self.model, self.config, self.seed = model, config, seed
        self.jpeg = model.layer if isinstance(model.layer, JpegLayer) else None
        self.train_accuracy = MulticlassAccuracy(classes, average="micro")
        self.test_accuracy = MulticlassAccuracy(classes, average="micro")
        self.saturation_table: Tensor | None = None

    def configure_optimizers(self) -> Any:
        steps = int(self.trainer.estimated_stepping_batches)
        parts = [(self.config.optimizer, list(self.model.backbone.parameters()))]
        if layer_parameters := list(self.model.layer.parameters()):
            parts.append((self.config.layer_optimizer, layer_parameters))
        optimizers = [_optimizer(config, parameters) for config, parameters in parts]
        schedulers = [
            _scheduler(config, optimizer, self.config.epochs, steps)
            for (config, _), optimizer in zip(parts, optimizers, strict=True)
        ]
        return optimizers, schedulers

    def on_train_epoch_start(self) -> None:
        torch.manual_seed(((self.seed * 1_000_003 + self.current_epoch) * 1_009 + self.global_rank) % 2**63)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, target = batch
        logits = self.model(images)
        loss = cross_entropy(logits, target)
        if not torch.isfinite(loss):
            pixels = "all pixels are finite" if torch.isfinite(images).all() else "the batch has pixels that are NaN or infinite"
            raise UsageError(
                f"the loss is {float(loss)} in epoch {self.current_epoch + 1}, step {batch_idx + 1} ({pixels}); training stopped "
                "before it reached any parameter. A smaller learning rate is the usual way out; the last finished epoch is saved"
            )
        optimizers = self.optimizers()
        optimizers = optimizers if isinstance(optimizers, list) else [optimizers]
        for optimizer in optimizers:
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in optimizers:
            optimizer.step()
        if self.jpeg is not None:
            self.jpeg.project_()
        schedulers: Any = self.lr_schedulers()
        for scheduler in schedulers if isinstance(schedulers, list) else [schedulers]:
            scheduler.step()
        self.train_accuracy(logits, target)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(images), sync_dist=True)
        self.log("train_accuracy", self.train_accuracy, on_step=False, on_epoch=True, batch_size=len(images))

    def on_validation_epoch_start(self) -> None:
        if self.jpeg is not None:
            self.saturation_table = torch.zeros(3, 8, 8, dtype=torch.float64)
            self._saturation_images = 0

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        images, target = batch
        logits = self.model(images)
        self.test_accuracy(logits, target)
        self.log("test_loss", cross_entropy(logits, target), batch_size=len(images), sync_dist=True)
        self.log("test_accuracy", self.test_accuracy, batch_size=len(images))
        if self.jpeg is not None and self.saturation_table is not None:
            self.saturation_table += self.jpeg.saturation(images).double().cpu() * len(images)
            self._saturation_images += len(images)

    def on_validation_epoch_end(self) -> None:
        if self.jpeg is None or self.saturation_table is None:
            return
        self.saturation_table /= max(self._saturation_images, 1)
        steps, hardness = self.jpeg.steps.detach(), (self.jpeg.alpha * self.jpeg.steps**2).detach()
        for row, name in ((0, "luma"), (2, "chroma")):
            self.log(f"step_dc_{name}", steps[row, 0, 0])
            self.log(f"step_mean_{name}", steps[row].mean())
            self.log(f"hardness_mean_{name}", hardness[row].mean())
        self.log("saturation_dc_luma", self.saturation_table[0, 0, 0].float())
        self.log("saturation_mean_luma", self.saturation_table[0].mean().float())
        self.log("saturation_mean_chroma", self.saturation_table[1:].mean().float())


# -------------------------------------------------------------------------------------------------------- callbacks


class History(Callback):
    """The run's record: ``metrics.csv`` (a row an epoch) and ``layer.npz`` (steps, alpha and saturation, an entry a test).

    It lives in the checkpoint and both files are written whole each epoch, so that a resumed run has neither gaps nor
    repeats. ``seconds`` is the time spent on training batches alone.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: list[dict[str, float]] = []
        self.tables: list[dict[str, Any]] = []
        self.seconds = 0.0
        self._since = 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        self._since = time.perf_counter()

    def on_train_batch_end(self, *_: Any) -> None:
        self.seconds += time.perf_counter() - self._since

    def on_train_epoch_end(self, trainer: lightning.Trainer, module: lightning.LightningModule) -> None:
        row = {"epoch": trainer.current_epoch + 1, "seconds": self.seconds}
        row |= {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.rows.append(row)
        assert isinstance(module, JointTraining)
        if module.jpeg is not None and module.saturation_table is not None:
            self.tables.append(
                {
                    "epoch": trainer.current_epoch + 1,
                    "steps": module.jpeg.steps.detach().cpu().numpy(),
                    "alpha": module.jpeg.alpha.detach().cpu().numpy(),
                    "saturation": module.saturation_table.numpy(),
                }
            )
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
                np.savez_compressed(stream, **columns)

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


# -------------------------------------------------------------------------------------------------------------- run


def _trainer(config: TrainingConfig, **options: Any) -> lightning.Trainer:
    try:
        return lightning.Trainer(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.num_nodes,
            strategy=config.strategy,
            precision=config.precision,  # type: ignore[arg-type]
            enable_model_summary=False,
            num_sanity_val_steps=0,
            **options,
        )
    except (ValueError, lightning.fabric.utilities.exceptions.MisconfigurationException) as error:
        raise UsageError(f"training.accelerator, devices, strategy or precision: {error}") from error


def run_folder_check(folder: Path, settings: dict[str, Any]) -> None:
    """Claim a run folder for these settings: write them there, or see that they are the ones already there.

    Raises:
        UsageError: the folder holds a run with other settings; names the first that differs.
    """
    file = folder / "config.yaml"
    if file.is_file():
        differing = _first_difference(yaml.safe_load(file.read_text()), settings)
        if differing:
            raise UsageError(f"{folder} holds a run with other settings ({differing}); give another --name, or delete the folder")
        return
    with replacing(file) as temporary:
        temporary.write_text(yaml.safe_dump(settings, sort_keys=False))


def _first_difference(there: Any, here: Any, path: str = "") -> str | None:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in {**there, **here}:
            if found := _first_difference(there.get(key), here.get(key), f"{path}.{key}" if path else str(key)):
                return found
        return None
    return None if there == here else f"{path} was {there!r}, now {here!r}"


def train_run(
    config: RunConfig, data: Data, make_layer: Callable[[], nn.Module], folder: Path, arm: str, seed: int
) -> dict[str, Any]:
    """Train one arm with one seed, or resume where it was interrupted; leave a finished run folder.

    Args:
        config: all settings.
        data: made with the same seed.
        make_layer: gives an untrained layer; ``nn.Identity`` for a plain model. Not called where the run is finished.
        folder: the run's own folder. A ``result.json`` there means that the run is finished: it is returned as it is.
        arm: name of the arm, for the record.
        seed: of the backbone's initial weights and everything random in training.

    Returns:
        The result: accuracy (share of the test images, 0 to 1), loss, epochs, seconds spent on training batches, numbers of
        parameters, versions.

    Raises:
        UsageError: the loss is not finite, the folder holds other settings or a checkpoint that cannot be used.
        KeyboardInterrupt: interrupted; the same call resumes.
    """
    result_file = folder / "result.json"
    run_folder_check(folder, {"arm": arm, "seed": seed, **asdict(config)})
    if result_file.is_file():
        return read_result(folder)
    layer = make_layer()
    model = prepend(build_backbone(config.backbone, len(data.classes), seed), layer)
    before = _named_tables(layer)
    module = JointTraining(model, config.training, len(data.classes), seed)
    history = History(folder)
    checkpoint = ModelCheckpoint(
        folder, "last", save_top_k=1, monitor=None, enable_version_counter=False, save_on_train_epoch_end=True
    )
    trainer = _trainer(
        config.training,
        max_epochs=config.training.epochs,
        check_val_every_n_epoch=config.training.test_every,
        callbacks=[history, checkpoint, Progress(f"{arm}, seed {seed}:")],
        logger=TensorBoardLogger(folder, name="", version="", default_hp_metric=False),
        log_every_n_steps=1,
    )
    _fit(trainer, module, data, folder / "last.ckpt")
    if not trainer.is_global_zero:
        trainer.strategy.barrier()
        return read_result(folder)
    if not history.rows or "test_accuracy" not in history.rows[-1]:
        raise UsageError(f"training.test_every = {config.training.test_every} leaves the last epoch, {config.training.epochs}, untested")
    with replacing(folder / "model.safetensors") as file:
        safetensors.torch.save_file({k: v.contiguous() for k, v in model.state_dict().items()}, file)
    if before:
        with replacing(folder / "tables.json") as file:
            file.write_text(json.dumps({"before": before, "after": _named_tables(layer)}))
    result = {
        "arm": arm,
        "seed": seed,
        "accuracy": history.rows[-1]["test_accuracy"],
        "loss": history.rows[-1]["test_loss"],
        "epochs": config.training.epochs,
        "train_seconds": history.seconds,
        "parameters": sum(p.numel() for p in model.parameters()),
        "layer_parameters": sum(p.numel() for p in layer.parameters()),
        "saturation": history.tables[-1]["saturation"].tolist() if history.tables else None,
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "timm": timm.__version__},
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {type(trainer.accelerator).__name__}",
    }
    with replacing(result_file) as file:
        file.write_text(json.dumps(result, indent=1))
    trainer.strategy.barrier()
    return result


def evaluate(model: PrependedModel, data: Data, config: TrainingConfig) -> dict[str, float]:
    """Accuracy (share of the test images, 0 to 1) and mean cross-entropy of a model on the test images."""
    module = JointTraining(model, config, len(data.classes), seed=0)
    trainer = _trainer(config, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    (metrics,) = trainer.validate(module, data, verbose=False)
    return {"accuracy": metrics["test_accuracy"], "loss": metrics["test_loss"]}


def _fit(trainer: lightning.Trainer, module: JointTraining, data: Data, last: Path) -> None:
    """Train from ``last`` where it exists, else from scratch."""
    if last.is_file():
        try:
            torch.load(last, map_location="meta", weights_only=True)
        except Exception as error:  # torch.load raises whatever its unpickler met
            raise UsageError(f"checkpoint {last} cannot be read ({error}); delete it to train that run from scratch") from error
    try:
        trainer.fit(module, data, ckpt_path=last if last.is_file() else None)
    except SystemExit as stop:  # Lightning's answer to Ctrl+C
        raise KeyboardInterrupt from stop


def _named_tables(layer: nn.Module) -> dict[str, list[list[float]]]:
    if not isinstance(layer, JpegLayer):
        return {}
    luma_alpha, chroma_alpha = layer.alpha[0], layer.alpha[2]
    named = {"luma": layer.luma, "chroma": layer.chroma, "alpha_luma": luma_alpha, "alpha_chroma": chroma_alpha}
    return {name: table.detach().cpu().tolist() for name, table in named.items()}


def read_result(folder: Path) -> dict[str, Any]:
    """The ``result.json`` of a finished run.

    Raises:
        UsageError: it is not there or damaged.
    """
    file = folder / "result.json"
    try:
        return json.loads(file.read_text())  # type: ignore[no-any-return]
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read ({error}); delete it to train that run again") from error
