"""What the command line says of itself: help, versions, and what a misspelt name was meant for."""

import re
import shlex
import subprocess
import sys

import pytest
import yaml

import jpegdl
from jpegdl import cli
from jpegdl.cli import main
from jpegdl.errors import did_you_mean
from jpegdl.parsing import NO_SETTINGS, parse

EVERY = sorted(cli.COMMANDS)


@pytest.fixture(autouse=True)
def _columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def _out(capsys, *arguments):
    assert main(list(arguments)) == 0
    out, err = capsys.readouterr()
    assert err == ""
    return out


def _error(capsys, *arguments, status=2):
    assert main(list(arguments)) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("jpegdl: error: ")
    assert err.count("\n") == 1
    return err.removeprefix("jpegdl: error: ").rstrip()


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_the_overview_names_every_command(capsys, monkeypatch, arguments):
    monkeypatch.setenv("COLUMNS", "60")
    out = _out(capsys, *arguments)
    commands, _, rest = out.partition("jpegdl help COMMAND")
    assert max(map(len, commands.splitlines())) <= 60
    for name, command in cli.COMMANDS.items():
        assert f"{name} {command.about}" in " ".join(out.split())
    for text in ("jpegdl COMMAND --help", "jpegdl COMMAND --help-all", "python -m jpegdl", "-V, --version"):
        assert text in rest


def test_version(capsys):
    assert _out(capsys, "--version") == _out(capsys, "-V") == f"jpegdl {jpegdl.__version__}\n"
    done = subprocess.run(
        [sys.executable, "-m", "jpegdl", "--version"], capture_output=True, text=True, check=True, timeout=300, encoding="utf-8"
    )
    assert done.stdout == f"jpegdl {jpegdl.__version__}\n"


@pytest.mark.parametrize("name", EVERY)
def test_short_help_fits_a_screen(capsys, name):
    """Usage, what it does, an example, one line for each option and the way to the others."""
    command = cli.COMMANDS[name]
    out = _out(capsys, name, "--help")
    assert out.startswith(f"usage: jpegdl {name}")
    assert command.about in " ".join(out.split())
    assert "\nexample:\n  jpegdl " in out
    lines = out.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 24
    options = lines[lines.index(next(line for line in lines if line.startswith("options"))) + 1 : -2]
    assert [line.split()[0].lstrip("-") for line in options if line.startswith("  -")] == [
        action.option_strings[0].lstrip("-") for action in _ordered(command) if action.option_strings
    ]
    assert all(len(line.split()) > 1 for line in options)
    assert all(line.startswith("  ") and line[2] != " " for line in options), "an option takes more than a line"
    assert "--help-all" in lines[-1]
    assert _out(capsys, name, "-h") == _out(capsys, "help", name) == out


def test_help_of_what_is_no_command(capsys):
    assert _error(capsys, "help", "comapre").startswith("no command 'comapre'; did you mean compare?")
    assert "python benchmarks/layer.py" in _error(capsys, "bench")


def test_the_overview_imports_no_heavy_package():
    heavy = "{'torch', 'numpy', 'lightning', 'jsonargparse', 'yaml', 'matplotlib'}"
    code = f"import sys; from jpegdl.cli import main; main(['--help']); print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8")
    assert done.stdout.endswith("set()\n")


@pytest.mark.parametrize("name", EVERY)
def test_all_of_the_help_fits_and_is_written_with_dashes(capsys, name):
    out = _out(capsys, name, "--help-all")
    assert max(map(len, out.splitlines())) <= 80
    assert not re.search(r"--[\w.-]*(_|\+)", out)
    assert "Annotated" not in out


def _ordered(command):
    actions = {action.dest: action for action in command.parser()._actions}
    return [actions[name] for name in command.short] or [
        action for action in actions.values() if action.dest not in NO_SETTINGS
    ]


def test_short_help_has_the_defaults_of_the_settings(capsys):
    out = _out(capsys, "compare", "--help")
    for line in (
        "--arms what to compare (default: plain,jpeg-dl)",
        "--training.epochs passes over the training images (default: 30)",
    ):
        assert line in " ".join(out.split())
    actions = [action for action in cli.COMMANDS["compare"].parser()._actions if action.dest not in NO_SETTINGS]
    assert out.endswith(f"\n--help-all explains all {len(actions)} options\n")


def test_help_all(capsys):
    out = _out(capsys, "compare", "--help-all")
    for text in (
        "--layer.q-max",
        "JPEG table units",
        "default: 5.0",
        "a recipe: cifar10, ",
        "--training.layer-optimizer.gamma",
        "(type: int at least 1, default: 30)",
    ):
        assert text in " ".join(out.split())
    for name in EVERY:
        assert "--help-all explain all options" in " ".join(_out(capsys, name, "--help-all").split())


@pytest.mark.parametrize(
    ("command", "texts"),
    [
        ("evaluate", ["all others count only with --model", "--data.workers, --device and --training.devices, num-nodes"]),
        ("calibrate", ["All other options count only with --model, and for magnitude tables without a plain run"]),
    ],
)
def test_help_says_which_settings_count(capsys, command, texts):
    out = " ".join(_out(capsys, command, "--help-all").split())
    assert all(text in out for text in texts)


def test_help_comes_before_mistakes(capsys):
    assert _out(capsys, "recipes", "--nonsense", "--help").startswith("usage: jpegdl recipes")
    assert "no image" not in _error(capsys, "predict", "--name", "none", "--", "--help", status=1)  # a photo of that name


@pytest.mark.parametrize("name", EVERY)
def test_every_example_is_one(name):
    words = shlex.split(cli.COMMANDS[name].example.replace("\\\n", ""), comments=True)
    words = words[: words.index(">")] if ">" in words else words
    assert words[:2] == ["jpegdl", name]
    parse(cli.COMMANDS[name].parser(), words[2:])


# ---------------------------------------------------------------------------------------------------------- did you mean


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["comapre"], "no command 'comapre'; did you mean compare? commands: compare, train, "),
        (["xyz"], "no command 'xyz'; commands: compare, train, "),
        (["compare", "--layer.alhpa", "1"], "no option --layer.alhpa; did you mean --layer.alpha?"),
        (["compare", "--layer.alhpa=1"], "no option --layer.alhpa; did you mean --layer.alpha?"),
        (["compare", "--sedes", "3"], "no option --sedes; did you mean --seeds?"),
        (["compare", "--epochs", "3"], "no option --epochs; did you mean --training.epochs?"),
        (["compare", "--epocs", "3"], "no option --epocs; did you mean --training.epochs?"),
        (
            ["compare", "--lr", "3"],
            "no option --lr; did you mean --training.optimizer.lr or --training.layer-optimizer.lr?",
        ),
        (["compare", "--layer.q_maks", "3"], "no option --layer.q_maks; did you mean --layer.q-max?"),
        (["attack", "--data_path", "x"], "no option --data_path; it is called --data.path now"),
        (["rate", "--path=x"], "no option --path; it is called --data.path now"),
        (["explain", "--path", "x"], "no option --path; it is called --data.path now"),
        (["explain", "--workers", "2"], "no option --workers; it is called --data.workers now"),
        (["explain", "--arm", "plain"], "no option --arm; it is called --arms now"),
        (["explain", "--seed", "1"], "no option --seed; it is called --seeds now"),
        (["attack", "--attack_seed", "2"], "no option --attack_seed; it is called --images-seed now"),
        (["attack", "--accelerator", "cpu"], "no option --accelerator; it is called --device now"),
        (["compare", "--training.accelerator", "cpu"], "no option --training.accelerator; it is called --device now"),
        (
            ["compare", "--training.accelerator", "cpu", "--name", "a"],
            "no option --training.accelerator; it is called --device now",
        ),
        (["compress", "--wide", "true", "a", "b"], "no option --wide any more; CHANGELOG.md says what is done now"),
        (
            ["compare", "--training.rate.kind", "symbols"],
            "no option --training.rate.kind any more; CHANGELOG.md says what is done now",
        ),
        (["compare", "--training", "{accelerator: cpu}"], "no option --training.accelerator; it is called --device now"),
        (["compare", "--layer", "{alhpa: 1}"], "no option --layer.alhpa; did you mean --layer.alpha?"),
        (["compare", "--zzzzz", "3"], "no option --zzzzz; --help-all explains all there are"),
        (["predict", "a.jpg", "--topp", "3"], "no option --topp; did you mean --top?"),
        (["recipes", "cifra10"], "no recipe 'cifra10'; did you mean cifar10? recipes: cifar10, "),
        (["compare", "--config", "cifra10"], "no recipe 'cifra10' and no such file; did you mean cifar10? recipes: cifar10, "),
        (["compare", "--config", "what"], "no recipe 'what' and no such file; recipes: cifar10, "),
    ],
)
def test_did_you_mean(capsys, arguments, message):
    error = _error(capsys, *arguments)
    assert error.startswith(message)
    assert message.endswith(", ") or error == message


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("layer: {alhpa: 1}", "there is no setting layer.alhpa; did you mean layer.alpha?"),
        (
            "training: {optimizer: {momentun: 1}}",
            "no setting training.optimizer.momentun; did you mean training.optimizer.momentum?",
        ),
        ("training: {lr: 1}", "no setting training.lr; did you mean training.optimizer.lr or training.layer_optimizer.lr?"),
        ("sedes: 3", "there is no setting sedes; did you mean seeds?"),
        ("alpha: 3", "there is no setting alpha; did you mean layer.alpha?"),
        ("layers: {alpha: 1}", "there is no setting layers; did you mean layer?"),
        ("1: 2", "there is no setting 1"),
        ("training: {accelerator: cpu}", "there is no setting training.accelerator; it is called device now"),
    ],
)
def test_did_you_mean_in_a_file(capsys, tmp_path, content, message):
    file = tmp_path / "mine.yaml"
    file.write_text(content, encoding="utf-8")
    error = _error(capsys, "compare", "--config", str(file))
    assert error.startswith(f"in {file}: ")
    assert error.endswith(message)


def test_dotted_keys_in_a_file(capsys, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("layer.alpha: 2\ntraining: {optimizer.lr: 0.5}", encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["compare", "--config", str(file), "--print_config"])
    settings = yaml.safe_load(capsys.readouterr().out)
    assert (settings["layer"]["alpha"], settings["training"]["optimizer"]["lr"]) == (2, 0.5)


def test_an_exact_last_part_comes_before_what_is_similar():
    names = ["layer.alpha", "alphas", "training.lr", "other.lr"]
    assert did_you_mean("alpha", names) == "did you mean layer.alpha?"
    assert did_you_mean("x.lr", names) == "did you mean training.lr or other.lr?"
    assert did_you_mean("entirely", names) == ""


# -------------------------------------------------------------------------------------------------------- what is accepted


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compare", "--training.epochs", "many"], "--training.epochs must be a whole number, got many"),
        (["compare", "--data.flip", "perhaps"], "--data.flip must be true or false, got perhaps"),
        (["compare", "--jobs", "1.5"], "--jobs must be a whole number or null, got 1.5"),
        (
            ["compare", "--layer.alpha", "x"],
            "--layer.alpha must be a number or a list of numbers (1,2.5) or null, got x",
        ),
        (
            ["compare", "--seeds", "[1, x]"],
            "--seeds must be a whole number or a list of whole numbers (1,2), got [1, 'x']",
        ),
        (["compare", "--seeds", "1,x"], "--seeds must be a whole number or a list of whole numbers (1,2), got [1, 'x']"),
        (["attack", "--eps", "x"], "--eps must be a list of numbers (1,2.5), got x"),
        (["attack", "--gradients", "own,x"], "--gradients must be some of own, ste, none, identity, got x"),
        (["compare", "--layer", "{q_max: x}"], "--layer.q-max must be a number, got x"),
        (["compare", "--layer.q-max", "x"], "--layer.q-max must be a number, got x"),
        (["compare", "--layer.q_max", "x"], "--layer.q-max must be a number, got x"),
        (["compare", "--data.crop", "x"], "--data.crop must be one of random, resized, got x"),
        (
            ["compare", "--layer.rounding", "sof"],
            "--layer.rounding must be one of soft, hard, sample, ste, ste-matched, noise, none, got sof",
        ),
        (["summary", "--format", "tabl"], "--format must be one of table, csv, latex, json, got tabl"),
        (["completion", "bish"], "SHELL must be one of bash, zsh, tcsh, fish, got bish"),
        (["completion"], "SHELL is missing; --help says what it is"),
        (["predict", "--name", "mine"], "PHOTO is missing; --help says what it is"),
        (["summary", "more", "and"], "unrecognized arguments: more and"),
        (["summary", "more", "--name", "and"], "the comparison has two names, 'more' and that of --name; give one of them"),
        (["compare", "demo"], "demo is a recipe: --config demo takes its settings, --name demo calls a comparison so"),
    ],
)
def test_what_is_accepted_in_words(capsys, arguments, message):
    assert _error(capsys, *arguments) == message


def test_what_is_accepted_in_a_file(capsys, tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("training: {epochs: many}", encoding="utf-8")
    assert _error(capsys, "compare", "--config", str(file)) == f"in {file}: training.epochs must be a whole number, got many"


# --------------------------------------------------------------------------------------------------- the user's own files


def test_modules_in_the_current_folder(tmp_path):
    """They are found, behind everything else: a file named as a module of the standard library does not hide that."""
    (tmp_path / "mine_alone.py").write_text("", encoding="utf-8")
    (tmp_path / "random.py").write_text("raise RuntimeError('hidden')", encoding="utf-8")
    (tmp_path / "yaml.py").write_text("raise RuntimeError('hidden')", encoding="utf-8")
    code = (
        "import sys, importlib; sys.path[:] = [path for path in sys.path if path]; from jpegdl.cli import main; "
        "assert main(['recipes', 'demo']) == main(['recipes', 'demo']) == 0; import random, mine_alone, os; "
        "assert sys.path[-1] == os.getcwd() and sys.path.count(os.getcwd()) == 1"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr


def test_a_current_folder_that_is_gone(tmp_path):
    code = "import os, sys; os.rmdir(os.getcwd()); from jpegdl.cli import main; sys.exit(main(['--version']))"
    folder = tmp_path / "gone"
    folder.mkdir()
    path = [entry for entry in sys.path if entry]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:] = {path!r}; {code}"],
        cwd=folder, capture_output=True, text=True, check=False, timeout=300,
    encoding="utf-8",)  # fmt: skip
    assert done.returncode == 0, done.stderr


# ------------------------------------------------------------------------------------------------- how arguments are written


def _chosen(name, *arguments):
    return parse(cli.COMMANDS[name].parser(), list(arguments))


@pytest.mark.parametrize(
    ("command", "arguments", "setting", "value"),
    [
        ("compare", ["--arms", "plain,jpeg-dl"], "arms", ["plain", "jpeg-dl"]),
        ("compare", ["--arms=plain, jpeg-dl"], "arms", ["plain", "jpeg-dl"]),
        ("compare", ["--arms", "plain"], "arms", ["plain"]),
        ("compare", ["--arms", "[plain, gain]"], "arms", ["plain", "gain"]),
        ("compare", ["--arms", "{plain: null}"], "arms", {"plain": None}),
        ("compare", ["--arms", "plain", "--arms+", "gain"], "arms", ["plain", "gain"]),
        ("compare", ["--seeds", "0,1"], "seeds", [0, 1]),
        ("compare", ["--seeds", "7,"], "seeds", [7]),
        ("compare", ["--seeds", "7"], "seeds", 7),
        ("attack", ["--seeds", "null"], "seeds", None),
        ("attack", ["--eps", "1,2.5"], "eps", [1, 2.5]),
        ("attack", ["--eps", "4"], "eps", [4]),
        ("attack", ["--eps", "[]"], "eps", []),
        ("attack", ["--gradients", "own,none"], "gradients", ["own", "none"]),
        ("attack", ["--attacks", "no,1e5,true"], "attacks", ["no", "1e5", "true"]),  # names, whatever they are in YAML
        ("attack", ["--images_seed", "3"], "images_seed", 3),
        ("attack", ["--images-seed", "3"], "images_seed", 3),
        ("export", ["--dynamic_size", "true", "x.onnx"], "dynamic_size", True),
        ("export", ["--size", "224,160", "x.onnx"], "size", [224, 160]),
        ("evaluate", ["--from_files", "x"], "from_files", "x"),
        ("explain", ["--frequencies", "[[0, 1]]"], "frequencies", [[0, 1]]),
        ("rate", ["--arms", "null"], "arms", None),
    ],
)
def test_lists_and_dashes(command, arguments, setting, value):
    assert _chosen(command, *arguments)[setting] == value


def test_lists_and_dashes_of_settings_below_others():
    chosen = _chosen("compare", "--layer.alpha", "5,6", "--data.jpeg-train", "10,90", "--training.layer_optimizer.lr=1")
    assert (chosen["layer"].alpha, chosen["data"].jpeg_train, chosen["training"].layer_optimizer.lr) == ([5, 6], [10, 90], 1)
    assert _chosen("compare", "--data.jpeg_train", "null")["data"].jpeg_train is None


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("compare", ["mine", "--config", "demo"]),
        ("compare", ["--seeds", "2", "mine"]),
        ("compare", ["--pretrained", "true", "mine", "--jobs", "1"]),
        ("summary", ["mine", "--format", "csv"]),
        ("export", ["mine", "model.onnx"]),
        ("export", ["mine", "--arm", "plain", "model.onnx"]),
        ("export", ["--name", "mine", "model.onnx"]),
        ("export", ["--name=mine", "--", "model.onnx"]),
        ("attack", ["--eps", "-1", "mine"]),
        ("rate", ["--", "mine"]),
        *((name, ["mine"]) for name in ("train", "evaluate", "calibrate", "attack", "explain", "rate", "report")),
    ],
)
def test_the_name_may_come_first(command, arguments):
    chosen = _chosen(command, *arguments)
    assert chosen["name"] == "mine"
    assert chosen.get("file", "model.onnx") == "model.onnx"


def test_photos_are_no_names(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/mine").mkdir(parents=True)
    assert _chosen("predict", "mine", "photo.jpg")["photos"] == ["mine", "photo.jpg"]
    assert "give --name mine" in _error(capsys, "predict", "mine", "photo.jpg", status=1)
