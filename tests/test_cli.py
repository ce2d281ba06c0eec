import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from jpegdl.cli import main

pytestmark = pytest.mark.filterwarnings("ignore")

SMALL = [
    "--data.size", "16", "--data.resize", "20", "--training.epochs", "1", "--training.test_every", "1",
    "--training.accelerator", "cpu",
]  # fmt: skip


def _main(capsys, *arguments):
    status = main(list(arguments))
    out, err = capsys.readouterr()
    return status, out, err


def _error(capsys, *arguments):
    """The one line that a wrong command prints."""
    status, _, err = _main(capsys, *arguments)
    lines = [line for line in err.splitlines() if line.startswith("jpegdl: error:")]
    assert status in (1, 2)
    assert len(lines) == 1
    assert "Traceback" not in err
    return lines[0]


@pytest.mark.usefixtures("few_photos")
def test_compare_then_the_single_steps(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = _main(capsys, "compare", "--config", "demo", *SMALL, "--seeds", "[1]")
    assert status == 0
    assert "| jpeg-dl |" in out
    assert f"Run folder: {Path('runs/demo')}" in out
    accuracy = json.loads((tmp_path / "runs/demo/jpeg-dl/1/result.json").read_text())["accuracy"]

    status, out, _ = _main(capsys, "evaluate", "--name", "demo", "--seed", "1")
    assert status == 0
    assert "cifar_resnet8, jpeg-dl, seed 1, rounding soft" in out
    assert f"test accuracy {100 * accuracy:.2f} %" in out
    run = tmp_path / "runs/demo/jpeg-dl/1"
    status, out, _ = _main(capsys, "evaluate", "--config", f"{run}/config.yaml", "--model", f"{run}/model.safetensors")
    assert f"test accuracy {100 * accuracy:.2f} %" in out

    status, out, _ = _main(capsys, "calibrate", "--config", "demo", *SMALL, "--seed", "1", "--save", "mine.json")
    assert status == 0
    assert len(out.splitlines()) == 2 * 9 + 1
    before = json.loads((run / "tables.json").read_text())["before"]
    assert json.loads((tmp_path / "mine.json").read_text())["luma"] == before["luma"]

    status, out, _ = _main(capsys, "train", "--config", "demo", *SMALL, "--layer.tables", "mine.json", "--name", "other")
    assert status == 0
    assert "jpeg-dl, seed 0: test accuracy" in out


def test_help(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["compare", "--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for text in ("--layer.q_max", "JPEG table units", "default: 5.0", "a recipe: cifar10, "):
        assert text in " ".join(out.split())
    assert main([]) == 0


def test_the_command_line_wins_wherever_it_stands(capsys):
    for arguments in (["--training.epochs", "7", "--config", "demo"], ["--config=demo", "--training.epochs", "7"]):
        with pytest.raises(SystemExit):
            main(["compare", *arguments, "--print_config"])
        assert yaml.safe_load(capsys.readouterr().out)["training"]["epochs"] == 7


def test_what_nobody_foresaw_gets_one_line_too(capsys, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("jpegdl.cli.compare", broken)
    assert "ZeroDivisionError: by zero (set JPEGDL_TRACEBACK=1 to see where)" in _error(capsys, "compare", "--config", "demo")
    monkeypatch.setenv("JPEGDL_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        main(["compare", "--config", "demo"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "--config", "demmo"], "no recipe 'demmo' and no such file; recipes: cifar10, "),
        (["compare", "--config", "demo", "--arms", "[plain, magic]"], "'magic'"),
        (
            ["compare", "--config", "demo", "--backbone", "cifar_resnet9"],
            "'cifar_resnet9' is no timm model; did you mean cifar_resnet",
        ),
        (["compare", "--config", "demo", "--layer.q_maxx", "3"], "--layer.q_maxx"),
        (["compare", "--config", "demo", "--training.epochs", "many"], "training.epochs"),
        (["compare", "--config", "dtd10"], "needs data.path"),
        (["compare", "--config", "dtd10", "--data.path", "nowhere"], "data.path nowhere is not a folder"),
        (["compare", "--config", "demo", "--layer.alpha", "1", "--layer.hardness", "0.7"], "exclude each other"),
        (["train", "--config", "demo", "--arm", "magic"], "'magic'"),
        (["evaluate", "--config", "demo", "--model", "none.safetensors"], "no model file none.safetensors"),
        (["evaluate", "--config", "demo"], "no trained model in runs/demo/jpeg-dl/0"),
        (["compare", "--config", "demo", "--layer.table", "ones"], "--layer.table"),
        (["train", "--config", "demo", "--seed", "-1"], "seed must be a number from 0"),
        (["calibrate", "--config", "demo", "--method", "guess"], "sensitivity or magnitude, got 'guess'"),
        (["calibrate", "--config", "demo"], "train arm plain with seed 0 first"),
        (["paint"], "invalid choice: 'paint'"),
    ],
)
def test_a_mistake_gets_one_line(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in _error(capsys, *arguments)
    assert not list(tmp_path.iterdir())  # nothing half-written


def test_wrong_keys_in_a_file_are_named(capsys, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("layer:\n  stepz: 3\n")
    assert "stepz" in _error(capsys, "compare", "--config", str(file))
    file.write_text("training: 5\n")
    assert "mine.yaml: training must hold settings of its own, got 5" in _error(capsys, "compare", "--config", str(file))
    file.write_text("training: {optimizer: fast}\n")
    assert "optimizer must hold settings of its own" in _error(capsys, "compare", "--config", str(file))
    file.write_text("layer: [")
    assert "mine.yaml" in _error(capsys, "compare", "--config", str(file))


@pytest.mark.usefixtures("few_photos")
def test_a_model_of_another_architecture(capsys, tmp_path):
    where = ["--output", str(tmp_path)]
    assert main(["train", "--config", "demo", "--arm", "plain", *SMALL, *where]) == 0
    capsys.readouterr()
    model = str(tmp_path / "demo/plain/0/model.safetensors")
    error = _error(
        capsys, "evaluate", "--config", "demo", *SMALL, *where, "--arm", "plain", "--backbone", "resnet18", "--model", model
    )
    assert "holds another architecture than asked for" in error
    error = _error(capsys, "train", "--config", "demo", "--arm", "plain", *SMALL, *where, "--backbone", "cifar_resnet20")
    assert "other settings (backbone was 'cifar_resnet8', now 'cifar_resnet20')" in error


def test_interrupt(tmp_path):
    """Ctrl+C in the middle: one line, exit 130, and a checkpoint to resume from."""
    small = [*SMALL, "--training.epochs", "300", "--training.test_every", "300", "--output", str(tmp_path), "--arm", "plain"]
    # Python ignores Ctrl+C where its parent does, as a shell has it for commands in the background.
    attend = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"
    start = f"{attend}; from jpegdl.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", start, "train", "--config", "demo", *small]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
    checkpoint = tmp_path / "demo/plain/0/last.ckpt"
    while not checkpoint.exists() and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "jpegdl: interrupted; the same command resumes" in err
    assert "Traceback" not in err
    assert not (tmp_path / "demo/plain/0/result.json").exists()


@pytest.mark.filterwarnings("default")
def test_two_processes_train_one_model(tmp_path):
    """Lightning's DDP over gloo: one run folder, a finished result."""
    command = [
        sys.executable, "-m", "jpegdl.cli", "train", "--config", "demo", *SMALL, "--layer.tables", "standard:90",
        "--training.devices", "2", "--training.strategy", "ddp", "--output", str(tmp_path),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test accuracy") == 1, done.stdout
    assert json.loads((tmp_path / "demo/jpeg-dl/0/result.json").read_text())["layer_parameters"] == 128
