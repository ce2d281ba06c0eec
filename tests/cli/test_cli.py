import json
import os
import shlex
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from PIL import Image

from commands import one_error, run_command, start_command
from jpegdl import cli
from jpegdl.cli import main
from jpegdl.errors import DataWarning
from jpegdl.parsing import parse

SMALL = [
    "--data.size", "16", "--data.resize", "20", "--training.epochs", "1", "--training.test_every", "1",
    "--device", "cpu",
]  # fmt: skip


@pytest.mark.usefixtures("few_photos")
def test_compare_then_the_single_steps(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, _ = run_command(capsys, "compare", "--config", "demo", *SMALL, "--seeds", "[1]")
    assert status == 0
    assert "| jpeg-dl |" in out
    assert f"\nRun folder: {Path('runs/demo')}\n  report.html " in out
    assert "one seed says nothing about chance" in " ".join(out.split())
    _follow(capsys, out.partition("\nNext:\n")[2])
    accuracy = json.loads((tmp_path / "runs/demo/jpeg-dl/1/result.json").read_text(encoding="utf-8"))["accuracy"]

    status, out, _ = run_command(capsys, "evaluate", "--name", "demo", "--seed", "1")
    assert status == 0
    assert "cifar_resnet8, jpeg-dl, seed 1, rounding soft" in " ".join(out.split())
    assert f"test accuracy {100 * accuracy:.2f} %" in out
    run = tmp_path / "runs/demo/jpeg-dl/1"
    status, out, _ = run_command(capsys, "evaluate", "--config", f"{run}/config.yaml", "--model", f"{run}/model.safetensors")
    assert f"test accuracy {100 * accuracy:.2f} %" in out

    kind = ("--layer.kind", "subsampled")  # whose steps are those of any, for files with 4:2:0
    status, out, _ = run_command(capsys, "calibrate", "--config", "demo", *SMALL, *kind, "--seed", "1", "--save", "mine.json")
    assert status == 0
    assert len(out.splitlines()) == 2 * 9 + 1
    before = json.loads((run / "tables.json").read_text(encoding="utf-8"))["before"]
    saved = json.loads((tmp_path / "mine.json").read_text(encoding="utf-8"))
    assert (saved["tables"]["luma"], saved["subsampling"]) == (before["luma"], "4:2:0")
    status, _, err = run_command(capsys, "calibrate", "demo", "--seed", "1", "--data.size", "24", "--layer.q-max", "9")
    assert status == 1
    assert "whose own settings are in use, --data.size counts for nothing: drop it" in " ".join(err.split())

    status, out, _ = run_command(capsys, "train", "--config", "demo", *SMALL, "--layer.tables", "mine.json", "--name", "other")
    assert status == 0
    assert "jpeg-dl, seed 0: test accuracy" in out


def _follow(capsys, closing):
    """The commands that a comparison ends with are right as they are printed."""
    lines = [line for line in closing.splitlines() if not line.startswith("    ")]  # without what each does
    commands = [shlex.split(line)[: line.split("  ")[1].count(" ") + 1] for line in lines]
    assert [words[:2] for words in commands[:4]] == [["jpegdl", name] for name in ("evaluate", "predict", "export", "summary")]
    assert commands[6:] == [["tensorboard", "--logdir", "runs/demo"]]
    Image.new("RGB", (20, 20)).save("PHOTO.png")
    for _, name, *arguments in commands[:4]:
        if name == "export":  # takes long, and has tests of its own
            chosen = parse(cli.COMMANDS["export"].parser(), arguments)
            assert Path(chosen["output"], chosen["name"], chosen["arm"], str(chosen["seed"]), "result.json").is_file()
        else:
            status, out, err = run_command(capsys, name, *[f"{word}.png" if word == "PHOTO" else word for word in arguments])
            assert (status, err) == (0, "")
            assert out


def test_the_command_line_wins_wherever_it_stands(capsys):
    for arguments in (["--training.epochs", "7", "--config", "demo"], ["--config=demo", "--training.epochs", "7"]):
        with pytest.raises(SystemExit):
            main(["compare", *arguments, "--print_config"])
        assert yaml.safe_load(capsys.readouterr().out)["training"]["epochs"] == 7


def test_what_nobody_foresaw_gets_one_line_too(capsys, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("jpegdl.comparison.compare", broken)
    assert "ZeroDivisionError: by zero (set JPEGDL_TRACEBACK=1 to see where)" in one_error(
        capsys, "compare", "--config", "demo"
    )
    monkeypatch.setenv("JPEGDL_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        main(["compare", "--config", "demo"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "--config", "demmo"], "no recipe 'demmo' and no such file; did you mean demo? recipes: cifar10, "),
        (["compare", "--config", "demo", "--arms", "[plain, magic]"], "'magic'"),
        (
            ["compare", "--config", "demo", "--backbone", "cifar_resnet9"],
            "'cifar_resnet9' is not a timm model; did you mean cifar_resnet",
        ),
        (["compare", "--config", "demo", "--layer.q_maxx", "3"], "--layer.q_maxx"),
        (["compare", "--config", "demo", "--training.epochs", "many"], "training.epochs"),
        (["compare", "--config", "dtd10"], "needs data.path"),
        (["compare", "--config", "dtd10", "--data.path", "nowhere"], "data.path nowhere is not a folder"),
        (["compare", "--config", "demo", "--layer.alpha", "1", "--layer.hardness", "0.7"], "alpha and hardness"),
        (
            ["compare", "--config", "demo", "--layer.alpha", "-1"],
            "layer.alpha must be finite and greater than 0",
        ),
        (["train", "--config", "demo", "--arm", "magic"], "'magic'"),
        (["evaluate", "--config", "demo", "--model", "none.safetensors"], "no model file none.safetensors"),
        (["evaluate", "--config", "demo"], "no trained model in runs/demo/jpeg-dl/0"),
        (["compare", "--config", "demo", "--layer.table", "ones"], "--layer.table"),
        (["train", "--config", "demo", "--seed", "-1"], "seed must be from 0 to 4294967295, got -1"),
        (
            ["calibrate", "--config", "demo", "--method", "guess"],
            "--method must be one of sensitivity, magnitude or null, got guess",
        ),
        (["calibrate", "--config", "demo"], "train arm plain with seed 0 first"),
        (
            ["calibrate", "--config", "demo", "--method", "magnitude", "--model", "any.safetensors"],
            "drop --model any.safetensors",
        ),
        (["xyzzy"], "no command 'xyzzy'; commands: compare, train, "),
        (["--config", "demo", "compare"], "no command '--config'; commands: compare, train, "),
        (
            ["train", "--config", "demo", "--backbone", "resnet18.a1_in1k"],
            "stands for pretrained weights",
        ),
    ],
)
def test_a_mistake_gets_one_line(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert message in one_error(capsys, *arguments)
    assert not list(tmp_path.iterdir())  # nothing half-written


def test_wrong_keys_in_a_file_are_named(capsys, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("layer:\n  stepz: 3\n", encoding="utf-8")
    assert "stepz" in one_error(capsys, "compare", "--config", str(file))
    file.write_text("training: 5\n", encoding="utf-8")
    assert "mine.yaml: training must hold settings of its own, got 5" in one_error(capsys, "compare", "--config", str(file))
    file.write_text("training: {optimizer: fast}\n", encoding="utf-8")
    assert "optimizer must hold settings of its own" in one_error(capsys, "compare", "--config", str(file))
    file.write_text("layer: [", encoding="utf-8")
    assert "mine.yaml" in one_error(capsys, "compare", "--config", str(file))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: &a [*a]", "an alias (*name) refers to something that contains it"),
        ("&all\nlayer: *all", "an alias (*name) refers to something that contains it"),
        ("layer: &layer {tables: [1, {again: *layer}]}", "an alias (*name) refers to something that contains it"),
        ("config: mine.yaml", "loop"),
        (f"arms: {3000 * '['}{3000 * ']'}", "nested too deeply"),
    ],
)
def test_settings_without_an_end(capsys, tmp_path, monkeypatch, content, message):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(content, encoding="utf-8")
    error = one_error(capsys, "compare", "--config", "mine.yaml")
    assert "in mine.yaml: " in error
    assert message in error


@pytest.mark.usefixtures("few_photos")
def test_a_model_of_another_architecture(capsys, tmp_path):
    where = ["--output", str(tmp_path)]
    assert main(["train", "--config", "demo", "--arm", "plain", *SMALL, *where]) == 0
    capsys.readouterr()
    model = str(tmp_path / "demo/plain/0/model.safetensors")
    error = one_error(
        capsys, "evaluate", "--config", "demo", *SMALL, *where, "--arm", "plain", "--backbone", "resnet18", "--model", model
    )
    assert "holds another architecture than asked for" in error
    error = one_error(capsys, "train", "--config", "demo", "--arm", "plain", *SMALL, *where, "--backbone", "cifar_resnet20")
    assert "other settings (backbone was 'cifar_resnet8', now 'cifar_resnet20')" in error


#: For processes of their own, to which no fixture gives few photographs.
MADE_UP = [*SMALL, "--data.name", "made-up", "--data.limit", "24"]


def _until_there(sign, lives):
    deadline = time.monotonic() + 300
    while not sign.exists() and lives() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sign.exists(), "it has ended"


@pytest.mark.parametrize(
    ("number", "status", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_interrupted_training(tmp_path, number, status, word):
    """In the middle: one line, an exit status that says why, and a checkpoint to resume from."""
    endless = [*MADE_UP, "--training.epochs", "100000", "--training.test_every", "100000", "--arm", "plain"]
    process = start_command(tmp_path / "log", "train", "--config", "demo", *endless, "--output", str(tmp_path))
    try:
        _until_there(tmp_path / "demo/plain/0/last.ckpt", process.is_alive)
        os.kill(process.pid, number)
        process.join(300)
    finally:
        process.kill()
    assert process.exitcode == status
    err = (tmp_path / "log").read_text(encoding="utf-8")
    assert "Traceback" not in err
    assert [line for line in err.splitlines() if line.startswith("jpegdl:")] == [
        f"jpegdl: {word}; the same command resumes after the last finished epoch, if there is one"
    ]
    assert not (tmp_path / "demo/plain/0/result.json").exists()


# Python ignores Ctrl+C where its parent does, as a shell has it for commands in the background.
ATTEND = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("then", ["raise", "raise ImportError('cut short')"], ids=["as it is", "as another error"])
def test_interrupted_imports(tmp_path, number, then):
    """PyTorch takes seconds to import; what an import makes of an interrupt is its own affair."""
    (tmp_path / "torch.py").write_text(
        f"import pathlib, time\npathlib.Path({str(tmp_path / 'importing')!r}).touch()\n"
        f"try:\n    time.sleep(300)\nexcept KeyboardInterrupt:\n    {then}\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-c", f"{ATTEND}; from jpegdl.cli import main; sys.exit(main())", "evaluate"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, encoding="utf-8") as process:
        try:
            _until_there(tmp_path / "importing", lambda: process.poll() is None)
            process.send_signal(number)
            _, err = process.communicate(timeout=300)
        finally:
            process.kill()
    assert process.returncode == 128 + number
    assert err == f"jpegdl: {'interrupted' if number == signal.SIGINT else 'terminated'}\n"


def test_signals_are_given_back(capsys, monkeypatch):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    monkeypatch.setattr(cli.COMMANDS["recipes"], "run", lambda chosen: os.kill(os.getpid(), signal.SIGTERM))
    assert run_command(capsys, "recipes") == (143, "", "jpegdl: terminated\n")
    monkeypatch.setenv("LOCAL_RANK", "1")  # of several processes that train one model the first tells
    assert run_command(capsys, "recipes") == (143, "", "")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_signal_that_the_parent_ignores_stays_ignored(monkeypatch):
    monkeypatch.setattr(cli.COMMANDS["recipes"], "run", lambda chosen: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert main(["recipes"]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("few_photos")
def test_a_full_disk(capsys, tmp_path, monkeypatch):
    """The file that could not be written is named, nothing half-written stays, and with room again training goes on."""
    arguments = ["train", "--config", "demo", *SMALL, "--arm", "plain", "--output", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr("torch.save", lambda content, stream: _fill_the_disk())
        error = one_error(capsys, *arguments)
    assert error == f"jpegdl: error: {tmp_path}/demo/plain/0/last.ckpt: cannot be written: No space left on device"
    assert not list(tmp_path.rglob(".writing-*"))
    assert main(arguments) == 0


@pytest.mark.usefixtures("few_photos")
def test_a_folder_that_cannot_be_made(capsys):
    error = one_error(capsys, "train", "--config", "demo", *SMALL, "--arm", "plain", "--output", __file__)
    assert error.startswith(f"jpegdl: error: {__file__}/demo")
    assert error.endswith(": Not a directory")


def _fill_the_disk():
    with Path("/dev/full").open("wb", buffering=0) as stream:
        stream.write(b"more")


def test_two_processes_train_one_model(tmp_path):
    """Lightning's DDP over gloo: one run folder, a finished result."""
    process = start_command(
        tmp_path / "log", "train", "--config", "demo", *MADE_UP, "--layer.tables", "standard:90",
        "--training.devices", "2", "--training.strategy", "ddp", "--output", str(tmp_path),
    )  # fmt: skip
    process.join(600)
    assert process.exitcode == 0, (tmp_path / "log").read_text(encoding="utf-8")
    assert (tmp_path / "log.out").read_text(encoding="utf-8").count("test accuracy") == 1
    assert json.loads((tmp_path / "demo/jpeg-dl/0/result.json").read_text(encoding="utf-8"))["layer_parameters"] == 128


@pytest.mark.usefixtures("few_photos")
def test_a_comparison_leaves_a_page_and_its_commands(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["compare", "--config", "demo", *SMALL, "--seeds", "1", "--name", "my run"]
    assert run_command(capsys, *arguments)[0] == 0
    folder = tmp_path / "runs/my run"
    typed = (folder / "commands.txt").read_text(encoding="utf-8")
    assert "  jpegdl compare --config demo " in typed
    assert "--name 'my run'" in typed
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "my run: what the layer did" in page

    (folder / "report.html").unlink()
    status, out, _ = run_command(capsys, "report", "--name", "my run")
    assert status == 0
    assert f"Written to {Path('runs/my run/report.html')}" in out
    assert "jpegdl compare --config demo" in (folder / "report.html").read_text(encoding="utf-8")
    assert "no comparison in" in one_error(capsys, "report", "--name", "yours")

    # What compare.yaml says is the same comparison: nothing is trained again.
    again = ["compare", "--config", "runs/my run/compare.yaml"]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}
    assert run_command(capsys, *again)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")} == before
    assert len((folder / "commands.txt").read_text(encoding="utf-8").splitlines()) == 2


def test_the_same_warning_is_said_once_a_command(capsys, monkeypatch):
    """Also where other warnings were caught meanwhile, after which Python would show it again."""

    def run(arguments):
        for text in ("first", "second", "first"):
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                warnings.warn(text, DataWarning, stacklevel=1)

    monkeypatch.setattr(sys.modules["jpegdl.cli.main"], "_run", run)
    for _ in range(2):
        assert main(["compare"]) == 0
        assert capsys.readouterr().err.splitlines() == [f"jpegdl: warning: {text}" for text in ("first", "second")]


def test_predict_keeps_a_name_on_its_line(tmp_path, monkeypatch, capsys):
    photo = tmp_path / "a\n\x1b[31mb.png"
    photo.touch()
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    found = SimpleNamespace(labels=("two\nlines", "one"), probabilities=(0.75, 0.25))
    model = SimpleNamespace(classes=["one", "two\nlines"], predict_each=lambda photos, top: [found for _ in photos])
    monkeypatch.setattr("jpegdl.classifier.load", lambda *_: model)
    status, out, _ = run_command(capsys, "predict", "--name", "mine", "--top", "2", photo.name)
    assert status == 0
    header, *lines = out.splitlines()
    assert [line.split() for line in lines] == [[r"a\n\x1b[31mb.png", r"two\nlines", "75.00", "%"], ["one", "25.00", "%"]]
    assert header.index("label") == lines[0].index("two") == lines[1].index("one")
