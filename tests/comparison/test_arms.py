import itertools
import json
import os
import random
import re
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import filelock
import pytest
import safetensors.torch
import torch
from conftest import leave_blank

import jpegdl
from commands import start
from factory import small_comparison
from jpegdl.comparison import ARMS, compare, comparison, evaluate_run, schedule, steps, train_arm
from jpegdl.comparison.arms import arm_config, needed_arms
from jpegdl.errors import UsageError
from jpegdl.files import BusyError
from jpegdl.layer import LAYER_KINDS, LayerConfig
from jpegdl.runs import RunConfig

LONG = 300  # seconds after which what should have happened long ago has not

EIGHT_BY_EIGHT = {"luma": (8, 8), "chroma": (8, 8)}


def _config(folder, **changes):
    return small_comparison(folder, **{"name": "arms", **changes})


def _tables(folder, arm):
    return json.loads((folder / "arms" / arm / "0" / "tables.json").read_text(encoding="utf-8"))


# -------------------------------------------------------------------------------------------------------------- each arm


#: Of the arms that differ in the weight of the rate alone, one.
TRAINED = [arm for arm in ARMS if arm == "rate-0.1" or not arm.startswith("rate-")]


@pytest.fixture(scope="module")
def every_arm(tmp_path_factory):
    """A comparison of all arms, with the figures of a few."""
    folder = tmp_path_factory.mktemp("runs")
    draw, drawn = comparison.draw_figures, ("plain", "jpeg-dl", "gain", "regions")

    def few(to, runs, summary):
        arms = {arm: summary["arms"][arm] for arm in drawn}
        draw(to, {arm: runs[arm] for arm in drawn}, {**summary, "arms": arms})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "draw_figures", few)
        done = compare(_config(folder, arms=TRAINED, epochs=1))
        summary, table = done.summary, done.table
    return folder, summary, table


def test_every_arm_trains(every_arm):
    folder, summary, table = every_arm
    assert set(summary["arms"]) == set(TRAINED)
    for arm in TRAINED:
        assert f"| {arm} " in table
        result = json.loads((folder / "arms" / arm / "0" / "result.json").read_text(encoding="utf-8"))
        assert result["epochs"] == 1
    counts = {arm: entry["layer_parameters"] for arm, entry in summary["arms"].items()}
    trained = {"alpha": 256, "hardness": 256, "cascade": 256, "regions": 128}
    frozen = [
        arm
        for arm in TRAINED
        if arm.startswith(("fixed", "jpeg-a", "jpeg-7"))
        or arm in ("plain", "learned-frozen")
        or (arm in LAYER_KINDS and LAYER_KINDS[arm].tables is None)
    ]
    assert counts == {arm: 0 if arm in frozen else trained.get(arm, 128) for arm in TRAINED}
    assert (folder / "arms" / "accuracy.png").is_file()
    assert (folder / "arms" / "gains.png").is_file()
    assert (folder / "arms" / "tables-jpeg-dl.png").is_file()
    assert (folder / "arms" / "saturation-regions.png").is_file()
    for name in ("saturation-gain", "tables-regions"):  # no cap, no single table
        assert not (folder / "arms" / f"{name}.png").is_file()


def test_arms_differ_in_what_they_say_alone(every_arm):
    folder, *_ = every_arm
    for arm in ("fixed-sensitivity", "fixed-75", "learned-frozen"):
        tables = _tables(folder, arm)
        assert tables["before"] == tables["after"], arm
    learned = _tables(folder, "jpeg-dl")
    assert learned["before"] != learned["after"]
    assert _tables(folder, "learned-frozen")["before"]["luma"] == learned["after"]["luma"]
    assert _tables(folder, "init-sensitivity") == learned
    assert _tables(folder, "fixed-75")["before"]["luma"][0][0] == 8
    assert torch.tensor(_tables(folder, "init-ones")["before"]["chroma"]).eq(1).all()
    random_steps = torch.tensor(_tables(folder, "init-random")["before"]["luma"])
    assert random_steps.min() >= 0.01
    assert random_steps.max() <= 5
    hardness = _tables(folder, "hardness")
    assert "hardness_luma" in hardness["after"]

    weights = {arm: safetensors.torch.load_file(folder / "arms" / arm / "0" / "model.safetensors") for arm in TRAINED}
    named = {
        arm: {name for name in state if name.startswith("layer.") and not name.endswith("_extra_state")}
        for arm, state in weights.items()
    }
    assert named["plain"] == named["normalize"] == named["jpeg-augmentation"] == set()
    assert "layer.1.luma" in named["cascade"]
    assert weights["cascade"]["layer.0.luma"].ne(weights["cascade"]["layer.1.luma"]).any()
    # What each arm does to the images shows in the weights that follow; two that were the same by mistake would be equal.
    backbones = {arm: state["backbone.conv1.weight"] for arm, state in weights.items()}
    same = {frozenset((a, b)) for a in TRAINED for b in TRAINED if a < b and torch.equal(backbones[a], backbones[b])}
    assert same == {frozenset(("init-sensitivity", "jpeg-dl"))}


def test_any_arm_can_be_evaluated(every_arm):
    folder, summary, _ = every_arm
    config = _config(folder)
    for arm in ("plain", "jpeg-75", "cascade", "regions", "hardness", "tanh", "cap-only"):
        found = evaluate_run(config, arm, 0)
        assert found["accuracy"] == pytest.approx(summary["arms"][arm]["accuracy"][0]), arm
    assert evaluate_run(config, "cascade", 0, rounding="hard")["rounding"] == "hard"
    for arm in ("plain", "gain", "tanh"):
        with pytest.raises(UsageError, match=f"{arm}/0 has no quantizer"):
            evaluate_run(config, arm, 0, rounding="hard")


def test_the_table_of_arms_says_what_they_are():
    docs = Path(jpegdl.__file__).parents[2] / "docs"
    if not docs.is_dir():
        pytest.skip("an installed package has no docs")
    rows = re.findall(
        r"^\| `([\w-]+)` \| ([^|]+) \| [\d.]+ \|", (docs / "reference/controls.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(rows) > 20
    assert {name: about for name, about in rows if ARMS[name].about != about} == {}


def test_what_an_arm_starts_from():
    run = RunConfig()
    needed = {arm: needed_arms(run, arm) for arm in ARMS}
    assert needed["jpeg-dl"] == needed["ste"] == needed["tanh"] == ["plain"]
    assert needed["learned-frozen"] == ["jpeg-dl"]
    assert needed["plain"] == needed["fixed-50"] == needed["init-random"] == needed["gain"] == needed["jpeg-75"] == []
    magnitude = replace(run, layer=LayerConfig(tables="magnitude"))
    assert needed_arms(magnitude, "jpeg-dl") == []
    assert arm_config(run, "hardness").layer.hardness == 0.7
    assert arm_config(replace(run, layer=LayerConfig(hardness=0.3)), "hardness").layer.hardness == 0.3
    with pytest.raises(UsageError, match="arm jpeg-dl cannot start from .*layer.tables learned"):
        compare(_config(Path("nowhere"), layer=LayerConfig(tables="learned")))
    with pytest.raises(UsageError, match="starts from the tables of arm jpeg-dl"):
        compare(_config(Path("nowhere"), arms=["plain", "learned-frozen"]))


def test_tables_must_have_been_learned(tmp_path):
    config = _config(tmp_path)
    with pytest.raises(UsageError, match="train arm jpeg-dl with seed 0 first"):
        train_arm(config, "learned-frozen", 0)
    train_arm(config, "plain", 0)
    train_arm(config, "jpeg-dl", 0)
    (tmp_path / "arms" / "jpeg-dl" / "0" / "tables.json").write_text('{"after": {"luma": [[1]]}}', encoding="utf-8")
    with pytest.raises(UsageError, match="tables.json holds no tables"):
        train_arm(config, "learned-frozen", 0)
    refused = {"does not learn two": LayerConfig(kind="log"), "layer.trainable_alpha": LayerConfig(trainable_alpha=True)}
    for message, layer in refused.items():
        with pytest.raises(UsageError, match=message):
            train_arm(replace(config, name="other", layer=layer), "learned-frozen", 0)


@pytest.mark.usefixtures("no_figures")
def test_an_arm_that_fails_does_not_stop_the_others(tmp_path, monkeypatch):
    train_run = steps.train_run

    def failing(run, data, make_layer, folder, arm, seed, display):
        if (arm, seed) in (("init-ones", 1), ("plain", 2)):
            folder.path.mkdir(parents=True)
            raise UsageError("the loss is nan")
        return train_run(run, data, make_layer, folder, arm, seed, display)

    monkeypatch.setattr(steps, "train_run", failing)
    config = _config(tmp_path, arms=["plain", "jpeg-dl", "init-ones", "gain"], seeds=3)
    done = compare(config)
    summary, table = done.summary, done.table
    assert json.loads((tmp_path / "arms" / "summary.json").read_text(encoding="utf-8")) == summary
    failed = {(entry["arm"], entry["seed"]): entry["why"] for entry in summary["failed"]}
    assert failed == {
        ("plain", 2): "the loss is nan",
        ("jpeg-dl", 2): "it starts from arm plain, which failed",
        ("init-ones", 1): "the loss is nan",
    }
    assert {arm: entry["seeds"] for arm, entry in summary["arms"].items()} == {
        "plain": [0, 1], "jpeg-dl": [0, 1], "init-ones": [0, 2], "gain": [0, 1, 2],
    }  # fmt: skip
    assert "the loss is nan" in table

    # A later call with fewer arms and seeds knows of all of it still, the failures too.
    done = compare(_config(tmp_path, arms=["plain"], seeds=1))
    later, table = done.summary, done.table
    assert set(later["arms"]) == set(summary["arms"])
    assert {(entry["arm"], entry["seed"]) for entry in later["failed"]} == set(failed)

    monkeypatch.setattr(steps, "train_run", train_run)
    again = compare(config).summary
    assert again["failed"] == []
    assert all(entry["seeds"] == [0, 1, 2] for entry in again["arms"].values())


# ------------------------------------------------------------------------------------------------------- several machines


def test_no_two_train_the_same(tmp_path):
    config = _config(tmp_path)
    (tmp_path / "arms" / "locks").mkdir(parents=True)
    with filelock.FileLock(tmp_path / "arms" / "locks" / "plain-0"), pytest.raises(BusyError, match="arm plain, seed 0 of"):
        train_arm(config, "plain", 0)
    assert train_arm(config, "plain", 0)["arm"] == "plain"
    with filelock.FileLock(tmp_path / "arms" / "locks" / "plain-0"):  # what is finished needs no claim
        assert train_arm(config, "plain", 0)["arm"] == "plain"


def test_a_comparison_waits_for_what_others_train(tmp_path, monkeypatch):
    monkeypatch.setattr(schedule, "PATIENCE", 0.05)
    config = _config(tmp_path, seeds=2)
    trained = []
    train_run = steps.train_run

    def recording(run, data, make_layer, folder, arm, seed, display):
        trained.append((arm, seed))
        return train_run(run, data, make_layer, folder, arm, seed, display)

    monkeypatch.setattr(steps, "train_run", recording)
    (tmp_path / "arms" / "locks").mkdir(parents=True)
    lock = filelock.FileLock(tmp_path / "arms" / "locks" / "plain-0", thread_local=False)
    lock.acquire()

    def give_back():
        end = time.monotonic() + LONG
        while ("jpeg-dl", 1) not in trained and time.monotonic() < end:
            time.sleep(0.02)
        lock.release()

    other = threading.Thread(target=give_back)
    other.start()
    compare(config)
    other.join(LONG)
    # Nothing of seed 0 before its plain run, which another process held, was free.
    assert trained == [("plain", 1), ("jpeg-dl", 1), ("plain", 0), ("jpeg-dl", 0)]


# ------------------------------------------------------------------------------------------------------------------ kills


def _compare(folder, name, hook, *arguments):
    """Train both arms, in a process of its own, which ``hook`` may end."""
    torch.set_num_threads(1)
    leave_blank(pytest.MonkeyPatch())
    told = hook(*arguments)
    compare(_config(folder, name=name, epochs=3))
    if told is not None:
        (folder / "calls").write_text(str(told()), encoding="utf-8")


def _die_before(file, turn):
    """Kill the process when ``file`` has been half written, and the earlier ``turn`` times whole."""
    calls, replace_file = itertools.count(), Path.replace

    def replace_or_die(self, target):
        if str(target).endswith(file) and next(calls) == turn:
            with self.open("r+b") as stream:
                stream.truncate(self.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)
        return replace_file(self, target)

    Path.replace = replace_or_die


def _die_at(moment):
    """Kill the process at call number ``moment`` of Python, however long it takes to get there."""
    calls = itertools.count()

    def kill(*_):
        if next(calls) == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.setprofile(kill)

    def counted():
        sys.setprofile(None)
        return next(calls)

    return counted


@pytest.fixture
def train(tmp_path):
    """``train(name, hook, *arguments)`` trains both arms in ``tmp_path``/name, in a process of its own; how that ended."""

    def train(*arguments):
        process = start(_compare, tmp_path, *arguments)
        process.join(LONG)
        return process.exitcode

    return train


def _numbers(folder):
    found = {}
    for arm in ("plain", "jpeg-dl"):
        result = json.loads((folder / arm / "0" / "result.json").read_text(encoding="utf-8"))
        found[arm] = [result["accuracy"], result["loss"], (folder / arm / "0" / "model.safetensors").read_bytes()]
        rows = (folder / arm / "0" / "metrics.csv").read_text(encoding="utf-8").splitlines()
        seconds = rows[0].split(",").index("seconds")
        found[arm] += [[cell for i, cell in enumerate(row.split(",")) if i != seconds] for row in rows]
    return [*found.values(), (folder / "jpeg-dl" / "0" / "tables.json").read_bytes()]


def _nothing():
    """Let the process live."""


#: Half of which file was written when the process was killed, how often whole before; what was there by then, what was not.
MOMENTS = {
    "in the first checkpoint": ("plain/0/last.ckpt", 0, "plain/0/metrics.csv", "plain/0/last.ckpt"),
    "between an epoch's metrics and its checkpoint": ("jpeg-dl/0/last.ckpt", 1, "jpeg-dl/0/last.ckpt", "jpeg-dl/0/tables.json"),
    "between the last epoch and the result": ("jpeg-dl/0/result.json", 0, "jpeg-dl/0/tables.json", "jpeg-dl/0/result.json"),
    "in a figure": ("tables-jpeg-dl.png", 0, "gains.png", "tables-jpeg-dl.png"),
    "in the summary": ("summary.md", 0, "summary.json", "summary.md"),
}


def test_killed_at_five_moments_it_ends_with_the_same_numbers(tmp_path, train):
    """One comparison, killed again and again while a file is half written."""
    assert train("whole", _nothing) == 0
    folder = tmp_path / "killed"
    for moment, (file, turn, there, missing) in MOMENTS.items():
        assert train("killed", _die_before, file, turn) == -signal.SIGKILL, moment
        assert list((folder / file).parent.glob(".writing-*")), moment
        assert (folder / there).is_file(), moment
        assert not (folder / missing).exists(), moment
    assert train("killed", _nothing) == 0
    assert _numbers(folder) == _numbers(tmp_path / "whole")
    assert not list(folder.rglob(".*"))  # nothing half-written is left


@pytest.mark.soak
def test_killed_twenty_times_at_random_it_ends_with_the_same_numbers(tmp_path, train):
    """At any call of Python: the moments are in the message where it fails, and JPEGDL_SOAK=SEED draws them again."""
    assert train("first", _nothing) == 0  # everything imported and compiled
    assert train("whole", _die_at, None) == 0
    calls = int((tmp_path / "calls").read_text(encoding="utf-8"))
    seed = int(os.environ.get("JPEGDL_SOAK", os.getpid()))
    draw = random.Random(seed)
    moments, kills, while_training = [seed], 0, 0
    while kills < 20:
        moments.append(draw.randrange(7 * calls // 10))
        ended = train("killed", _die_at, moments[-1])
        if ended == 0:  # little was left to do
            (tmp_path / "killed").rename(tmp_path / f"done-{len(moments)}")
            continue
        assert ended == -signal.SIGKILL, moments
        kills += 1
        runs = [tmp_path / "killed" / arm / "0" for arm in ("plain", "jpeg-dl")]
        while_training += any((run / "config.yaml").exists() and not (run / "result.json").exists() for run in runs)
    assert train("killed", _nothing) == 0, moments
    assert while_training >= 5, moments
    expected = _numbers(tmp_path / "whole")
    for folder in [tmp_path / "killed", *tmp_path.glob("done-*")]:
        assert _numbers(folder) == expected, moments
        assert not list(folder.rglob(".*")), moments  # nothing half-written is left
