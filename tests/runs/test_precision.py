"""``training.precision auto``: what it means here, and that what has begun keeps its own."""

from dataclasses import asdict, replace

import pytest
import yaml

from factory import small_comparison
from jpegdl import read_config
from jpegdl.comparison import CompareConfig, compare, train_arm
from jpegdl.recipes import RECIPES, read_recipe
from jpegdl.runs import RunConfig, TrainingConfig, device


@pytest.fixture
def machine(monkeypatch):
    """A function that says whether this machine computes in bfloat16."""

    def has(it):
        monkeypatch.setattr(device, "has_bfloat16", lambda _: it)

    return has


def _auto(config, **other):
    """The settings of a comparison once more, made with precision auto."""
    return replace(config, training=replace(config.training, precision="auto", channels_last=False), **other)


@pytest.mark.parametrize(("has", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_auto_is_what_the_machine_is_fast_in(machine, tmp_path, has, precision):
    machine(has)
    for config in (
        RunConfig(training=TrainingConfig(precision="auto")),
        CompareConfig(output=str(tmp_path), training=TrainingConfig(precision="auto")).arm_run("jpeg-dl"),
    ):
        assert (config.training.precision, config.training.channels_last) == (precision, has)


def test_a_device_that_is_not_here_is_no_error_yet(machine):
    machine(True)
    assert RunConfig(device="cuda:99", training=TrainingConfig(precision="auto")).training.precision == "32-true"


def test_given_precisions_stay(machine):
    machine(True)
    assert TrainingConfig().precision == RunConfig().training.precision == "32-true"
    assert not RunConfig(training=TrainingConfig(precision="bf16-mixed")).training.channels_last


@pytest.mark.parametrize("first", [True, False])
def test_what_has_begun_keeps_its_precision(machine, tmp_path, no_figures, first):
    """On a machine of the other kind a comparison is resumed with more seeds, and all its runs count."""
    machine(first)
    config = _auto(small_comparison(tmp_path, arms=["plain"], epochs=1, seeds=1))
    compare(config)
    machine(not first)
    done = compare(_auto(config, seeds=2))
    wanted = "bf16-mixed" if first else "32-true"
    assert [result.folder.config().training.precision for result in done.results] == [wanted] * 2
    assert yaml.safe_load((done.folder / "compare.yaml").read_text(encoding="utf-8"))["training"]["precision"] == wanted
    assert _auto(config, name="other").training.precision == ("32-true" if first else "bf16-mixed")


def test_an_arm_with_a_precision_of_its_own_says_nothing_of_the_others(machine, tmp_path):
    machine(False)
    own = {"plain": None, "half": {"layer": {"kind": "none"}, "training": {"precision": "bf16-mixed"}}}
    config = _auto(small_comparison(tmp_path, arms=own, epochs=1, seeds=1))
    train_arm(config, "half", 0)
    assert _auto(config).training.precision == "32-true"
    assert _auto(config).arm_run("half").training.precision == "bf16-mixed"


@pytest.mark.parametrize("first", [True, False])
def test_an_arm_whose_own_precision_is_auto_keeps_what_it_has_begun_with(machine, tmp_path, first):
    machine(first)
    own = {"plain": None, "fast": {"layer": {"kind": "none"}, "training": {"precision": "auto"}}}
    config = small_comparison(tmp_path, arms=own, epochs=1, seeds=1)
    train_arm(config, "plain", 0)
    train_arm(config, "fast", 0)
    machine(not first)
    begun = config.arm_run("fast").training
    assert (begun.precision, begun.channels_last) == (("bf16-mixed", True) if first else ("32-true", False))
    assert config.arm_run("plain").training.precision == "32-true"
    train_arm(config, "fast", 0)  # finished: would be refused with another precision
    assert replace(config, name="other").arm_run("fast").training.channels_last != first


def test_runs_of_float32_are_gone_on_with_by_a_recipe_with_auto(machine, tmp_path):
    machine(True)
    config = small_comparison(tmp_path, arms=["plain"], epochs=1, seeds=1)
    assert config.training.precision == "32-true"
    train_arm(config, "plain", 0)
    train_arm(_auto(config), "plain", 0)  # finished: would be refused with another precision


def test_protocols_and_the_demo_keep_theirs(machine):
    machine(True)
    for name in RECIPES:
        if (read_recipe(name).row or name in ("demo", "smoke", "cifar10")) and name != "rate":
            assert read_config(name).training.precision in ("32-true", "16-mixed"), name
    assert asdict(read_config("dtd10"))["training"]["precision"] == "bf16-mixed"
