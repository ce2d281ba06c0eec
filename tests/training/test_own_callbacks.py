"""Callbacks and loggers by class path: made for each run, checked before, named where they fail."""

import csv
import json
import sys
import warnings
from dataclasses import replace

import pytest
import yaml

from factory import run, small_config, weights
from jpegdl.comparison import CompareConfig, evaluate_run
from jpegdl.errors import UsageError
from jpegdl.runs import RunFolder, TrainingConfig
from jpegdl.training import JointTraining
from jpegdl.training.plugins import check_plugins

NO_LOGGERS = "in the extra loggers and not in test: wandb brings 15 packages, some 80 MB in all, and mlflow more"

COUNTER = """
import numpy as np
from lightning.pytorch.callbacks import Callback, ProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

class Counter(Callback):
    def __init__(self, file, last=None):
        self.file, self.last, self.count = file, last, 0
    def on_train_epoch_end(self, trainer, module):
        self.count += 1
        module.log("counted", float(self.count))
        open(self.file, "a").write(f"{self.count}\\n")
        if self.count == self.last:
            trainer.should_stop = True
    def state_dict(self):
        return {"count": self.count}
    def load_state_dict(self, state):
        self.count = state["count"]

class Broken(Callback):
    def on_validation_end(self, trainer, module):
        {}["nothing"]

class Unsafe(Callback):
    def state_dict(self):
        return {"mean": np.float64(0.5), "self": Broken()}
    def load_state_dict(self, state):
        pass

class Bar(ProgressBar):
    pass

class Lines(Logger):
    name, version = "lines", 0
    def __init__(self, file):
        super().__init__()
        self.file = file
    def log_hyperparams(self, params):
        self.write(f"settings {params['arm']} {params['seed']} {params['layer']['kind']}")
    @rank_zero_only
    def log_metrics(self, metrics, step=None):
        self.write(" ".join(sorted(metrics)))
    def write(self, line):
        open(self.file, "a").write(line + "\\n")

class BrokenLogger(Lines):
    def write(self, line):
        if "train_loss" in line:
            raise ConnectionError("no route to the server")
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch, few_photos):
    (tmp_path / "own_counters.py").write_text(COUNTER, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)


def config_with(epochs=2, test_every=1, **parts):
    config = small_config(epochs, test_every)
    return replace(config, training=replace(config.training, **parts))


def counter(tmp_path, **arguments):
    return {"class_path": "own_counters.Counter", "init_args": {"file": str(tmp_path / "count-{arm}-{seed}"), **arguments}}


def counts(tmp_path):
    return (tmp_path / "count-jpeg-dl-0").read_text(encoding="utf-8").split()


def test_a_class_path_alone_stands_for_one_without_arguments():
    short = TrainingConfig(callbacks=["own_counters.Broken"], loggers=[{"class_path": "a.B", "init_args": None}])
    assert short.callbacks == [{"class_path": "own_counters.Broken", "init_args": {}}]
    assert short.loggers == [{"class_path": "a.B", "init_args": {}}]


def test_a_callback_runs_and_logs_into_the_record(tmp_path):
    run(config_with(callbacks=[counter(tmp_path)]), tmp_path / "run")
    assert counts(tmp_path) == ["1", "2"]
    assert [row["counted"] for row in RunFolder(tmp_path / "run").metrics()] == [1, 2]
    there = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))["training"]["callbacks"]
    assert there == [counter(tmp_path)]  # as given: what {arm} and {seed} stand for is the run's


def test_a_resumed_callback_goes_on_where_it_was(tmp_path, monkeypatch):
    config = config_with(epochs=3, callbacks=[counter(tmp_path)])
    expected = run(config, tmp_path / "whole")
    (tmp_path / "count-jpeg-dl-0").unlink()
    step = JointTraining.training_step

    def interrupted(self, batch, batch_idx):
        if self.current_epoch == 1:
            raise KeyboardInterrupt
        return step(self, batch, batch_idx)

    monkeypatch.setattr(JointTraining, "training_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(config, tmp_path / "run")
    monkeypatch.setattr(JointTraining, "training_step", step)
    assert counts(tmp_path) == ["1"]
    assert run(config, tmp_path / "run")["accuracy"] == expected["accuracy"]
    assert counts(tmp_path) == ["1", "2", "3"]


def test_a_resumed_run_has_the_same_callbacks_and_any_loggers(tmp_path):
    run(config_with(), tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    run(config_with(loggers=[lines(tmp_path)]), tmp_path / "run")
    with pytest.raises(UsageError, match=r"other settings \(training.callbacks was \[\], now"):
        run(config_with(callbacks=["own_counters.Broken"]), tmp_path / "run")


def lines(tmp_path, kind="Lines"):
    return {"class_path": f"own_counters.{kind}", "init_args": {"file": str(tmp_path / "lines-{seed}")}}


def test_a_logger_hears_settings_and_metrics(tmp_path):
    run(config_with(loggers=[lines(tmp_path)]), tmp_path / "run")
    first, *others = (tmp_path / "lines-0").read_text(encoding="utf-8").splitlines()
    assert first == "settings jpeg-dl 0 jpeg"
    heard = {name for line in others for name in line.split()}
    columns = set(RunFolder(tmp_path / "run").metrics()[0]) - {"seconds"}
    assert columns <= heard


def test_csv_logger_and_tensorboard_in_the_run_s_own_folder(tmp_path):
    loggers = [
        {"class_path": "CSVLogger", "init_args": {"save_dir": "{folder}", "name": "csv"}},
        {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": {"save_dir": "{folder}/board-{arm}"}},
    ]
    run(config_with(loggers=loggers), tmp_path / "run", "plain")
    with (tmp_path / "run" / "csv" / "version_0" / "metrics.csv").open(encoding="utf-8") as stream:
        accuracies = [row["test_accuracy"] for row in csv.DictReader(stream) if row["test_accuracy"]]
    found = [row["test_accuracy"] for row in RunFolder(tmp_path / "run").metrics()]
    assert [float(value) for value in accuracies] == pytest.approx(found, rel=1e-6)  # the logger has float32
    settings = yaml.safe_load((tmp_path / "run" / "csv" / "version_0" / "hparams.yaml").read_text(encoding="utf-8"))
    assert (settings["seed"], settings["data"]["size"]) == (0, 16)
    assert list((tmp_path / "run" / "board-plain").rglob("events.out.*"))


def test_a_logger_may_not_write_among_the_run_s_own_files(tmp_path):
    logger = {"class_path": "CSVLogger", "init_args": {"save_dir": "{folder}", "name": "", "version": ""}}
    with pytest.raises(UsageError, match="CSVLogger.*run's own files"):
        run(config_with(loggers=[logger]), tmp_path / "run")


def stopping(tmp_path, folder, *, epochs, test_every, last):
    config = config_with(epochs, test_every, callbacks=[counter(tmp_path, last=last)])
    result = run(config, tmp_path / folder)
    return config, result, RunFolder(tmp_path / folder).metrics()


def test_training_that_is_stopped_early_counts_its_epochs(tmp_path):
    _, result, rows = stopping(tmp_path, "run", epochs=5, test_every=1, last=2)
    assert result["epochs"] == len(rows) == 2
    assert result["accuracy"] == rows[-1]["test_accuracy"]


def test_the_last_epoch_is_tested_where_training_is_stopped(tmp_path):
    """An epoch that would not be tested; the accuracy is that of its weights, as where every epoch is tested."""
    _, result, rows = stopping(tmp_path, "seldom", epochs=6, test_every=3, last=4)
    _, often, _ = stopping(tmp_path, "often", epochs=6, test_every=1, last=4)
    assert result["epochs"] == len(rows) == 4
    assert ["test_accuracy" in row for row in rows] == [False, False, True, True]
    for name in ("accuracy", "loss", "saturation", "grey", "epochs"):
        assert result[name] == often[name], name
    assert rows[2]["test_loss"] != rows[3]["test_loss"]


@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_stopped_run_that_loses_its_result_does_not_train_on(tmp_path, ema):
    config = config_with(6, 3, callbacks=[counter(tmp_path, last=2)], ema=ema)
    result = run(config, tmp_path / "run")
    before = weights(tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    again = run(config, tmp_path / "run")
    assert {**again, "train_seconds": 0} == {**result, "train_seconds": 0}
    assert all((before[name] == tensor).all() for name, tensor in weights(tmp_path / "run").items())
    assert counts(tmp_path) == ["1", "2"]


def test_early_stopping_of_lightning(tmp_path):
    stop = {"class_path": "EarlyStopping", "init_args": {"monitor": "test_loss", "patience": 1, "min_delta": 10.0}}
    result = run(config_with(epochs=5, callbacks=[stop]), tmp_path / "run")
    assert result["epochs"] == 2
    assert json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))["epochs"] == 2


def failing(tmp_path, folder, **parts):
    with pytest.raises(UsageError) as caught:
        run(config_with(**parts), tmp_path / folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_fails_in_training_is_named(tmp_path):
    said = failing(tmp_path, "run-1", callbacks=["own_counters.Broken"])
    assert said == "training.callbacks: Broken.on_validation_end failed: KeyError: 'nothing' (own_counters.py, line 23)"
    said = failing(tmp_path, "run-2", loggers=[lines(tmp_path, "BrokenLogger")])
    assert said.startswith("training.loggers: BrokenLogger.log_metrics failed: ConnectionError: no route to the server")
    said = failing(tmp_path, "run-3", callbacks=[{"class_path": "EarlyStopping", "init_args": {"monitor": "val_loss"}}])
    assert said.startswith("training.callbacks: EarlyStopping.")
    assert "val_loss" in said
    said = failing(tmp_path, "run-4", callbacks=["own_counters.Unsafe"])
    assert said.startswith("training.callbacks: what a callback puts into the checkpoint")
    said = failing(tmp_path, "run-5", callbacks=["ModelCheckpoint"])
    assert said.startswith("training.callbacks: ")


@pytest.mark.parametrize(
    ("setting", "entry", "message"),
    [
        ("callbacks", 3, "must be class paths, or {class_path"),
        ("callbacks", {"init_args": {}}, "must be class paths, or {class_path"),
        ("callbacks", {"class_path": "own_counters.Broken", "args": {}}, "only class_path and init_args go there, got args"),
        ("callbacks", {"class_path": "own_counters.Broken", "init_args": [1]}, "init_args must be arguments by name"),
        ("callbacks", "own_nowhere.Thing", "no module 'own_nowhere'"),
        ("callbacks", "own_counters.Countre", "did you mean Counter"),
        ("callbacks", "EarlyStoping", "did you mean EarlyStopping"),
        ("callbacks", "own_counters.Lines", "own_counters.Lines is not a lightning Callback"),
        ("callbacks", "own_counters.Bar", "is a progress bar"),
        ("callbacks", "own_counters.Counter", "missing a required argument: 'file'; it takes (file, last=None)"),
        (
            "callbacks",
            {"class_path": "own_counters.Counter", "init_args": {"file": "x", "lst": 1}},
            "unexpected keyword argument",
        ),
        ("loggers", "own_counters.Broken", "own_counters.Broken is not"),
        ("loggers", "lightning.pytorch.loggers.Logger", "lacks"),
    ],
)
def test_settings_are_checked_before_anything_trains(setting, entry, message):
    with pytest.raises(UsageError) as caught:
        check_plugins(config_with(**{setting: [entry]}).training)
    assert str(caught.value).startswith(f"training.{setting}")
    assert message in str(caught.value)


def test_a_trained_run_is_evaluated_without_its_callbacks(tmp_path, monkeypatch):
    """Their code need not be there any more."""
    config = config_with(epochs=1, callbacks=[counter(tmp_path)])
    folder = tmp_path / "runs" / "mine" / "jpeg-dl" / "0"
    accuracy = run(config, folder)["accuracy"]
    (tmp_path / "own_counters.py").unlink()
    monkeypatch.delitem(sys.modules, "own_counters")
    elsewhere = CompareConfig(name="mine", output=str(tmp_path / "runs"), device="cpu")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*other code.*")  # nor is it said to have changed
        assert evaluate_run(elsewhere, "jpeg-dl", 0)["accuracy"] == pytest.approx(accuracy)


# ---------------------------------------------------------------------------------------------- loggers by a short name


def test_short_names_of_loggers(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for given in ("csv", ["csv"], ["csv", "tensorboard"]):  # TensorBoard's events are there anyway
        (entry,) = TrainingConfig(loggers=given).loggers
        assert entry == {
            "class_path": "lightning.pytorch.loggers.CSVLogger",
            "init_args": {"save_dir": "{folder}", "name": "csv"},
        }
    assert TrainingConfig(loggers="tensorboard").loggers == []
    (here,) = TrainingConfig(loggers="mlflow").loggers
    assert here["init_args"]["tracking_uri"] == "sqlite:///{comparison}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:1")
    (there,) = TrainingConfig(loggers="mlflow").loggers
    assert there["init_args"].keys() == {"experiment_name", "run_name"}


def test_a_missing_package_is_said_before_anything_trains(monkeypatch):
    monkeypatch.setattr("jpegdl.extras.installed", lambda name: False)
    expected = r"training.loggers: .*WandbLogger needs wandb, which is not installed: pip install '.\[loggers\]' in a checkout"
    with pytest.raises(UsageError, match=expected):
        check_plugins(config_with(loggers="wandb").training)


def test_the_csv_logger_by_its_short_name(tmp_path):
    run(config_with(loggers="csv"), tmp_path / "mine/plain/0", "plain")
    assert (tmp_path / "mine/plain/0/csv/version_0/metrics.csv").is_file()


def test_each_run_is_one_of_wandb(tmp_path, monkeypatch):
    """Offline. The logger of a second run in a process took the first one's, which had not ended."""
    wandb = pytest.importorskip("wandb", reason=NO_LOGGERS)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for seed in (0, 1):
        run(config_with(loggers="wandb"), tmp_path / f"mine/plain/{seed}", "plain", seed)
        assert wandb.run is None
        assert len(list((tmp_path / f"mine/plain/{seed}").rglob("*.wandb"))) == 1
    own = wandb.init(dir=tmp_path, project="mine")  # of the user's script
    run(config_with(), tmp_path / "mine/plain/2", "plain", 2)
    assert wandb.run is own
    own.finish()


def test_runs_are_found_in_mlflow(tmp_path, monkeypatch):
    """Its newer versions write to a database, not to files."""
    mlflow = pytest.importorskip("mlflow", reason=NO_LOGGERS)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    results = [run(config_with(loggers="mlflow"), tmp_path / f"mine/plain/{seed}", "plain", seed) for seed in (0, 1)]
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mine/mlflow.db")
    experiment = client.get_experiment_by_name("mine")
    found = {each.info.run_name: each for each in client.search_runs([experiment.experiment_id])}
    assert found.keys() == {"plain-0", "plain-1"}
    for seed, result in enumerate(results):
        assert found[f"plain-{seed}"].info.status == "FINISHED"
        assert found[f"plain-{seed}"].data.metrics["test_accuracy"] == pytest.approx(result["accuracy"], abs=1e-6)
