"""The completion scripts; bash's at work, in a bash that has no Python to start."""

import io
import shutil
import subprocess
import sys
from contextlib import redirect_stdout

import pytest

from jpegdl.cli import COMMANDS, main
from jpegdl.recipes import RECIPES

pytest.importorskip("shtab")


@pytest.fixture(scope="module")
def bash(tmp_path_factory):
    """Completes a command line in bash: what may stand in place of its last word."""
    if not (program := shutil.which("bash")):
        pytest.skip("no bash")
    folder = tmp_path_factory.mktemp("completion")
    (folder / "script").write_text(_printed("bash"), encoding="utf-8")
    (folder / "mine.yaml").touch()
    (folder / "photo.jpg").touch()
    (folder / "photos").mkdir()
    subprocess.run([program, "-n", "script"], cwd=folder, check=True, timeout=60)

    def complete(*words):
        code = '. ./script; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_jpegdl; printf "%s\\n" "${COMPREPLY[@]}"'
        done = subprocess.run(
            [program, "--norc", "-c", code, "bash", *words],
            cwd=folder, env={"PATH": ""}, capture_output=True, text=True, check=True, timeout=60,
        encoding="utf-8",)  # fmt: skip
        return sorted(done.stdout.split())

    return complete


def _printed(shell):
    with redirect_stdout(io.StringIO()) as script:
        assert main(["completion", shell]) == 0
    return script.getvalue()


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["jpegdl", "comp"], ["compare", "completion", "compress"]),
        (["jpegdl", ""], sorted([*COMMANDS, "help"])),
        (["jpegdl", "help", "comp"], ["compare", "completion", "compress"]),
        (["jpegdl", "compare", "--layer.al"], ["--layer.alpha"]),
        (["jpegdl", "compare", "--config", "demo", "--see"], ["--seeds"]),
        (["jpegdl", "compare", "--print-config", "--see"], ["--seeds"]),
        (["jpegdl", "train", "--arm", "fixed-"], ["fixed-50", "fixed-75", "fixed-90", "fixed-sensitivity"]),
        (["jpegdl", "compare", "--layer.rounding", "s"], ["sample", "soft", "ste", "ste-matched"]),
        (["jpegdl", "compare", "--pretrained", ""], ["false", "true"]),
        (["jpegdl", "compare", "--config", "de"], ["demo"]),
        (["jpegdl", "compare", "--config", "mi"], ["mine.yaml"]),
        (["jpegdl", "compare", "--config", ""], sorted([*RECIPES, "mine.yaml", "photos"])),
        (["jpegdl", "recipes", "ci"], [name for name in RECIPES if name.startswith("ci")]),
        (["jpegdl", "predict", "pho"], ["photo.jpg", "photos"]),
        (["jpegdl", "predict", "photo.jpg", "--to"], ["--top"]),
        (["jpegdl", "compare", "--data.path", "pho"], ["photos"]),
        (["jpegdl", "summary", "--format", ""], ["csv", "json", "latex", "table"]),
        (["jpegdl", "completion", ""], ["bash", "fish", "tcsh", "zsh"]),
        (["jpegdl", "compare", "--data.crop", ""], ["random", "resized"]),
        (["jpegdl", "evaluate", "--rounding", "ha"], ["hard"]),
        (["jpegdl", "attack", "--device", "cu"], ["cuda"]),
        (["jpegdl", "summary", "--layer"], []),
    ],
)
def test_completing(bash, words, found):
    assert bash(*words) == found


def test_every_command_has_all_its_options(bash):
    for name, command in COMMANDS.items():
        options = {option for action in command.parser()._actions for option in action.option_strings if option[-1] != "+"}
        assert set(bash("jpegdl", name, "-")) == options


@pytest.mark.parametrize(
    ("shell", "start"),
    [("zsh", "#compdef jpegdl"), ("tcsh", "# AUTOMATICALLY GENERATED"), ("fish", "# AUTOMATICALLY GENERATED")],
)
def test_other_shells(capsys, shell, start):
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert script.startswith(start)
    assert "layer.alpha" in script
    if program := shutil.which(shell):
        subprocess.run([program, "-n"], input=script, text=True, check=True, timeout=60, encoding="utf-8")


def test_without_shtab(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 1
    assert capsys.readouterr() == (
        "",
        "jpegdl: error: completion needs shtab, which is not installed: pip install '.[completion]' in a checkout of jpegdl\n",
    )


def test_a_shell_that_is_not_known(capsys):
    assert main(["completion", "bish"]) == 2
    assert "bish" in capsys.readouterr().err
