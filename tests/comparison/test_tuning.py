"""``jpegdl tune``: trials on held-out training images, and the recipe that comes of them."""

import csv
import io
import os
import pickle
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch
import yaml
from lightning.pytorch.trainer.states import TrainerFn

from factory import small_comparison
from jpegdl.cli import main
from jpegdl.comparison import compare, tuning
from jpegdl.comparison.config import check_compare, read_config
from jpegdl.comparison.numbers import tuned_in_words
from jpegdl.data import Data
from jpegdl.errors import UsageError
from jpegdl.runs.config import OptimizerConfig

pytest.importorskip("optuna")


@pytest.fixture
def config(tmp_path):
    found = small_comparison(tmp_path, epochs=1)
    return replace(found, layer=replace(found.layer, q_max=5.0))


def test_both_are_tuned_alike_and_compared_with_what_was_found(config, monkeypatch, no_figures, capfd):
    tested = []
    monkeypatch.setattr(Data, "test_dataloader", _noting(Data.test_dataloader, tested))
    monkeypatch.setattr(tuning, "train_run", _stopping(tuning.train_run, after=3))
    with pytest.raises(KeyboardInterrupt):
        tuning.tune(config, trials=2)
    monkeypatch.undo()
    monkeypatch.setattr(Data, "test_dataloader", _noting(Data.test_dataloader, tested))
    settings = config.folder / "own.yaml"
    settings.write_text(yaml.safe_dump({**asdict(config), "tuned": None}), encoding="utf-8")
    assert main(["tune", "--config", str(settings), "--trials", "2"]) == 0
    out = capfd.readouterr()
    assert out.err.count("of the held-out images") == 4  # each trial once, whatever was interrupted
    assert all(len(line) <= 80 for line in out.out.splitlines() if str(config.folder) not in line)
    assert {len(data.test) for data in tested} <= {3, 4, 5, 6}  # a fifth of 24, one at least of each class; never the 24
    assert all(data.validation is None for data in tested)
    tuned = read_config(config.folder / tuning.TUNED)
    assert (tuned.data.holdout, tuned.tuned["trials"], set(tuned.tuned["held_out_accuracy"])) == (None, 2, {"plain", "jpeg-dl"})
    best = {arm: tuning._best(config, arm, 2).user_attrs["settings"] for arm in ("plain", "jpeg-dl")}
    for arm, found in best.items():
        run = tuned.arm_run(arm)
        assert run.training.optimizer.lr == found["training"]["optimizer"]["lr"]
        assert run.data.batch_size == found["data"]["batch_size"]
    assert tuned.arm_run("jpeg-dl").layer.q_max == best["jpeg-dl"]["layer"]["q_max"]
    assert tuned.arm_run("faint-dc").training == tuned.arm_run("plain").training
    done = compare(replace(tuned, seeds=1, jobs=1))
    assert "tuned alike, with 2 trials each" in done.table
    with pytest.raises(UsageError, match=r"other settings or data .*data\.resize was 20, now 8"):
        tuning.tune(replace(config, data=replace(config.data, size=8, resize=8)), trials=2)


def test_a_trial_counts_by_its_mean_over_folds(config, monkeypatch, capfd):
    config = replace(config, data=replace(config.data, folds=2))
    accuracies = []

    def train(run, data, make, folder, arm, *rest):
        result = real(run, data, make, folder, arm, *rest)
        accuracies.append((arm, run.data.fold, data.fingerprint["test"]["content"], result["accuracy"], folder.path))
        return result

    real = tuning.train_run
    monkeypatch.setattr(tuning, "train_run", _stopping(train, after=2))
    with pytest.raises(KeyboardInterrupt):
        tuning.tune(config, trials=1)
    monkeypatch.setattr(tuning, "train_run", train)
    made = []
    monkeypatch.setattr(tuning, "make_layer", _noting_tables(tuning.make_layer, made))
    found = tuning.tune(config, trials=1)
    best = {arm: tuning._place(config, tuning._best(config, arm, 1)) for arm in ("plain", "jpeg-dl")}
    last = {
        (arm, fold): (content, accuracy, path) for arm, fold, content, accuracy, path in accuracies if path.parent == best[arm]
    }
    assert len({content for content, *_ in last.values()}) == 2
    for arm in ("plain", "jpeg-dl"):
        assert found[arm].accuracy == pytest.approx((last[arm, 0][1] + last[arm, 1][1]) / 2)
    assert made[-2:] == [last["plain", 0][2], last["plain", 1][2]]  # tables come from the plain model of the same fold
    tuned = read_config(config.folder / tuning.TUNED)
    assert (tuned.data.folds, tuned.tuned["folds"], tuned.tuned["images"]) == (None, 2, 24)
    assert tuning.tune(config, trials=1) == found
    with pytest.raises(UsageError, match="other settings or data"):
        tuning.tune(replace(config, data=replace(config.data, fold=0)), trials=1)


def test_trials_end_early_by_the_loss_on_the_held_out_images(config, capfd):
    """Which after a few epochs says more than how many images of a handful are right."""
    config = replace(config, training=replace(config.training, epochs=2))
    tuning.tune(config, trials=1)
    for arm in ("plain", "jpeg-dl"):
        (trial,) = tuning._ended(config, arm)
        rows = csv.DictReader((tuning._place(config, trial) / "metrics.csv").read_text(encoding="utf-8").splitlines())
        losses = [float(row["val_loss"]) for row in rows]
        assert trial.intermediate_values == {13: pytest.approx(-losses[0], abs=1e-4)}


def test_a_trial_ends_after_a_third_of_its_epochs_or_not_at_all():
    """Not with 78 of 80 epochs done."""

    steps = []
    trial = SimpleNamespace(report=lambda value, step: steps.append(step), should_prune=lambda: False, user_attrs={})
    for epochs in range(1, 200):
        steps.clear()
        judge, every = tuning._Judge(trial, epochs), tuning._Judge.every(epochs)
        for epoch in range(every, epochs + 1, every):
            state = SimpleNamespace(fn=TrainerFn.FITTING)
            trainer = SimpleNamespace(current_epoch=epoch - 1, state=state, callback_metrics={"val_loss": 1.0})
            judge.on_validation_end(trainer, SimpleNamespace(part="val"))
        assert all(tuning._STEPS // 3 <= step < tuning._STEPS for step in steps)
        assert bool(steps) == (epochs > 1)


def _noting_tables(make, made):
    def making(run, data, seed, needed):
        if run.layer.kind != "none":
            made.append(needed("plain").path)
        return make(run, data, seed, needed)

    return making


def test_no_trial_begins_after_the_hours(config, monkeypatch, capfd):
    clock = [0.0]

    def train(run, data, make, folder, arm, *rest):
        clock[0] += {"plain": 1000, "jpeg-dl": 2000}[arm]
        return real(run, data, make, folder, arm, *rest)

    real = tuning.train_run
    monkeypatch.setattr(tuning, "train_run", train)
    monkeypatch.setattr(tuning, "time", SimpleNamespace(time=lambda: clock[0]))
    found = tuning.tune(config, trials=3, hours=1)  # half an hour each: plain begins at 0 and 1000, the layer at 0 alone
    assert clock[0] == 2 * 1000 + 2000
    assert [best.trials for best in found.values()] == [1, 1]
    assert all(best.accuracy == best.recipe for best in found.values())  # of the first trial alone


def _noting(method, tested):
    def noting(self):
        tested.append(self)
        return method(self)

    return noting


def _stopping(train, after):
    count = 0

    def stopping(*arguments):
        nonlocal count
        count += 1
        if count == after:
            raise KeyboardInterrupt
        return train(*arguments)

    return stopping


def test_a_trial_that_diverges_is_lost_and_counts(config, capfd, monkeypatch):
    def train(*arguments):
        raise UsageError("the loss is nan in epoch 1, step 1: lower the learning rate")

    monkeypatch.setattr(tuning, "train_run", train)
    with pytest.raises(UsageError, match="no trial of plain.*loss is nan"):
        tuning.tune(config, trials=2)
    assert capfd.readouterr().err.count("lost") == 2


def test_the_recipes_own_settings_are_a_trial(config):
    for arm in ("plain", "jpeg-dl"):
        run = config.arm_run(arm)
        settings = tuning._settings(run, tuning._recipes_own(run))
        assert tuning.with_changes(run, settings, "test") == replace(run, layer=replace(run.layer, alpha=run.layer.alpha)) or (
            arm == "jpeg-dl" and settings["layer"]["alpha"] == 5
        )


def test_what_is_tried_first_is_tried_to_its_end(config, monkeypatch, capfd):
    import optuna

    monkeypatch.setattr(optuna.trial.Trial, "should_prune", lambda self: True)
    tried = []

    def train(run, data, make, folder, arm, *rest):
        tried.append((arm, run.training.epochs, run.training.optimizer.lr, run.data.batch_size))
        return real(run, data, make, folder, arm, *rest)

    real = tuning.train_run
    monkeypatch.setattr(tuning, "train_run", train)
    tuning.tune(config, trials=2)
    own = config.training.optimizer.lr, config.data.batch_size
    assert tried[::3] == [("plain", 1, *own), ("plain", 2, *own)]  # the recipe, and for twice as long, or the layer's best
    assert tried[1:3] == [("jpeg-dl", 1, *own), ("jpeg-dl", 2, *own)]  # 2: plain's best, or the recipe for twice as long
    assert all(trial.state.name == "COMPLETE" for arm in ("plain", "jpeg-dl") for trial in tuning._ended(config, arm))
    tuning.tune(config, trials=3)
    third = tuning._ended(config, "jpeg-dl")[2]
    assert third.user_attrs["settings"]["training"]["epochs"] == 1 or third.state.name == "PRUNED"  # drawn


def test_plain_tries_what_was_best_for_the_layer(config, monkeypatch, capfd):
    """Or the layer could win by crops, say, that plain was never trained with."""
    tried = []

    def train(run, data, make, folder, arm, *rest):
        tried.append((arm, run.data, run.training.optimizer, run.training.epochs))
        good = len(tried) == 4 + 5  # the layer's last, which is drawn
        return {"accuracy": 0.9 if good else 0.1 * (arm == "plain"), "epochs": run.training.epochs}

    monkeypatch.setattr(tuning, "train_run", train)
    found = tuning.tune(config, trials=5)
    assert [arm for arm, *_ in tried] == ["plain"] * 4 + ["jpeg-dl"] * 5 + ["plain"]
    assert tried[9][1:] == tried[8][1:]
    assert tried[9][1:] not in [each[1:] for each in tried[:4]]
    assert [one.trials for one in found.values()] == [5, 5]
    again = tuning.tune(config, trials=5)
    assert len(tried) == 10
    assert again == found


def test_what_was_best_for_the_layer_counts_however_many_trials_plain_has(config, monkeypatch, capfd):
    """As where an earlier version, which let plain try its own alone, had used up all of them."""
    rates = set()  # of the layer, but for the recipe's

    def train(run, data, make, folder, arm, *rest):
        rate = run.training.optimizer.lr
        if arm == "jpeg-dl" and rate != config.training.optimizer.lr:
            rates.add(rate)
        return {"accuracy": 0.9 if rate in rates else 0.1, "epochs": run.training.epochs}

    monkeypatch.setattr(tuning, "train_run", train)
    with monkeypatch.context() as earlier:
        earlier.setattr(tuning, "_cross", lambda config: 0)
        before = tuning.tune(config, trials=5)
    assert (before["plain"].accuracy, before["jpeg-dl"].accuracy) == (0.1, 0.9)
    found = tuning.tune(config, trials=5)
    assert (found["plain"].accuracy, found["jpeg-dl"].accuracy) == (0.9, 0.9)
    assert [one.trials for one in found.values()] == [5, 5]


@pytest.mark.parametrize("after", range(1, 9))
def test_an_interrupted_search_finds_what_another_finds(config, monkeypatch, capfd, after):
    """Whichever of the eight trials that was: the recipe's own, the longer one, a drawn one, the other arm's best."""

    def find(named, stopped):
        if stopped:
            monkeypatch.setattr(tuning, "train_run", _stopping(_by_its_rate, after=after))
            with pytest.raises(KeyboardInterrupt):
                tuning.tune(named, trials=4)
        monkeypatch.setattr(tuning, "train_run", _by_its_rate)
        tuning.tune(named, trials=4)
        lines = [line for line in capfd.readouterr().err.splitlines() if "held-out" in line]
        return (named.folder / tuning.TUNED).read_text(encoding="utf-8").replace(named.name, "NAME"), lines

    assert find(replace(config, name="stopped"), True) == find(replace(config, name="whole"), False)


def _by_its_rate(run, data, make, folder, *rest):
    accuracy = min(1.0, run.training.optimizer.lr / (1 + run.training.epochs))
    return {"accuracy": accuracy, "epochs": run.training.epochs}


def _train_nothing(run, data, make, folder, arm, *rest):
    return {"accuracy": run.training.epochs / 10, "epochs": run.training.epochs}


def test_workers_are_told_whose_they_are(config, monkeypatch):
    """One that is starting when its parent is killed would take another process for it, and train on."""
    started = []

    class Worker:
        returncode = 0

        def __init__(self, command, **_):
            started.append(command[-1])
            self.stdin = io.BytesIO()

        def poll(self):
            return 0

        kill = wait = poll

    for name in ("tuning", "locks"):
        (config.folder / name).mkdir(parents=True)
    monkeypatch.setattr(tuning.subprocess, "Popen", Worker)
    tuning._work_side_by_side(tuning._Task(replace(config, jobs=2), "plain", 2, 0, None, None, (None,)), [])
    assert len(started) == 2
    assert all(f"serve_trials({os.getpid()})" in code for code in started)
    parents = []
    task = pickle.dumps(tuning._Task(config, "plain", 0, 0, None, None, (None,)))
    monkeypatch.setattr(tuning, "end_with", parents.append)
    monkeypatch.setattr(tuning, "_data_of", lambda *_: [])
    monkeypatch.setattr(tuning.sys, "stdin", SimpleNamespace(buffer=io.BytesIO(task)))
    tuning.serve_trials(12345)
    assert parents == [12345]


def test_where_the_recipe_is_plains_best_the_longer_one_is_the_layers_second(config, monkeypatch, capfd):
    tried = []

    def train(run, data, make, folder, arm, *rest):
        tried.append((arm, run.training.epochs))
        return {"accuracy": 1 / run.training.epochs, "epochs": run.training.epochs}

    monkeypatch.setattr(tuning, "train_run", train)
    tuning.tune(config, trials=2)
    assert tried == [("plain", 1), ("jpeg-dl", 1), ("jpeg-dl", 2), ("plain", 2)]


def test_a_journal_that_was_cut_off_goes_on(config, monkeypatch, capfd):
    monkeypatch.setattr(tuning, "train_run", _train_nothing)
    found = tuning.tune(config, trials=1)
    journal = config.folder / "tuning" / "journal.log"
    (journal.parent / "journal.log.lock").symlink_to(journal)  # as a killed process of Optuna's own locks would leave it
    whole = journal.read_bytes()
    journal.write_bytes(whole + whole.splitlines(keepends=True)[-1][:-9])
    assert tuning.tune(config, trials=1) == found
    journal.write_bytes(whole.replace(b'"op_code"', b'"op', 1))
    with pytest.raises(UsageError, match="journal.log is damaged"):
        tuning.tune(config, trials=1)


def test_a_recipe_beyond_the_usual_bounds_is_tried_as_it_is(config):
    run = replace(config.run, training=replace(config.training, optimizer=OptimizerConfig(lr=20.0, weight_decay=3.0)))
    numbers, _ = tuning._spaces(run)
    for name, value in (("lr", 20.0), ("weight_decay", 3.0)):
        assert numbers[name][0] < value <= numbers[name][1]


def test_what_was_tuned_for_something_else_is_said(config, monkeypatch, capfd):
    monkeypatch.setattr(tuning, "train_run", _train_nothing)
    tuning.tune(config, trials=1)
    tuned = read_config(config.folder / tuning.TUNED)
    trained = Data(tuned.data).fingerprint
    assert tuned.changed_since_tuned(trained) == []
    held = replace(tuned, data=replace(tuned.data, holdout=0.2))
    assert held.changed_since_tuned(Data(held.data).fingerprint) == []
    fewer = replace(tuned, data=replace(tuned.data, limit=12))
    assert fewer.changed_since_tuned(Data(fewer.data).fingerprint) == ["other training images"]
    changed = replace(tuned, backbone="cifar_resnet20", training=replace(tuned.training, epochs=7)).changed_since_tuned(trained)
    assert changed == ["backbone was cifar_resnet8, now cifar_resnet20", "training.epochs was 1, now 7"]
    layer = replace(tuned, layer=replace(tuned.layer, q_max=9.5))
    assert layer.changed_since_tuned(trained) == ["layer.q_max was 5.0, now 9.5"]
    kept = replace(layer, tuned={**tuned.tuned, "arms": {"jpeg-dl": {"layer": {"q_max": 7.0}}}})
    assert "jpeg-dl keeps" in kept.changed_since_tuned(trained)[0]
    old = replace(tuned, tuned={name: value for name, value in tuned.tuned.items() if name != "of"})
    assert old.changed_since_tuned(trained) == []
    words = tuned_in_words({"trials": 1, "images": 1, "changed": changed})
    assert "1 trial each, on 1 image held" in words
    assert changed[0] in words


@pytest.mark.parametrize("tuned", [{"arms": {"jpeg-dl": {"seeds": 3}}}, {"trials": 3}, {"arms": [1]}, {"arms": {}, "of": 3}])
def test_what_tune_did_not_write_is_refused(config, tuned):
    with pytest.raises(UsageError, match="tuned"):
        check_compare(replace(config, tuned=tuned))


def test_settings_within_that_there_are_not(config):
    with pytest.raises(UsageError, match="nothing"):
        check_compare(replace(config, tuned={"arms": {"jpeg-dl": {"training": {"nothing": 3}}}}))


def test_trials_take_every_gpu_as_runs_do(tmp_path, monkeypatch):
    def start(*_, **__):
        raise InterruptedError

    rows = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for counted in (torch.cuda, torch.accelerator):
        monkeypatch.setattr(counted, "device_count", lambda: 2)
    monkeypatch.setattr(tuning, "_ended", lambda *_: [])
    monkeypatch.setattr(tuning, "worker_environment", lambda row, *_: rows.append(row))
    monkeypatch.setattr(tuning.subprocess, "Popen", start)
    config = small_comparison(tmp_path, device="auto", jobs=None)
    with pytest.raises(InterruptedError):
        tuning._work_side_by_side(tuning._Task(config, "plain", 5, 0, None, None, (None,)), [])
    assert rows == [0, 1]
