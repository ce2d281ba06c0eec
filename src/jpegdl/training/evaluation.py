"""A model tested on a run's test images, with Lightning: a finished run's, another file's, or a backbone as it came."""

from pathlib import Path
from typing import Any

from jpegdl.backbones.build import build_backbone
from jpegdl.calibrate import starting_tables
from jpegdl.data import Data
from jpegdl.data.loaders import TestImages
from jpegdl.errors import UsageError
from jpegdl.layer import PrependedModel, build_layer, layer_kind, prepend, table_source
from jpegdl.layer.roundings import set_rounding
from jpegdl.processes import quiet, room_for_images, starting
from jpegdl.runs import DataPlace, RunConfig, RunFolder, check_config, load_model
from jpegdl.runs.device import trainer_device
from jpegdl.runs.metrics import describe
from jpegdl.runs.opened import open_for_test
from jpegdl.runs.record import share
from jpegdl.training.module import JointTraining
from jpegdl.training.starting_weights import starting_backbone
from jpegdl.training.trainer import LIGHTNING, last_predictions, make_trainer
from jpegdl.user_code import is_own


def evaluate_trained(
    folder: RunFolder, here: RunConfig, rounding: str | None = None, sets: tuple[Any, ...] | None = None
) -> dict[str, Any]:
    """Test a finished run's model, with the run's own settings.

    Args:
        folder: the run.
        here: what to compute on and where the data are: ``device``, ``data.path`` (if given), ``data.workers``,
            ``training.devices``, ``num_nodes`` and ``strategy`` count.
        rounding: quantizer to put in place of the trained one.
        sets: the data set as Python objects, of a run that was trained on such; its training part may be None.

    Returns:
        accuracy (0 to 1) and loss on the test images, their number, ``images``, and how many are ``correct``; backbone, model
        (the file), rounding (None for plain); ``other_images``: how the images differ from those of the run's own test, None if
        not. Class folders need no training part.

    Raises:
        UsageError: no such model, no such rounding, or data with other classes.
    """
    trainer_device(here.device, here.training.devices)  # refused before anything is opened
    place = DataPlace(here.data.path, here.data.workers)
    opened = open_for_test(folder, place, "cpu", rounding, sets)  # from where Lightning takes the model to its device
    run = opened.run.config.at(here)
    check_config(run)
    found = evaluate(opened.model, opened.data, run)
    other = {"other_images": opened.other_images, "rounding": opened.rounding}
    return {**found, **other, "backbone": run.backbone, "model": str(folder.model_file)}


def evaluate_weights(
    run: RunConfig, seed: int, model_file: Path | None, rounding: str | None = None, sets: tuple[Any, ...] | None = None
) -> dict[str, Any]:
    """Test a file's model, or a backbone as its trained weights are, behind an untrained layer, as :func:`evaluate_trained`.

    Args:
        run: all settings.
        seed: of what is random in initial tables.
        model_file: a ``model.safetensors``; None for the weights that the settings name.
        rounding, sets: as there.

    Raises:
        UsageError: no such model, one of another architecture, or data with other classes.
    """
    check_config(run)
    data = Data(run.data, seed, test_only=True, sets=sets)
    if model_file is None:
        model = _untrained(run, data, seed)
    else:
        backbone = build_backbone(run.backbone, len(data.classes), seed, run.data.pixels)
        model = prepend(backbone, build_layer(run.layer, None, run.data.pixels))
        load_model(model_file, model, data.classes)
    used = set_rounding(model.layer, rounding, f"layer.kind {run.layer.kind}")
    name = model_file or run.weights or (run.backbone if is_own(run.backbone) else "pretrained weights")
    found = evaluate(model, data, run)
    return {**found, "other_images": None, "rounding": used, "backbone": run.backbone, "model": str(name)}


def _untrained(run: RunConfig, data: Data, seed: int) -> PrependedModel:
    """A backbone with trained weights, behind a layer that nothing has trained."""
    if layer_kind(run.layer).from_tables and table_source(run.layer) not in ("standard", "ones", "random", "file"):
        raise UsageError(
            f"layer.tables {run.layer.tables} needs training images or another run, and there is neither when pretrained "
            "weights are evaluated: give --arm plain, or --layer.tables standard:Q, ones, random or a file"
        )
    backbone, head = starting_backbone(run, data.classes, seed, untrained=True)
    if head == "new":
        raise UsageError(
            f"the weights' head does not fit the {len(data.classes)} classes of the data, so there is nothing to evaluate "
            "before training; train a new head first: jpegdl compare --config finetune"
        )
    tables = starting_tables(run.layer, data) if layer_kind(run.layer).from_tables else None
    return prepend(backbone, build_layer(run.layer, tables, run.data.pixels))


@quiet(*LIGHTNING)
def evaluate(model: PrependedModel, data: Data, config: RunConfig) -> dict[str, Any]:
    """Test a model on the test images of a data set.

    Args:
        model: from images (N, 3, H, W) in [0, 1] to logits (N, classes).
        data: the data set.
        config: what to compute on, and with which precision.

    Returns:
        ``accuracy`` (0 to 1), ``correct`` and ``images`` (how many), ``loss`` (mean cross-entropy, nats), ``metrics``
        (:func:`jpegdl.runs.metrics.describe`) and ``predictions``.
    """
    module = JointTraining(model, config.training, len(data.classes), seed=0)
    trainer = make_trainer(config, logger=False, enable_checkpointing=False, enable_progress_bar=False)
    with starting(), room_for_images():
        (metrics,) = trainer.validate(module, TestImages(data), verbose=False)
    correct, images = module.counts["test"]
    said = last_predictions(module, data)
    return {
        "accuracy": share(correct, images),
        "correct": correct,
        "images": images,
        "loss": metrics["test_loss"],
        "metrics": describe(said),
        "predictions": said,
    }
