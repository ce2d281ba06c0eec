"""Tuning plain and the layer alike, on images held out of training: ``jpegdl tune``.

Trials are Optuna's, in a journal in the folder of the comparison, where several processes find them; a trial whose loss after
a third of its epochs is not among the smallest third ends there (successive halving). The test images are never read.
"""

import hashlib
import json
import os
import pickle
import statistics
import subprocess
import sys
import time
import warnings
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import filelock
import lightning
import yaml
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn
from torch import nn

from jpegdl.comparison.arms import with_changes
from jpegdl.comparison.config import CompareConfig, check_compare
from jpegdl.comparison.jobs import wanted_jobs
from jpegdl.comparison.steps import make_layer
from jpegdl.comparison.workers import worker_environment
from jpegdl.data import Data
from jpegdl.errors import DataWarning, UsageError
from jpegdl.extras import require
from jpegdl.files import claimed, reading, write_text, write_together
from jpegdl.layer import layer_kind
from jpegdl.processes import count_cores, end_with
from jpegdl.runs import RunConfig, RunFolder
from jpegdl.runs.device import compute_device
from jpegdl.runs.progress import write_line
from jpegdl.runs.record import first_difference, settings_of
from jpegdl.training import train_run

_BOTH = ("plain", "jpeg-dl")  # both are tuned, with as many trials each, or neither
TUNED = "tuned.yaml"
_HOLDOUT = 0.2  # share of the training images, if the settings hold nothing out
_STEPS = 27  # the pruner divides each training into these, whatever its epochs
_FACTOR = 3  # the pruner's first rung is after a third: after a ninth, rates still rise in most schedules, and say little
_DRAWN = 4  # trials before the sampler goes by what they found: later there would be little left of 12 or 20
#: Errors that a learning rate that is too large ends in: the trial is lost, and the others go on.
_LOST = ("the loss is", "no longer finite", "has no memory left")
_WHOLE = "whole"  # marks a trial that is not drawn, and never ended early: 1, or 2 if it is what the other arm found
_RECIPES = "recipe's"  # a choice: what the recipe has


@dataclass(frozen=True)
class Tuned:
    """What tuning found of one arm; accuracies are shares of the held-out images, 0 to 1."""

    trials: int  # how many count: as many for both arms
    accuracy: float  # of the best
    recipe: float | None  # of the recipe's own settings; None where that trial did not end
    settings: dict[str, Any]  # of the best, what differs from the recipe, nested


@dataclass(frozen=True)
class _Task:
    """The work of one process: an arm's trials, until there are enough or time is up."""

    config: CompareConfig
    arm: str
    trials: int
    seed: int
    until: float | None  # time.time()
    tables: Path | None  # the folder of the plain trial that sensitivity tables come from
    folds: tuple[int | None, ...]  # each trial is trained on all of them, and its accuracy is their mean

    @property
    def folder(self) -> Path:
        return self.config.folder / "tuning"

    @property
    def run(self) -> RunConfig:
        return self.config.arm_run(self.arm)

    def place(self, trial: Path, fold: int | None) -> RunFolder:
        """Return where the run of a trial on one fold is."""
        return RunFolder(trial / str(fold) if len(self.folds) > 1 else trial)


def tune(config: CompareConfig, trials: int = 20, hours: float | None = None, seed: int = 0) -> dict[str, Tuned]:
    """Tune plain, then the layer from the tables of the best plain model, with the same number of trials.

    Learning rate, weight decay, batch size, schedule, crops, colours and epochs of both; the layer's learning rate, its q_max
    and alpha (or hardness) too. The recipe's own settings are the first trial of each, plain's best the layer's second, and the
    recipe trained longest the next, as nothing changed our own verdicts more. The layer's best, as far as plain has such
    settings, is plain's last: neither wins by settings that the other was never trained with.
    What was interrupted goes on with the same call; one that asks for more trials adds to those that there are. Writes
    ``tuned.yaml`` into the folder of the comparison.

    Args:
        config: what to compare; of its arms plain and jpeg-dl are tuned. Where it holds no training images out, a fifth is for
            this. With ``data.folds`` and no ``data.fold``, each trial is trained on every fold, and counts by the mean.
        trials: of each arm.
        hours: no trial begins after that long, half of which is for each arm; then as many trials count of both as the arm with
            fewer has. None for as long as it takes.
        seed: of the draws of settings, and of the runs.

    Returns:
        What was found, by arm.

    Raises:
        UsageError: settings that cannot be used; a package that is not installed; trials in the folder of other settings or
            data; no trial of an arm that ended.
        BusyError: another process tunes the same.
        KeyboardInterrupt: interrupted.
    """
    require("jpegdl tune needs", "optuna")
    given = config.data
    if given.holdout is None and given.folds is None and Data(given, seed).validation is None:
        config = replace(config, data=replace(given, holdout=_HOLDOUT))
    folds: tuple[int | None, ...] = (given.fold,)
    if given.folds is not None and given.fold is None:
        folds, config = tuple(range(given.folds)), replace(config, data=replace(given, fold=0))
    if config.together:
        raise UsageError("jpegdl tune trains each run in one process: set training.devices and training.num_nodes to 1")
    check_compare(replace(config, arms=list(_BOTH)))
    compute_device(config.device)  # which each of several processes would refuse
    for arm in _BOTH:
        if layer_kind(config.arm_run(arm).layer).from_tables and config.arm_run(arm).layer.tables == "learned":
            raise UsageError("layer.tables learned need a trained arm jpeg-dl, so jpegdl tune cannot start from them")
    data = _data_of(config, seed, folds)
    with claimed(config.folder / "locks" / "tuning", f"{config.folder} is being tuned"):
        _check_same(config, data, seed)
        _without_torn_line(_journal(config))
        begin = time.time()

        def work(arm: str, trials: int, until: float, best: Any) -> None:
            tables = None if best is None else _place(config, best)
            task = _Task(config, arm, trials, seed, None if hours is None else until, tables, folds)
            _requeue(task, best)
            _work_side_by_side(task, data)

        half = 1800 * (hours or 0)
        work("plain", max(1, trials - 1), begin + half, None)
        if not _completed(config, "plain", None):  # its last trial may be drawn as well
            work("plain", trials, begin + half, None)
        work("jpeg-dl", trials, time.time() + half, _best(config, "plain", None))
        more = _cross(config)
        work("plain", max(trials, len(_ended(config, "plain")) + more), begin + 2 * half, None)
        count = min(len(_ended(config, arm)) for arm in _BOTH)
        found = {arm: _found(config, arm, count) for arm in _BOTH}
    _write(config, given, found, data, seed)
    return found


def _data_of(config: CompareConfig, seed: int, folds: tuple[int | None, ...]) -> list[Data]:
    """The data of each fold, without the test images."""
    return [Data(replace(config.data, fold=fold), seed).blind() for fold in folds]


def _check_same(config: CompareConfig, data: list[Data], seed: int) -> None:
    """Refuse to add trials to those of other settings or data."""
    file = config.folder / "tuning" / "of.json"
    own = replace(config.run, device="auto")
    content: dict[str, Any] = {"settings": settings_of(own, "tuning", seed), "data": data[0].fingerprint, "by": "loss"}
    if len(data) > 1:
        content["folds"] = [each.fingerprint for each in data]
    content["settings"]["data"].update(path=None, workers=0)
    text = json.dumps(content, indent=1, sort_keys=True)
    if file.is_file() and (there := file.read_text(encoding="utf-8")) != text:
        with reading(file, "delete the folder, or give another --name"):
            then, now = json.loads(there), json.loads(text)
            difference = first_difference(then["settings"], now["settings"]) or first_difference(then, now)
        raise UsageError(
            f"{file.parent} holds trials of other settings or data ({difference}); give another --name, or delete the folder"
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, text)


class _Lock:
    """Optuna's lock of a journal, which the operating system gives back when a process is killed."""

    def __init__(self, file: Path) -> None:
        self._lock = filelock.FileLock(file)

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


def _journal(config: CompareConfig) -> Path:
    return config.folder / "tuning" / "journal.log"


def _without_torn_line(journal: Path) -> None:
    """Take off what a full disk or a power failure left of a last line, which the next one would be appended to."""
    if journal.is_file() and (content := journal.read_bytes()) and not content.endswith(b"\n"):
        write_together({journal: content[: content.rfind(b"\n") + 1]})


def _study(config: CompareConfig, arm: str, seed: int = 0) -> Any:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal = _journal(config)
    lock: Any = _Lock(config.folder / "locks" / "journal")
    with warnings.catch_warnings(), reading(journal, "delete the folder that it is in, or give another --name"):
        warnings.simplefilter("ignore")  # which of its parts are experimental
        return optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(journal), lock_obj=lock)),
            study_name=arm,
            direction="maximize",
            sampler=_sampler(seed),
            pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=_STEPS // _FACTOR, reduction_factor=_FACTOR),
            load_if_exists=True,
        )


def _sampler(seed: int) -> Any:
    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=_DRAWN, constant_liar=True)


def _requeue(task: _Task, best: Any) -> None:
    """Put first what an interrupted call was at, or what is to be tried whatever is drawn."""
    from optuna.trial import TrialState

    study = _study(task.config, task.arm)
    if running := study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        drawn = sum(len(part) for part in _spaces(task.run))  # a trial with fewer of them is drawn anew, which gives the same
        again: list[tuple[dict[str, Any], int]] = []
        for trial in (*running, *waiting):
            params = trial.system_attrs.get("fixed_params") or (trial.params if len(trial.params) == drawn else {})
            if params and params not in [before for before, _ in again]:
                again.append((params, trial.user_attrs.get(_WHOLE, 0)))
        for params, whole in again:
            study.enqueue_trial(params, user_attrs={_WHOLE: whole})
        for trial in (*running, *(study.ask() for _ in waiting)):  # those that wait can only be asked for, in their order
            study.set_user_attr(f"interrupted {trial.number}", True)
            study.tell(trial.number, state=TrialState.FAIL)
    if not study.trials:
        own, longest = _recipes_own(task.run), _spaces(task.run)[1]["epochs"][-1]
        first = [own, *([] if best is None else [own | best.params]), own | {"epochs": longest}]
        different = [chosen for number, chosen in enumerate(first) if chosen not in first[:number]]  # as their folders are
        for chosen in different:
            study.enqueue_trial(chosen, user_attrs={_WHOLE: 1})


def _cross(config: CompareConfig) -> int:
    """Let plain try the layer's best settings, those that it has itself; return how many trials these are."""
    names = _recipes_own(config.arm_run("plain"))
    chosen = {name: value for name, value in _best(config, "jpeg-dl", None).params.items() if name in names}
    wanted = _settings(config.arm_run("plain"), chosen)
    if any(trial.user_attrs["settings"] == wanted for trial in _ended(config, "plain")):
        return 0
    _study(config, "plain").enqueue_trial(chosen, user_attrs={_WHOLE: 2}, skip_if_exists=True)
    return 1


def _ended(config: CompareConfig, arm: str) -> list[Any]:
    """The trials that count, as they came: finished, ended early or lost; not those that were interrupted."""
    study = _study(config, arm)
    return [
        trial
        for trial in study.get_trials(deepcopy=False)
        if trial.state.is_finished() and f"interrupted {trial.number}" not in study.user_attrs and "folder" in trial.user_attrs
    ]


def _counting(config: CompareConfig, arm: str, count: int | None) -> list[Any]:
    """An arm's first trials, what the other arm found before all others, and what was drawn after them."""
    return sorted(_ended(config, arm), key=lambda trial: -int(trial.user_attrs.get(_WHOLE, 0)))[:count]


def _best(config: CompareConfig, arm: str, count: int | None) -> Any:
    """The best of an arm's first trials."""
    if not (whole := _completed(config, arm, count)):
        whys = (trial.user_attrs.get("why") for trial in _counting(config, arm, count))
        raise UsageError(f"no trial of {arm} finished: {next(filter(None, whys), 'there was no time for one')}")
    return max(whole, key=lambda trial: trial.value)


def _completed(config: CompareConfig, arm: str, count: int | None) -> list[Any]:
    return [trial for trial in _counting(config, arm, count) if trial.state.name == "COMPLETE"]


def _found(config: CompareConfig, arm: str, count: int) -> Tuned:
    best, run = _best(config, arm, count), config.arm_run(arm)
    recipes = _settings(run, _recipes_own(run))  # which after an interruption may have come later than others
    own = (trial for trial in _completed(config, arm, count) if trial.user_attrs["settings"] == recipes)
    first = next((trial.value for trial in own), None)
    return Tuned(count, best.value, first, best.user_attrs["settings"])


def _place(config: CompareConfig, trial: Any) -> Path:
    return config.folder / "tuning" / str(trial.user_attrs["folder"])


# ----------------------------------------------------------------------------------------------------------- the settings


def _around(value: float, low: float, high: float) -> tuple[float, float]:
    """The bounds of a search on a logarithmic scale: a factor of ten to both sides, and the value itself whatever it is."""
    return min(value, max(low, value / 10)), max(value, min(high, value * 10))


def _spaces(run: RunConfig) -> tuple[dict[str, tuple[float, float]], dict[str, list[str]]]:
    """What is searched, by name: numbers, on a logarithmic scale between bounds; and choices, the recipe's first."""
    training, data = run.training, run.data
    numbers = {
        "lr": _around(training.optimizer.lr, 1e-6, 10.0),
        "weight_decay": _around(training.optimizer.weight_decay, 1e-7, 1.0)
        if training.optimizer.weight_decay
        else (1e-6, 1e-2),
    }
    batches = dict.fromkeys(max(2, round(data.batch_size * factor)) for factor in (1, 0.5, 2))
    choices = {
        "batch_size": [str(batch) for batch in batches],
        "schedule": [_RECIPES, "onecycle", "cosine"],
        "crop": [_RECIPES, "shifted", "resized 0.08", "resized 0.35"],
        "colours": [_RECIPES, "none", "color_jitter 0.4", "rand-m9-mstd0.5-inc1"],
        "epochs": ["1", "2"] if any(milestone >= 1 for milestone in training.optimizer.milestones) else ["1", "0.5", "2"],
    }
    if run.layer.kind != "none":
        numbers["layer_lr"] = _around(training.layer_optimizer.lr, 1e-6, 10.0)
        if run.layer.tables == "sensitivity":
            numbers["q_max"] = (min(1.0, run.layer.q_max), max(20.0, run.layer.q_max))
        if run.layer.hardness is not None:
            numbers["hardness"] = _around(run.layer.hardness, 1e-3, 1e3)
        elif not isinstance(run.layer.alpha, list):
            numbers["alpha"] = _around(run.layer.alpha or 5.0, 1e-3, 1e3)
    return numbers, choices


def _recipes_own(run: RunConfig) -> dict[str, Any]:
    """The parameters that stand for the recipe as it is."""
    numbers, choices = _spaces(run)
    training, layer = run.training, run.layer
    own: dict[str, Any] = {
        "lr": training.optimizer.lr,
        "weight_decay": training.optimizer.weight_decay or numbers["weight_decay"][0],
        "layer_lr": training.layer_optimizer.lr,
        "q_max": layer.q_max,
        "hardness": layer.hardness,
        "alpha": layer.alpha or 5.0,
    }
    return {name: own[name] for name in numbers} | {name: options[0] for name, options in choices.items()}


def _settings(run: RunConfig, chosen: dict[str, Any]) -> dict[str, Any]:
    """What parameters change in a run's settings, nested as in a file."""
    data: dict[str, Any] = {"batch_size": int(chosen["batch_size"])}
    if chosen["crop"] == "shifted":
        data |= {"crop": "random", "pad": max(1, run.data.pixels // 8)}
    elif chosen["crop"] != _RECIPES:
        data |= {"crop": "resized", "scale": float(chosen["crop"].split()[1]), "pad": 0}
    if chosen["colours"] == "color_jitter 0.4":
        data |= {"auto_augment": None, "color_jitter": 0.4}
    elif chosen["colours"] != _RECIPES:
        data |= {"auto_augment": None if chosen["colours"] == "none" else chosen["colours"], "color_jitter": None}
    epochs = max(1, round(run.training.epochs * float(chosen["epochs"])))
    schedules: dict[str, dict[str, Any]] = {
        _RECIPES: {},
        "onecycle": {"schedule": "onecycle", "milestones": [], "warmup": 0.0},
        "cosine": {"schedule": "cosine", "milestones": [], "warmup": 0.05},
    }
    optimizer = {"lr": chosen["lr"], "weight_decay": chosen["weight_decay"], **schedules[chosen["schedule"]]}
    if not run.training.optimizer.weight_decay and chosen["weight_decay"] <= 1e-6:
        optimizer["weight_decay"] = 0.0
    training: dict[str, Any] = {"epochs": epochs, "optimizer": optimizer}
    changes = {"data": data, "training": training}
    if "layer_lr" in chosen:
        training["layer_optimizer"] = {"lr": chosen["layer_lr"]}
        changes["layer"] = {name: chosen[name] for name in ("q_max", "hardness", "alpha") if name in chosen}
    return changes


# --------------------------------------------------------------------------------------------------------------- trials


class _Judge(Callback):
    """Tells the pruner how a trial does, and ends it where that says so.

    By the loss: early on few of the held-out images are right, and by how many a trial would end or go on by chance.
    """

    def __init__(self, trial: Any, epochs: int) -> None:
        self._trial, self._epochs = trial, epochs

    @staticmethod
    def every(epochs: int) -> int:
        """Return after how many epochs to look: a third, rounded up, so that the pruner's first rung is behind."""
        return -(-epochs // _FACTOR)

    def on_validation_end(self, trainer: lightning.Trainer, module: Any) -> None:
        epoch = trainer.current_epoch + 1
        if trainer.state.fn != TrainerFn.FITTING or epoch >= self._epochs:
            return
        self._trial.report(-float(trainer.callback_metrics[f"{module.part}_loss"]), _STEPS * epoch // self._epochs)
        if self._trial.should_prune() and not self._trial.user_attrs.get(_WHOLE):
            trainer.should_stop = True


def _work_side_by_side(task: _Task, data: list[Data]) -> None:
    """Train trials until there are enough, here or in several processes."""
    cores = count_cores()
    jobs = max(1, min(wanted_jobs(task.config), task.trials - len(_ended(task.config, task.arm))))
    if jobs == 1:
        _work(task, data)
        return
    code = f"from jpegdl.comparison.tuning import serve_trials; serve_trials({os.getpid()})"
    environments = [worker_environment(row, max(1, cores // jobs), task.config.device) for row in range(jobs)]
    command = [sys.executable, "-P", "-c", code]
    workers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stderr=None, stdout=2, env=environment, start_new_session=True)
        for environment in environments
    ]
    try:
        for worker in workers:
            assert worker.stdin is not None
            with suppress(BrokenPipeError):
                pickle.dump(task, worker.stdin)
                worker.stdin.close()
        while running := [worker for worker in workers if worker.poll() is None]:
            if any(worker.returncode for worker in workers if worker not in running):
                break
            time.sleep(0.2)
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    if any(worker.returncode for worker in workers):
        raise UsageError("a process that trained trials stopped with an error, see above; run the same command again to go on")


def serve_trials(parent: int) -> None:
    """Train trials of the task that comes on standard input, for as long as ``parent`` lives.

    Args:
        parent: id of the process that started this one, which may have been killed before this one can ask who it is.
    """
    end_with(parent)
    warnings.simplefilter("ignore", DataWarning)  # the parent has listed the same data
    warnings.filterwarnings("ignore", module=r"lightning\..*|torch\.optim\.lr_scheduler")
    task: _Task = pickle.load(sys.stdin.buffer)
    try:
        _work(task, _data_of(task.config, task.seed, task.folds))
    except UsageError as error:
        write_line(f"jpegdl: error: {error}")
        sys.exit(1)


def _work(task: _Task, data: list[Data]) -> None:
    import optuna

    study = _study(task.config, task.arm, task.seed)
    lock = filelock.FileLock(task.config.folder / "locks" / f"trials-{task.arm}")
    while True:
        with lock:
            states = (optuna.trial.TrialState.RUNNING,)
            running = len(study.get_trials(deepcopy=False, states=states))
            late = task.until is not None and time.time() >= task.until
            number = len(_ended(task.config, task.arm)) + running
            if late or number >= task.trials:
                return
            study.sampler = _sampler(task.seed * 100_003 + number)
            trial = study.ask()
            numbers, choices = _spaces(task.run)
            chosen: dict[str, Any] = {name: trial.suggest_float(name, *ends, log=True) for name, ends in numbers.items()}
            chosen |= {name: trial.suggest_categorical(name, options) for name, options in choices.items()}
        _train(task, data, study, trial, number, chosen)


def _train(task: _Task, data: list[Data], study: Any, trial: Any, number: int, chosen: dict[str, Any]) -> None:
    from optuna.trial import TrialState

    settings = _settings(task.run, chosen)
    run = with_changes(task.run, settings, f"trial {number}")
    epochs = run.training.epochs
    run = replace(run, training=replace(run.training, test_every=_Judge.every(epochs)))
    digest = hashlib.sha256(json.dumps([asdict(run), task.seed, str(task.tables)], sort_keys=True).encode()).hexdigest()[:10]
    place = task.folder / task.arm / digest
    trial.set_user_attr("settings", settings)
    trial.set_user_attr("folder", f"{task.arm}/{digest}")
    title = f"{task.arm}, trial {number}"
    shares: list[float] = []  # of the folds, one after the other
    trained, early = 0, False
    try:
        for fold, images in zip(task.folds, data, strict=True):
            watching: list[Callback] = [] if shares else [_Judge(trial, epochs)]
            result = _train_fold(task, images, run, place, fold, watching)
            shares.append(result["accuracy"])
            trained, early = result["epochs"], result["epochs"] < epochs
            if not early and len(shares) < len(data) and epochs > 1:  # of one epoch there is no loss to go by before
                trial.report(statistics.fmean(shares), _STEPS * len(shares))
                early = trial.should_prune() and not trial.user_attrs.get(_WHOLE)
            if early:
                break
    except UsageError as error:
        if not any(words in str(error) for words in _LOST):
            raise
        trial.set_user_attr("why", str(error))
        study.tell(trial, state=TrialState.FAIL)
        write_line(f"{title}: lost, {str(error).partition(':')[0]}")
        return
    accuracy = statistics.fmean(shares)
    if early:
        study.tell(trial, state=TrialState.PRUNED)
        done = f"{trained} of {epochs} epochs" if trained < epochs else f"{len(shares)} of {len(data)} folds"
        how = f"ended after {done}"
    else:
        study.tell(trial, accuracy)
        how = f"best {100 * study.best_value:.1f} %"
    if task.arm != "plain" or early or accuracy < study.best_value:
        for fold in task.folds:
            task.place(place, fold).model_file.unlink(missing_ok=True)
    write_line(f"{title}: {100 * accuracy:.1f} % of the held-out images, {how}")


def _train_fold(
    task: _Task, data: Data, run: RunConfig, place: Path, fold: int | None, watching: list[Callback]
) -> dict[str, Any]:
    """Train a trial on one fold, and return its result."""
    run = replace(run, data=replace(run.data, fold=fold))
    own = data.with_config(run.data)
    own.seed = task.seed
    folder = task.place(place, fold)

    def make() -> nn.Module:
        return make_layer(run, own, task.seed, lambda _: task.place(cast(Path, task.tables), fold))

    result = train_run(run, own, make, folder, task.arm, task.seed, _Silent(), watching)
    folder.checkpoint.unlink(missing_ok=True)
    return result


class _Silent:
    """A display of a trial: nothing, as a line comes when it has ended."""

    def show(self, standing: Any) -> None:
        pass

    def close(self) -> None:
        pass


# -------------------------------------------------------------------------------------------------------------- results


def _write(config: CompareConfig, given: Any, found: dict[str, Tuned], data: list[Data], seed: int) -> None:
    """Write the recipe: plain's settings for all arms, and the layer's own for jpeg-dl."""
    given = replace(given, holdout=None, folds=None, fold=None)  # the final runs train on the held-out images too
    base = with_changes(replace(config.run, data=given), found["plain"].settings, "tuned")
    layer = with_changes(replace(config, data=given).arm_run("jpeg-dl"), found["jpeg-dl"].settings, "tuned")
    tuned = CompareConfig(**{**vars(config), **vars(base), "name": f"{config.name}-tuned", "tuned": None})
    tuned.tuned = {
        "trials": found["plain"].trials,
        "images": sum(len(each.test) for each in data),
        "of": {**_tuned_for(base, found), "train": Data(given, seed).train.fingerprint},
        **({"folds": len(data)} if len(data) > 1 else {}),
        "seed": seed,
        "held_out_accuracy": {arm: best.accuracy for arm, best in found.items()},
        "recipe_accuracy": {arm: best.recipe for arm, best in found.items()},
        "arms": {"jpeg-dl": _difference(asdict(tuned.arm_run("jpeg-dl")), asdict(layer))},
    }
    check_compare(tuned)
    whole = asdict(tuned)
    text = yaml.safe_dump(whole, sort_keys=False)
    head = (
        "# Written by jpegdl tune. Plain and jpeg-dl were tuned alike; plain's settings are those of all arms, and what was\n"
        "# found for jpeg-dl is laid over them, under tuned. Trained on all training images: jpegdl compare --config FILE\n"
    )
    write_text(config.folder / TUNED, head + text)


def _tuned_for(base: RunConfig, found: dict[str, Tuned]) -> dict[str, Any]:
    """What was found for all arms, what it was found for, and what of the layer's settings it is laid over."""
    plain, layer = found["plain"].settings, found["jpeg-dl"].settings.get("layer", {})
    return {
        "backbone": base.backbone,
        "pretrained": base.pretrained,
        **plain,
        "data": {"size": base.data.size, "resize": base.data.resize, **plain["data"]},
        "layer": {name: getattr(base.layer, name) for name in layer},
    }


def _difference(there: dict[str, Any], here: dict[str, Any]) -> dict[str, Any]:
    """What of nested settings is not as it is there."""
    found: dict[str, Any] = {}
    for name, value in here.items():
        if isinstance(value, dict) and isinstance(there.get(name), dict):
            if inner := _difference(there[name], value):
                found[name] = inner
        elif value != there.get(name):
            found[name] = value
    return found
