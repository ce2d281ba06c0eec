"""What tests are made of: settings, runs that are trained once a session, runs that nobody trained, and their summaries."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from torch import nn

from jpegdl.calibrate import starting_tables
from jpegdl.comparison import CompareConfig
from jpegdl.comparison.arms import arm_config
from jpegdl.comparison.numbers import summarize
from jpegdl.data import Data, DataConfig
from jpegdl.layer import JpegLayer, LayerConfig, build_layer, describe_tables
from jpegdl.runs import OptimizerConfig, RunConfig, RunFolder, TrainingConfig
from jpegdl.runs.folder import CLASSES
from jpegdl.runs.model import build_model
from jpegdl.tables import standard_tables
from jpegdl.training import train_run

# ----------------------------------------------------------------------------------------------------------- comparisons


def small_comparison(folder, **changes):
    """Settings of a small comparison in ``folder``/mine: made-up images of 3 classes, plain and jpeg-dl, two epochs, one seed.

    Args:
        folder: of comparisons, ``output``.
        changes: fields of ``CompareConfig`` that are to be others; those of ``TrainingConfig`` go by their own names too.
    """
    training = {field: changes.pop(field) for field in ("epochs", "test_every", "callbacks", "loggers") if field in changes}
    rate = changes.pop("lr", 0.02)
    settings = {
        "data": DataConfig(name="made-up", classes=3, limit=24, size=16, resize=20, batch_size=8),
        "layer": LayerConfig(images=16),
        "training": TrainingConfig(
            **{"epochs": 2, "test_every": 2, **training},
            optimizer=OptimizerConfig(lr=rate),
            layer_optimizer=OptimizerConfig(name="adam", lr=rate, weight_decay=0.0),
        ),
        "device": "cpu",
        "output": str(folder),
        "name": "mine",
        "seeds": 1,
        "jobs": 1,
    }
    return CompareConfig(**{**settings, **changes})


# ------------------------------------------------------------------------------------------------------------ single runs


def rename_classes(folder, names):
    """Let a run be one of classes with these names."""
    folder.data_file.write_text(json.dumps({**folder.data(), "classes": names}), encoding="utf-8")
    state = safetensors.torch.load_file(folder.model_file)
    safetensors.torch.save_file(state, folder.model_file, {CLASSES: json.dumps(names)})


def small_config(epochs=2, test_every=1, **layer):
    """Settings of a small run: the embedded photographs, a CIFAR ResNet-8, on the CPU."""
    return RunConfig(
        device="cpu",
        data=DataConfig(size=16, resize=20, batch_size=16),
        layer=LayerConfig(**{"tables": "standard:75", **layer}),
        training=TrainingConfig(
            epochs=epochs,
            test_every=test_every,
            layer_optimizer=OptimizerConfig(name="adam", lr=0.05, weight_decay=0.0),
        ),
    )


def run(config, folder, arm="jpeg-dl", seed=0):
    """Train a run, or resume it; returns its result."""
    data = Data(config.data, seed)

    def make_layer():
        return (
            nn.Identity()
            if arm == "plain"
            else build_layer(config.layer, starting_tables(config.layer, data), config.data.size)
        )

    return train_run(config, data, make_layer, RunFolder(folder), arm, seed)


def code_module(tmp_path, monkeypatch, name, code):
    """The name of a module of the user's with this code, which can be imported while the test runs, from a folder apart."""
    folder = tmp_path / "code"
    folder.mkdir()
    (folder / f"{name}.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    return name


def weights(folder):
    return safetensors.torch.load_file(folder / "model.safetensors")


# ------------------------------------------------------------------------------------------- runs that nobody trained long


def made_up_config(classes=4, **layer):
    """Settings of a run on made-up images of 16 pixels."""
    return RunConfig(
        data=DataConfig(name="made-up", classes=classes, limit=10 * classes, size=16, batch_size=16),
        layer=LayerConfig(**{"tables": "standard:60", **layer}),
        backbone="cifar_resnet8",
    )


def make_run(path, config=None, arm="jpeg-dl", steps=30, seed=0, quality=60):
    """A run folder with all files but ``result.json``: standard tables of a quality, a backbone that took a few steps."""
    config = config or made_up_config()
    if arm == "plain":
        config = replace(config, layer=LayerConfig(kind="none"))
    torch.manual_seed(seed)
    data = Data(config.data, 0)
    folder = RunFolder(path)
    folder.begin(config, arm, seed, data.fingerprint)
    model = build_model(config, len(data.classes))
    model.layer = build_layer(config.layer, standard_tables(quality), config.data.pixels)
    before = describe_tables(model.layer)
    optimizer = torch.optim.SGD(model.backbone.parameters(), lr=0.02, momentum=0.9)
    images = [data.train[i] for i in range(len(data.train))]
    x, y = torch.stack([image for image, _ in images]), torch.tensor([target for _, target in images])
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    if before["kind"] is not None:
        folder.write_tables({"kind": before["kind"], "before": before["tables"], "after": before["tables"]})
    if isinstance(model.layer, JpegLayer) and model.layer.steps.ndim == 3:
        steps_now = model.layer.steps.detach().numpy()
        history = {"steps": np.stack([steps_now * 2, steps_now]), "epoch": np.array([1, 2])}
        folder.write_layer({**history, "alpha": np.ones((2, 3, 8, 8)), "saturation": np.zeros((2, 3, 8, 8))})
    folder.write_model(model, data.classes)
    return folder


# ---------------------------------------------------------------------------------------------- runs that no model is behind


def fake_result(accuracy=0.5, **changes):
    """What ``result.json`` of a run says."""
    numbers = {"loss": 1.0, "train_seconds": 10.0, "parameters": 1000, "layer_parameters": 128}
    return {"accuracy": accuracy, **numbers, "saturation": None, "grey": False, "data": {}, **changes}


def fake_run(folder, arm, seed=0, accuracy=0.5, *, config=None, tested=None, tables=None, data=None, **result):
    """A run folder as training leaves it, without a model.

    Args:
        folder: of the comparison.
        arm, seed, accuracy: of the run.
        config: its settings. Default: those of the arm.
        tested: accuracy by epoch, in which the last is trained. Default: half of ``accuracy`` after 2 epochs, all after 4.
        tables: before and after training, each a dictionary. Default: none are written.
        data: what the run met.
        result: what its result says besides.
    """
    run = RunFolder(Path(folder) / arm / str(seed))
    run.begin(config or arm_config(RunConfig(), arm), arm, seed, data or {})
    tested = {2: accuracy / 2, 4: accuracy} if tested is None else tested
    run.write_metrics(
        [
            {"epoch": epoch, "train_loss": 1.0, **({"test_accuracy": tested[epoch]} if epoch in tested else {})}
            for epoch in range(1, max(tested) + 1)
        ]
    )
    if tables is not None:
        before, after = ({name: np.asarray(table).tolist() for name, table in each.items()} for each in tables)
        run.write_tables({"kind": "steps", "before": before, "after": after})
    run.write_result({"arm": arm, "seed": seed, **fake_result(accuracy, **({"data": data} if data else {}), **result)})
    return run


def fake_summary(results, failed=None, **changes):
    """What ``summary.json`` says of results, by arm and seed."""
    return {"backbone": "cifar_resnet8", "data": "photos", **summarize(results, failed or {}), **changes}
