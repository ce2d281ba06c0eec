"""One run, from its settings to a finished folder."""

import json
import platform
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning
import safetensors
import safetensors.torch
import timm
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging
from lightning.pytorch.plugins import LayerSync, MixedPrecision, TorchCheckpointIO
from timm.layers.norm_act import convert_sync_batchnorm
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from jpegdl.data import Data, DataConfig
from jpegdl.errors import UsageError
from jpegdl.files import replacing
from jpegdl.layer import PrependedModel, prepend
from jpegdl.training.callbacks import History, Progress, Start, named_tables
from jpegdl.training.config import LayerConfig, OptimizerConfig, RunConfig, TrainingConfig
from jpegdl.training.models import build_backbone
from jpegdl.training.module import JointTraining


class _SyncBatchNorm(LayerSync):
    """timm's conversion: torch's own, which the Trainer's option takes, loses the activations in timm's BatchNormAct2d."""

    def apply(self, model: nn.Module) -> nn.Module:
        return convert_sync_batchnorm(model)  # type: ignore[no-any-return, no-untyped-call]

    def revert(self, model: nn.Module) -> nn.Module:
        return model  # its weights alone are of use after training


class OneScale(MixedPrecision):
    """float16 with one loss scale for several optimizers: each unscales and steps, and :meth:`update` comes once a batch.

    Lightning's own updates the scale after each optimizer, when the gradients of the next still have the old one.
    """

    def optimizer_step(  # type: ignore[override]
        self, optimizer: Any, model: Any, closure: Callable[[], Any], **kwargs: Any
    ) -> Any:
        assert self.scaler is not None
        result = closure()
        self.scaler.unscale_(optimizer)
        self._after_closure(model, optimizer)
        self.scaler.step(optimizer, **kwargs)
        return result

    def update(self) -> None:
        """Adapt the scale, after all optimizers have stepped."""
        assert self.scaler is not None
        self.scaler.update()


class _WholeCheckpoints(TorchCheckpointIO):
    """Checkpoints that are there whole or not at all: Lightning's own go by way of another folder, maybe on another disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        with replacing(path) as file:
            torch.save(checkpoint, file)


def on_gpu(config: TrainingConfig) -> bool:
    """Whether training with these settings takes a GPU, as Lightning's Trainer decides."""
    return config.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


def _trainer(config: TrainingConfig, **options: Any) -> lightning.Trainer:
    precision: str | None = config.precision
    if precision == "16-mixed" and on_gpu(config):
        precision, options["plugins"] = None, [*(options.get("plugins") or []), OneScale("16-mixed", "cuda")]
    try:
        return lightning.Trainer(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.num_nodes,
            strategy=config.strategy,
            precision=precision,  # type: ignore[arg-type]
            enable_model_summary=False,
            use_distributed_sampler=False,  # the loaders give each process its share
            num_sanity_val_steps=0,
            **options,
        )
    except (ValueError, lightning.fabric.utilities.exceptions.MisconfigurationException) as error:
        raise UsageError(f"training.accelerator, devices, strategy or precision: {error}") from error


#: Settings that say where to compute, not what: they may change between the two halves of a resumed run.
_WHERE = ("data.path", "data.workers", "training.accelerator")


def _settings(config: RunConfig, arm: str, seed: int) -> dict[str, Any]:
    return {"arm": arm, "seed": seed, **asdict(config)}


def _read_settings(folder: Path) -> dict[str, Any] | None:
    file = folder / "config.yaml"
    if not file.is_file():
        return None
    try:
        settings = yaml.safe_load(file.read_text())
        if not isinstance(settings, dict):
            raise ValueError("no settings in it")
        return settings
    except (yaml.YAMLError, OSError, ValueError) as error:
        raise UsageError(f"{file} is damaged; delete {folder} to train that run again") from error


def read_config(folder: Path) -> RunConfig | None:
    """The settings of the run in ``folder``; None where there is none.

    Raises:
        UsageError: they are damaged.
    """
    settings = _read_settings(folder)
    if settings is None:
        return None
    try:
        training = dict(settings["training"])
        for name in ("optimizer", "layer_optimizer"):
            training[name] = OptimizerConfig(**training[name])
        return RunConfig(
            settings["backbone"],
            DataConfig(**settings["data"]),
            LayerConfig(**settings["layer"]),
            TrainingConfig(**training),
        )
    except (KeyError, TypeError) as error:
        raise UsageError(f"{folder / 'config.yaml'} is damaged; delete {folder} to train that run again") from error


def check_folder(config: RunConfig, folder: Path, arm: str, seed: int) -> None:
    """Refuse a folder that holds a run with other settings.

    Raises:
        UsageError: names the first setting that differs.
    """
    there = _read_settings(folder)
    if there is not None and (differing := _first_difference(there, _settings(config, arm, seed))):
        raise UsageError(f"{folder} holds a run with other settings ({differing}); give another --name, or delete the folder")


def _first_difference(there: Any, here: Any, path: str = "") -> str | None:
    if isinstance(there, dict) and isinstance(here, dict):
        for key in {**there, **here}:
            if found := _first_difference(there.get(key), here.get(key), f"{path}.{key}" if path else str(key)):
                return found
        return None
    return None if there == here or path in _WHERE else f"{path} was {there!r}, now {here!r}"


def train_run(
    config: RunConfig, data: Data, make_layer: Callable[[], nn.Module], folder: Path, arm: str, seed: int
) -> dict[str, Any]:
    """Train one arm with one seed, or resume where it was interrupted; leave a finished run folder.

    Args:
        config: all settings.
        data: made with the same seed.
        make_layer: gives an untrained layer; ``nn.Identity`` for a plain model. Called once the processes know one another,
            on the device of each; not where the run is finished.
        folder: the run's own folder. A ``result.json`` there means that the run is finished: it is returned as it is.
        arm: name of the arm, for the record.
        seed: of the backbone's initial weights and everything random in training.

    Returns:
        The result: accuracy (share of the test images, 0 to 1), loss, epochs, seconds spent on training batches, numbers of
        parameters (all of them; the layer's trainable ones), saturation (None where the layer has no cap), versions.

    Raises:
        UsageError: the loss is not finite, the folder holds other settings or a checkpoint that cannot be used.
        KeyboardInterrupt: interrupted; the same call resumes.
    """
    result_file = folder / "result.json"
    check_folder(config, folder, arm, seed)
    if result_file.is_file():
        return read_result(folder)
    training = config.training
    model = prepend(build_backbone(config.backbone, len(data.classes), seed, config.data.size), nn.Identity())
    module = JointTraining(model, training, len(data.classes), seed)
    start, history = Start(make_layer, folder, _settings(config, arm, seed)), History(folder)
    average = [] if training.ema is None else [WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(training.ema))]  # type: ignore[no-untyped-call]
    checkpoint = ModelCheckpoint(
        folder, "last", save_top_k=1, monitor=None, enable_version_counter=False, save_on_train_epoch_end=True
    )
    trainer = _trainer(
        training,
        max_epochs=training.epochs,
        check_val_every_n_epoch=training.test_every,
        callbacks=[start, *average, history, checkpoint, Progress(f"{arm}, seed {seed}:")],
        plugins=[_WholeCheckpoints(), *([_SyncBatchNorm()] if training.sync_batchnorm else [])],
        logger=False,
        log_every_n_steps=1,
    )
    if training.sync_batchnorm and trainer.strategy.root_device.type != "cuda":
        raise UsageError(f"training.sync_batchnorm needs GPUs, this run is on {trainer.strategy.root_device}")
    last = folder / "last.ckpt"
    _fit(trainer, module, data, last)
    if not trainer.is_global_zero:
        trainer.strategy.barrier()
        return read_result(folder)
    # What is kept is what was tested, the average where there is one; also where nothing was left to train.
    module.load_state_dict(torch.load(last, map_location="cpu", weights_only=True)["state_dict"])
    with replacing(folder / "model.safetensors") as file:
        file.write_bytes(safetensors.torch.save({name: tensor.contiguous() for name, tensor in model.state_dict().items()}))
    if start.before:
        with replacing(folder / "tables.json") as file:
            file.write_text(json.dumps({"before": start.before, "after": named_tables(model.layer)}))
    result = {
        "arm": arm,
        "seed": seed,
        "accuracy": history.rows[-1]["test_accuracy"],
        "loss": history.rows[-1]["test_loss"],
        "epochs": training.epochs,
        "train_seconds": history.seconds,
        "parameters": sum(p.numel() for p in model.parameters()),
        "layer_parameters": sum(p.numel() for p in model.layer.parameters() if p.requires_grad),
        "saturation": history.test_saturation,
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
            raise UsageError(f"checkpoint {last} is damaged; delete it to train that run from scratch") from error
    try:
        trainer.fit(module, data, ckpt_path=last if last.is_file() else None)
    except SystemExit as stop:  # Lightning's answer to Ctrl+C
        raise KeyboardInterrupt from stop


def read_result(folder: Path) -> dict[str, Any]:
    """The ``result.json`` of a finished run.

    Raises:
        UsageError: it is not there or damaged.
    """
    file = folder / "result.json"
    try:
        result: dict[str, Any] = json.loads(file.read_text())
        if not {"accuracy", "train_seconds", "layer_parameters", "saturation"} <= result.keys():
            raise ValueError("entries are missing")
        return result
    except (OSError, ValueError, AttributeError) as error:
        raise UsageError(f"{file} cannot be read ({error}); delete it to train that run again") from error
