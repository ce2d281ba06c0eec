import csv
import json
import logging
import math
from dataclasses import replace

import lightning
import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from torch import nn

from factory import run, small_config, weights
from jpegdl import JpegLayer, prepend
from jpegdl.backbones.build import build_backbone
from jpegdl.calibrate import starting_tables
from jpegdl.data import Data, DataConfig
from jpegdl.errors import UsageError
from jpegdl.layer import LayerConfig, build_layer
from jpegdl.runs import OptimizerConfig, RunConfig, RunFolder, TrainingConfig, check_config, load_model
from jpegdl.training import JointTraining, evaluate, train_run

pytestmark = pytest.mark.usefixtures("few_photos")


# -------------------------------------------------------------------------------------------------------------- one run


def test_a_run_leaves_its_folder(tmp_path):
    config = small_config(test_every=2)
    result = run(config, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} >= {
        "config.yaml", "metrics.csv", "last.ckpt", "model.safetensors", "tables.json", "result.json", "layer.npz",
    }  # fmt: skip
    assert any(file.name.startswith("events.out.tfevents") for file in tmp_path.iterdir())
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8")) == result
    assert yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))["training"]["epochs"] == 2
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open(encoding="utf-8")))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert [row["test_accuracy"] != "" for row in rows] == [False, True]  # tested every second epoch
    wanted = {"train_loss", "train_accuracy", "test_loss", "test_accuracy", "step_dc_luma", "saturation_dc_luma"}
    assert wanted | {"hardness_mean_luma", "hardness_mean_chroma"} <= set(rows[0])
    assert float(rows[-1]["test_accuracy"]) == pytest.approx(result["accuracy"])
    tables = json.loads((tmp_path / "tables.json").read_text(encoding="utf-8"))
    assert tables["before"]["luma"][0][0] == 8
    assert tables["before"]["luma"] != tables["after"]["luma"]
    history = np.load(tmp_path / "layer.npz")
    assert history["steps"].shape == history["saturation"].shape == (2, 3, 8, 8)
    np.testing.assert_array_equal(history["steps"][-1][0], np.array(tables["after"]["luma"], dtype=np.float32))
    assert result["layer_parameters"] == 128


def test_the_model_file_is_the_trained_model(tmp_path, caplog, run_once):
    config = small_config()
    result = run_once(config, tmp_path)
    layer = build_layer(config.layer, (torch.ones(8, 8), torch.ones(8, 8)), 16)
    model = prepend(build_backbone(config.backbone, 18, 5, 16), layer)
    load_model(tmp_path / "model.safetensors", model, Data(config.data).classes)
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    for logger in loggers:
        logger.addHandler(caplog.handler)
    levels = [logger.level for logger in loggers]
    metrics = evaluate(model, Data(config.data), config)
    assert not caplog.records  # Lightning's notes on devices, which are not asked for,
    assert [logger.level for logger in loggers] == levels  # while other programs' trainers talk as they did
    for logger in loggers:
        logger.removeHandler(caplog.handler)
    assert metrics["accuracy"] == pytest.approx(result["accuracy"])
    assert metrics["loss"] == pytest.approx(result["loss"], rel=1e-5)


@pytest.mark.parametrize("arm", ["plain", "jpeg-dl"])
def test_the_same_command_gives_the_same_numbers(tmp_path, arm):
    config = small_config(rounding="sample")
    first, second = (run(config, tmp_path / name, arm) for name in "ab")
    assert (first["accuracy"], first["loss"]) == (second["accuracy"], second["loss"])
    for name, weight in weights(tmp_path / "a").items():
        assert torch.equal(weight, weights(tmp_path / "b")[name])
    other = run(config, tmp_path / "c", arm, seed=1)
    assert other["loss"] != first["loss"]


EVERYTHING = {"label_smoothing": 0.1, "mixup": 0.4, "cutmix": 1.0, "clip": 0.5, "ema": 0.9}


@pytest.mark.parametrize("more", [False, True])
def test_an_interrupted_run_resumes_to_the_same_numbers(tmp_path, monkeypatch, more):
    config = small_config(epochs=3, rounding="sample")
    if more:
        config.training = replace(config.training, **EVERYTHING, optimizer=OptimizerConfig(schedule="cosine", warmup=1))
    whole = run(config, tmp_path / "whole")
    step = JointTraining.training_step

    def interrupted(self, batch, batch_idx):
        if self.current_epoch == 2 and batch_idx == 1:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    monkeypatch.setattr(JointTraining, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "halves")
    assert not (tmp_path / "halves" / "result.json").exists()
    monkeypatch.setattr(JointTraining, "training_step", step)
    epochs = []
    monkeypatch.setattr(JointTraining, "on_train_epoch_end", lambda self: epochs.append(self.current_epoch))
    resumed = run(config, tmp_path / "halves")
    assert epochs == [2]  # only what was missing
    assert (resumed["accuracy"], resumed["loss"]) == (whole["accuracy"], whole["loss"])
    for name, weight in weights(tmp_path / "whole").items():
        assert torch.equal(weight, weights(tmp_path / "halves")[name]), name

    def rows(folder):
        read = list(csv.DictReader((tmp_path / folder / "metrics.csv").open(encoding="utf-8")))
        return [{name: value for name, value in row.items() if name != "seconds"} for row in read]

    assert rows("whole") == rows("halves")
    assert (tmp_path / "whole" / "tables.json").read_text(encoding="utf-8") == (tmp_path / "halves" / "tables.json").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_run_killed_between_its_last_epoch_and_its_result(tmp_path, ema, run_once):
    config = small_config(epochs=1)
    config.training.ema = ema
    result, kept = run_once(config, tmp_path), weights(tmp_path)
    for name in ("result.json", "model.safetensors", "tables.json"):
        (tmp_path / name).unlink()
    assert run(config, tmp_path) == result
    assert all(torch.equal(weight, kept[name]) for name, weight in weights(tmp_path).items())
    assert np.sum(result["saturation"]) > 0


def test_a_finished_run_is_not_run_again(tmp_path, monkeypatch, run_once):
    config = small_config(epochs=1)
    result = run_once(config, tmp_path)
    monkeypatch.setattr(lightning.Trainer, "fit", lambda *_, **__: pytest.fail("trained again"))
    assert run(config, tmp_path) == result


def test_other_settings_do_not_overwrite_a_run(tmp_path, run_once):
    run_once(small_config(epochs=1), tmp_path)
    with pytest.raises(UsageError, match="other settings .training.epochs was 1, now 2.*another --name"):
        run(small_config(epochs=2), tmp_path)
    moved = small_config(epochs=1)
    moved.data.workers = 1  # where it is computed, not what
    run(moved, tmp_path)


def test_a_damaged_checkpoint_is_named(tmp_path, run_once):
    run_once(small_config(epochs=1), tmp_path)
    (tmp_path / "result.json").unlink()
    (tmp_path / "last.ckpt").write_bytes(b"damaged")
    with pytest.raises(UsageError, match=r"last.ckpt is damaged; delete it"):
        run(small_config(epochs=1), tmp_path)


def test_a_damaged_result_is_named(tmp_path, run_once):
    run_once(small_config(epochs=1), tmp_path)
    (tmp_path / "result.json").write_text("{", encoding="utf-8")
    with pytest.raises(UsageError, match="result.json is damaged.*delete.*result.json"):
        run(small_config(epochs=1), tmp_path)


# ------------------------------------------------------------------------------------------------------------- the steps


def test_both_optimizers_step_and_steps_stay_in_range(tmp_path):
    config = small_config(epochs=1)
    config.training.layer_optimizer.lr = 100.0
    run(config, tmp_path)
    layer_state = {name: value for name, value in weights(tmp_path).items() if name.startswith("layer.")}
    for name in ("layer.luma", "layer.chroma"):
        assert layer_state[name].min() >= 1e-5 * 0.999
        assert layer_state[name].max() <= 255
    assert (layer_state["layer.luma"] == 255).any() or (layer_state["layer.luma"] < 1e-4).any()  # the projection was at work


def test_alpha_trains_where_it_may(tmp_path):
    run(small_config(epochs=1, trainable_alpha=True, alpha=0.1), tmp_path)
    assert not (weights(tmp_path)["layer.alpha_luma"] == 0.1).all()


def test_every_arm_starts_from_the_same_backbone():
    first, second = (build_backbone("cifar_resnet8", 18, 3, 16) for _ in range(2))
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("where", ["pixels", "weights"])
def test_a_loss_that_is_not_finite_stops_training_before_the_tables(tmp_path, monkeypatch, where):
    config = small_config(epochs=2)
    data = Data(config.data, 0)
    layers = []

    def make_layer():
        layers.append(build_layer(config.layer, starting_tables(config.layer, data), config.data.size))
        return layers[0]

    step = JointTraining.training_step
    seen = []

    def poisoned(self, batch, batch_idx):
        if self.current_epoch == 1 and batch_idx == 2:
            if where == "pixels":
                batch[0][0, 0, 3, 3] = float("nan")
            else:
                next(self.model.backbone.parameters()).data.fill_(float("inf"))
            seen.append((layers[0].luma.clone(), layers[0].chroma.clone()))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(JointTraining, "training_step", poisoned)
    message = "pixels that are NaN" if where == "pixels" else "lower the learning rate"
    with pytest.raises(UsageError, match=f"loss is nan in epoch 2, step 3.*{message}"):
        train_run(config, data, make_layer, RunFolder(tmp_path), "jpeg-dl", 0)
    assert torch.equal(layers[0].luma, seen[0][0])
    assert torch.equal(layers[0].chroma, seen[0][1])
    assert (tmp_path / "last.ckpt").is_file()
    assert not (tmp_path / "result.json").exists()


def test_a_model_learns(tmp_path, monkeypatch):
    monkeypatch.setattr("jpegdl.data.sources.photos.PHOTO_TRAIN", 20)
    config = small_config(epochs=5)
    config.training.layer_optimizer.lr = 0.003
    result = run(config, tmp_path, "plain")
    assert result["accuracy"] > 3 / 18


# ------------------------------------------------------------------------------------------------------------- settings


def test_layers_of_a_config():
    tied = build_layer(LayerConfig(hardness=0.7, bits=11), (torch.ones(8, 8), torch.full((8, 8), 2.0)), 16)
    assert tied.hardness == 0.7
    assert tied.chroma[0, 0] == 2
    pair = build_layer(LayerConfig(alpha=[1.0, 2.0]), (torch.ones(8, 8), torch.ones(8, 8)), 16)
    assert pair.alpha[:, 0, 0].tolist() == [1, 2, 2]
    assert isinstance(pair, JpegLayer)


def test_initial_tables_by_name(tmp_path):
    data = Data(DataConfig(size=16, resize=20))
    assert (starting_tables(LayerConfig(tables="ones"), data)[0] == 1).all()
    assert starting_tables(LayerConfig(tables="standard:50"), data)[0][0, 0] == 16
    assert starting_tables(LayerConfig(tables="magnitude"), data)[0].max() > 0
    file = tmp_path / "t.json"
    file.write_text(json.dumps({"luma": [[3.0] * 8] * 8, "chroma": [[4.0] * 8] * 8}), encoding="utf-8")
    assert starting_tables(LayerConfig(tables=str(file)), data)[1][7, 7] == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "resnet81"}, "not a timm model; did you mean resne"),
        ({"layer": LayerConfig(tables="nice")}, "layer.tables must be"),
        ({"layer": LayerConfig(tables="standard:0")}, "layer.tables must be"),
        ({"layer": LayerConfig(alpha=[1.0, 2.0, 3.0])}, "layer.alpha must be one number, or two"),
        ({"layer": LayerConfig(window=4)}, "odd"),
        ({"training": TrainingConfig(epochs=0)}, "training.epochs must be at least 1"),
        ({"training": TrainingConfig(optimizer=OptimizerConfig(name="lion"))}, "training.optimizer.name must be one of sgd"),
        ({"training": TrainingConfig(optimizer=OptimizerConfig(schedule="up"))}, "schedule must be one of"),
        ({"training": TrainingConfig(layer_optimizer=OptimizerConfig(lr=0.0))}, "training.layer_optimizer.lr must be"),
        ({"training": TrainingConfig(optimizer=OptimizerConfig(momentum=-1.0))}, "training.optimizer.momentum"),
        ({"training": TrainingConfig(optimizer=OptimizerConfig(gamma=0.0))}, "training.optimizer.gamma"),
        ({"training": TrainingConfig(optimizer=OptimizerConfig(milestones=[0, 3]))}, "training.optimizer.milestones"),
        (
            {"training": TrainingConfig(layer_optimizer=OptimizerConfig(warmup=-1))},
            "training.layer_optimizer.warmup must be at least 0",
        ),
        ({"training": TrainingConfig(optimizer=OptimizerConfig(schedule="onecycle", warmup=1))}, "warmup .* onecycle"),
        ({"training": TrainingConfig(label_smoothing=1.0)}, "training.label_smoothing"),
        ({"training": TrainingConfig(mixup=-0.1)}, "training.mixup"),
        ({"training": TrainingConfig(cutmix=math.nan)}, "training.cutmix"),
        ({"training": TrainingConfig(clip=0.0)}, "training.clip"),
        ({"training": TrainingConfig(clip=math.nan)}, "training.clip"),
        ({"training": TrainingConfig(ema=1.0)}, "training.ema"),
        ({"training": TrainingConfig(ema=math.nan)}, "training.ema"),
        ({"layer": LayerConfig(q_max=-1.0)}, "layer.q_max"),
        ({"layer": LayerConfig(images=0)}, "layer.images"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(UsageError, match=message):
        check_config(replace(RunConfig(), **change))


def test_backbones_made_for_one_size_are_told_theirs():
    model = build_backbone("vit_tiny_patch16_224", 5, 0, 48)
    assert model(torch.rand(1, 3, 48, 48)).shape == (1, 5)
    with pytest.raises(UsageError, match="cannot be built for 16-pixel images"):
        build_backbone("resnet18.nonsense", 5, 0, 16)


def test_the_last_epoch_is_always_tested(tmp_path):
    result = run(small_config(epochs=3, test_every=2), tmp_path)
    rows = list(csv.DictReader((tmp_path / "metrics.csv").open(encoding="utf-8")))
    assert [row["test_accuracy"] != "" for row in rows] == [False, True, True]
    assert float(rows[-1]["test_accuracy"]) == pytest.approx(result["accuracy"])


def test_parameters_that_are_not_finite_are_never_saved(tmp_path):
    config = small_config(epochs=1)
    config.data.batch_size = 72  # one step: the loss before it is finite, the parameters after it are not
    config.training.optimizer = OptimizerConfig(lr=1e38, weight_decay=1e30)
    with pytest.raises(UsageError, match="no longer finite after epoch 1"):
        run(config, tmp_path)
    assert not (tmp_path / "last.ckpt").exists()
    assert not (tmp_path / "result.json").exists()


def test_a_run_that_could_not_start_leaves_nothing(tmp_path):
    config = small_config()
    config.device = "abacus"
    with pytest.raises(UsageError, match="abacus"):
        run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_damaged_settings_are_named(tmp_path, run_once):
    config = small_config(epochs=1)
    run_once(config, tmp_path)
    read = RunFolder(tmp_path).config()
    assert read == replace(config, layer=replace(config.layer, alpha=5.0))  # what stands for a default is spelled out
    (tmp_path / "config.yaml").write_text("training: [", encoding="utf-8")
    with pytest.raises(UsageError, match=r"(?s)config.yaml is damaged.*; delete .* to train that run again"):
        run(config, tmp_path)
    (tmp_path / "config.yaml").write_text("training: 5", encoding="utf-8")
    with pytest.raises(UsageError, match=r"(?s)config.yaml is damaged.*; delete .* to train that run again"):
        RunFolder(tmp_path).config()


def test_a_runs_tables_can_start_another(tmp_path, run_once):
    run_once(small_config(epochs=1), tmp_path)
    after = json.loads((tmp_path / "tables.json").read_text(encoding="utf-8"))["after"]
    luma, _ = starting_tables(LayerConfig(tables=str(tmp_path / "tables.json")), Data(small_config().data))
    assert torch.equal(luma, torch.tensor(after["luma"]))


def test_bad_devices_are_named(tmp_path):
    config = small_config()
    config.device = "abacus"
    with pytest.raises(UsageError, match=r"device.*abacus"):
        run(config, tmp_path)


def test_weights_of_another_architecture_are_refused(tmp_path, run_once):
    run_once(small_config(epochs=1), tmp_path)
    file = tmp_path / "model.safetensors"
    with pytest.raises(UsageError, match="another architecture"):
        load_model(file, prepend(build_backbone("cifar_resnet20", 18, 0, 16), JpegLayer()), [])
    with pytest.raises(UsageError, match=r"another architecture .*fc.weight is \(18, 64\), not \(7, 64\)"):
        load_model(file, prepend(build_backbone("cifar_resnet8", 7, 0, 16), JpegLayer()), [])
    with pytest.raises(UsageError, match="another architecture .*layer.* unknown"):
        load_model(file, prepend(build_backbone("cifar_resnet8", 18, 0, 16), nn.Identity()), [])
    with pytest.raises(UsageError, match="no model file"):
        load_model(tmp_path / "none", prepend(build_backbone("cifar_resnet8", 18, 0, 16), JpegLayer()), [])
    poisoned = {**weights(tmp_path), "backbone.fc.bias": torch.full((18,), float("nan"))}
    safetensors.torch.save_file(poisoned, file)
    with pytest.raises(UsageError, match="not finite: its training diverged"):
        load_model(file, prepend(build_backbone("cifar_resnet8", 18, 0, 16), JpegLayer()), [])
    file.write_bytes(b"damaged")
    with pytest.raises(UsageError, match="cannot be read as a safetensors file"):
        load_model(file, prepend(build_backbone("cifar_resnet8", 18, 0, 16), JpegLayer()), [])
