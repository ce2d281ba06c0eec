"""One run, from its settings to a finished folder."""

import pickle
import platform
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, WeightAveraging
from lightning.pytorch.plugins import LayerSync, MixedPrecision, TorchCheckpointIO
from timm.layers.norm_act import convert_sync_batchnorm
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from jpegdl.data import Data
from jpegdl.data.loaders import TestImages
from jpegdl.errors import UsageError
from jpegdl.files import replacing
from jpegdl.layer import describe_tables, prepend
from jpegdl.processes import end_with_starter, quiet, room_for_images, starting
from jpegdl.runs.config import RunConfig
from jpegdl.runs.device import trainer_device
from jpegdl.runs.folder import RunFolder
from jpegdl.runs.metrics import describe
from jpegdl.runs.predictions import Predictions, predictions_file, write_predictions
from jpegdl.runs.progress import Display, Line
from jpegdl.runs.record import digests_of_code, settings_of, share, versions
from jpegdl.tables import before_and_after
from jpegdl.training.callbacks import EndAtOnce, History, Progress, Start
from jpegdl.training.module import JointTraining
from jpegdl.training.plugins import ending_wandb_runs, make_own, naming
from jpegdl.training.starting_weights import check_head, other_networks, starting_backbone
from jpegdl.user_code import blamed, said


class _SyncBatchNorm(LayerSync):
    """timm's conversion: torch's own, which the Trainer's option takes, loses the activations in timm's BatchNormAct2d."""

    def apply(self, model: nn.Module) -> nn.Module:
        return convert_sync_batchnorm(model)  # type: ignore[no-any-return, no-untyped-call]

    def revert(self, model: nn.Module) -> nn.Module:
        return model  # after training only its weights are needed


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
    """Checkpoints that are there whole or not at all: Lightning's own go by way of another folder, maybe on another disk.

    The first is read back, so that a callback whose state would keep the run from being resumed is found out in time.
    """

    _tried = False

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        with replacing(path) as file:
            with file.open("wb") as stream:  # given a path, torch.save hides why it cannot write
                torch.save(checkpoint, stream)
            if not self._tried:
                _try(file)
                self._tried = True


def _try(file: Path) -> None:
    try:
        torch.load(file, map_location="meta", weights_only=True)
    except pickle.UnpicklingError as error:
        reason = str(error).partition("WeightsUnpickler error: ")[2].partition("\n")[0]
        raise UsageError(
            "training.callbacks: what a callback puts into the checkpoint (state_dict, on_save_checkpoint) must be numbers, "
            f"text, tensors, and lists and dictionaries of these, or the run could not be resumed: {reason}"
        ) from error


def make_trainer(run: RunConfig, **options: Any) -> lightning.Trainer:
    """Make Lightning's Trainer as a run's settings have it, with further options.

    Raises:
        UsageError: a device, a precision or a strategy that it refuses, in one line.
    """
    config = run.training
    end_with_starter()
    where = trainer_device(run.device, config.devices)
    precision: str | None = config.precision
    if precision == "16-mixed" and where["accelerator"] == "cuda":
        precision, options["plugins"] = None, [*(options.get("plugins") or []), OneScale("16-mixed", "cuda")]
    options["callbacks"] = [EndAtOnce(), *(options.get("callbacks") or [])]
    try:
        return lightning.Trainer(
            **where,
            num_nodes=config.num_nodes,
            strategy=config.strategy,
            precision=precision,  # type: ignore[arg-type]
            enable_model_summary=False,
            use_distributed_sampler=False,  # the loaders give each process its share
            num_sanity_val_steps=0,
            **options,
        )
    except (ValueError, ImportError, lightning.fabric.utilities.exceptions.MisconfigurationException) as error:
        raise UsageError(f"training.devices, strategy or precision: {' '.join(str(error).split())}") from error
    except RuntimeError as error:
        if "stateful callback" not in str(error):
            raise
        raise UsageError(f"training.callbacks: {error} One ModelCheckpoint without a monitor is the run's own.") from error


def check_trainers(configs: Sequence[RunConfig]) -> None:
    """Refuse what Lightning's Trainer does, before any run begins: a device, a precision, a strategy.

    Several processes that train one run say it themselves, as each has its own trainer from the start.

    Raises:
        UsageError: in one line, what it says.
    """
    each = [(config, config.training) for config in configs]
    different = {(c.device, t.devices, t.num_nodes, t.strategy, t.precision): c for c, t in each}
    with quiet(*LIGHTNING):
        for config in different.values():
            if config.training.devices * config.training.num_nodes == 1:
                make_trainer(config, logger=False, enable_checkpointing=False, enable_progress_bar=False)


#: Lightning tells which devices there are, and how it ended, for each of its trainers: here that is too often.
LIGHTNING = ("lightning.pytorch", "lightning.fabric")


@ending_wandb_runs()
@quiet(*LIGHTNING)
def train_run(
    config: RunConfig,
    data: Data,
    make_layer: Callable[[], nn.Module],
    folder: RunFolder,
    arm: str,
    seed: int,
    display: Display | None = None,
    watching: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Train one arm with one seed, or resume it where it was interrupted, and return its result.

    Args:
        config: all settings.
        data: made with the same seed.
        make_layer: returns an untrained layer; ``nn.Identity`` for a plain model. It is called on the device of each process,
            once the processes are connected; not at all if the run is finished.
        folder: the run's own. A result there means that the run is finished: it is returned as it is.
        arm: name of the arm, for the record.
        seed: of the backbone's initial weights and everything random in training.
        display: shows how far the run is. Default: a line on stderr.
        watching: callbacks besides the user's own. They are not settings, since they change only when training ends.

    Returns:
        The content of ``result.json``:

        - ``accuracy`` (0 to 1), ``correct``, ``images`` and ``loss`` of the test images; ``validation``, the same four of the
          validation images, if there are any.
        - ``metrics``: see :func:`jpegdl.runs.metrics.describe`. ``predictions.csv`` has the prediction for each image.
        - the epochs trained, the seconds spent on training batches, the numbers of parameters (all, and the layer's trainable
          ones), and the head: own, selected or new, see :func:`jpegdl.training.starting_weights.starting_backbone`.
        - the saturation of the layer (None without a level cap), and whether the test images are grey.
        - the data, the versions, and digests of the user's own ``code``, by module.

    Raises:
        UsageError: the loss is not finite, a callback or logger fails, the folder holds other settings, other data or a
            checkpoint that cannot be used.
        KeyboardInterrupt: interrupted; the same call resumes.
    """
    training, found = config.training, data.fingerprint
    folder.check(config, arm, seed)
    folder.check_data(found, config)
    if folder.finished:
        return folder.result()
    data.load()
    backbone, head = starting_backbone(config, data.classes, seed)
    check_head(config, head)
    model = prepend(backbone, nn.Identity())
    module = JointTraining(model, training, len(data.classes), seed)
    module.part = "test" if data.validation is None and not data.blinded else "val"
    module.objective.networks = other_networks(config, data.classes)
    comparison = folder.path.absolute().parent.parent
    places = {"arm": arm, "seed": seed, "folder": folder.path, "name": comparison.name, "comparison": comparison}
    callbacks = make_own(training.callbacks, "callbacks", places)
    start = Start(
        make_layer,
        config.data.pixels,
        folder.path,
        lambda: folder.begin(config, arm, seed, found),
        lambda: make_own(training.loggers, "loggers", places),
        settings_of(config, arm, seed),
    )
    history = History(folder)
    average = [] if training.ema is None else [WeightAveraging(multi_avg_fn=get_ema_multi_avg_fn(training.ema))]  # type: ignore[no-untyped-call]
    checkpoint = ModelCheckpoint(
        folder.path, "last", save_top_k=1, monitor=None, enable_version_counter=False, save_on_train_epoch_end=True
    )
    trainer = make_trainer(
        config,
        max_epochs=training.epochs,
        check_val_every_n_epoch=training.test_every,
        callbacks=[
            start,
            *average,
            *callbacks,
            *watching,
            history,
            Progress(display or Line(f"{arm}, seed {seed}")),
            checkpoint,
        ],
        plugins=[_WholeCheckpoints(), *([_SyncBatchNorm()] if training.sync_batchnorm else [])],
        logger=False,
        log_every_n_steps=1,
    )
    if training.sync_batchnorm and trainer.strategy.root_device.type != "cuda":
        raise UsageError(f"training.sync_batchnorm needs GPUs, this run is on {trainer.strategy.root_device}")

    def test(images: lightning.LightningDataModule) -> None:
        with starting(), naming(lambda: {"callbacks": callbacks, "loggers": start.loggers}):
            history.rows[-1] |= trainer.validate(module, images, verbose=False)[0]
        history.rows[-1][f"{module.part}_accuracy"] = share(*module.counts[module.part])

    try:
        with room_for_images(), naming(lambda: {"callbacks": callbacks, "loggers": start.loggers}):
            _fit(trainer, module, data, folder.checkpoint)
    except UsageError:
        raise
    except Exception as error:  # whatever the user's own model or layer raises
        if (name := blamed(error, [config.backbone, config.layer.kind])) is None:
            raise
        raise UsageError(f"{name} failed in training: {said(error)}") from error
    if module.idle:
        trainer.save_checkpoint(folder.checkpoint)  # Lightning's own callback saves after a step only
    # What is kept is what was tested, the average where there is one; also where nothing was left to train.
    module.load_state_dict(torch.load(folder.checkpoint, map_location="cpu", weights_only=True)["state_dict"])
    validation: dict[str, Any] | None = None
    if f"{module.part}_accuracy" not in history.rows[-1]:  # a callback stopped training after an epoch that is not tested
        test(data)
    if data.validation is not None:
        correct, images = history.counts["val"]
        validation = {"accuracy": share(correct, images), "correct": correct, "images": images}
        validation["loss"] = history.rows[-1]["val_loss"]
        module.part = "test"
        test(TestImages(data))
    elif module.part not in module.predictions:  # the last epoch was tested before this process took over
        test(TestImages(data))
    if not trainer.is_global_zero:
        trainer.strategy.barrier()
        return folder.result()
    history.write()
    answers = last_predictions(module, data)
    write_predictions(predictions_file(folder), answers)
    folder.write_model(model, data.classes)
    if start.before["tables"]:
        folder.write_tables(before_and_after(start.before, describe_tables(model.layer)))
    result = {
        "arm": arm,
        "seed": seed,
        "accuracy": history.rows[-1][f"{module.part}_accuracy"],
        **dict(zip(("correct", "images"), history.counts[module.part], strict=True)),
        "loss": history.rows[-1][f"{module.part}_loss"],
        "metrics": describe(answers),
        **({} if validation is None else {"validation": validation}),
        "epochs": int(history.rows[-1]["epoch"]),
        "train_seconds": history.seconds,
        "head": head,
        "parameters": sum(p.numel() for p in model.parameters()),
        "layer_parameters": sum(p.numel() for p in model.layer.parameters() if p.requires_grad),
        "saturation": history.test_saturation,
        "grey": history.test_grey,
        "data": {**found, **({"left_out": data.left_out} if data.left_out else {})},
        "versions": versions(),
        "code": digests_of_code(config),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads, {type(trainer.accelerator).__name__}",
    }
    folder.write_result(result)
    trainer.strategy.barrier()
    return folder.result()


def last_predictions(module: JointTraining, data: Data) -> Predictions:
    """Return what was said of the test images, when they were last looked at; without any, of those that are held out."""
    target, predicted, probability, rank, loss = module.predictions[module.part].double().numpy().T
    images = [data.test.key(index) for index in range(len(data.test))]
    whole = [part.astype(int) for part in (target, predicted, rank)]
    return Predictions(images, data.classes, whole[0], whole[1], probability, whole[2], loss)


def _fit(trainer: lightning.Trainer, module: JointTraining, data: Data, last: Path) -> None:
    """Train from ``last`` where it exists, else from scratch."""
    if last.is_file():
        try:
            torch.load(last, map_location="meta", weights_only=True)
        except Exception as error:  # torch.load raises whatever its unpickler met
            raise UsageError(f"checkpoint {last} is damaged; delete it to train that run from scratch") from error
    try:
        with starting(), warnings.catch_warnings():
            # The folder holds settings already; and what Lightning itself does with PyTorch is not the user's to mend.
            for passed in (r"Checkpoint directory .* exists|`isinstance\(treespec", ".* does not have many workers"):
                warnings.filterwarnings("ignore", passed)
            trainer.fit(module, data, ckpt_path=last if last.is_file() else None)
    except torch.OutOfMemoryError as error:
        raise UsageError(
            f"{trainer.strategy.root_device} has no memory left: give a smaller data.batch_size, or fewer jobs; {error}"
        ) from error
    except RuntimeError as error:
        if "closed by peer" in str(error) or "Connection reset" in str(error):  # what gloo says
            raise UsageError("another process of this run has stopped; its own message says why") from error
        raise
    except SystemExit as stop:  # Lightning's answer to Ctrl+C
        raise KeyboardInterrupt from stop
