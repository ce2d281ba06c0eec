"""The commands that look at what was trained, from a comparison to its page."""

import csv
import io
import json
import re
import shutil
from contextlib import redirect_stdout
from pathlib import Path

import pytest
from PIL import Image

from commands import one_error, run_command
from jpegdl.cli import main
from jpegdl.runs.progress import Bar

SMALL = [
    "--data.size", "32", "--data.resize", "40", "--training.epochs", "1", "--training.test_every", "1",
    "--device", "cpu", "--jobs", "1",
]  # fmt: skip
QUICK = [
    "--attacks", "[fgsm, pgd]", "--images", "12", "--seeds", "1", "--corruptions", "[]", "--jpeg", "[50]", "--device", "cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def looked_at(trained, tmp_path_factory):
    """A comparison whose first seed was attacked and explained, which nobody may change, and what was said of the attack."""
    place = tmp_path_factory.mktemp("looked")
    shutil.copytree(trained, place / "runs/mine")
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said):
        patch.chdir(place)
        assert main(["attack", "--name", "mine", "--eps", "[2, 8]", *QUICK]) == 0
        assert main(["explain", "--name", "mine", "--images", "12", "--ablation", "false", "--pictures", "1"]) == 0
    return place / "runs/mine", said.getvalue()


@pytest.fixture
def seen(looked_at, tmp_path, monkeypatch):
    """A copy of it, runs/mine in the current folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(looked_at[0], tmp_path / "runs/mine")
    return Path("runs/mine")


def _attack(folder, arm):
    return json.loads((folder / arm / "0/attack.json").read_text(encoding="utf-8"))


def _page(capsys):
    """The page of runs/mine, made anew."""
    assert run_command(capsys, "report", "--name", "mine")[0] == 0
    return Path("runs/mine/report.html").read_text(encoding="utf-8")


def test_attack(looked_at):
    folder, said = looked_at
    results = {arm: _attack(folder, arm) for arm in ("plain", "jpeg-dl")}
    assert "jpeg-dl, seed 0, rounding soft: 12 test images" in said
    assert any(trial["gradient"] == "plain" for trial in results["jpeg-dl"]["levels"][0]["trials"])  # transfer
    rows = list(csv.DictReader((folder / "attack.csv").open(encoding="utf-8")))
    worst = {
        (row["arm"], round(float(row["eps_255"]))): float(row["accuracy"])
        for row in rows
        if (row["attack"], row["gradient"]) == ("all", "adaptive")
    }
    assert worst == {
        (arm, round(level["eps_255"])): pytest.approx(level["accuracy"], rel=1e-5)
        for arm, result in results.items()
        for level in result["levels"]
    }
    assert (folder / "attack.png").is_file()
    assert (folder / "jpeg-dl/0/explain/tables.png").is_file()


def test_the_page_shows_attacks_and_explanations(seen, capsys):
    page = _page(capsys)
    assert "Under attack" in page
    tried = re.search("These were run: (.*?)[.] More", " ".join(page.split()))[1]
    assert tried == "fgsm, pgd; through the gradients own, ste, identity, transfer from the plain model"
    assert "No sign of masked gradients on these 12 images: no other gradient" in page or "Signs of masked" in page
    assert "Test images as JPEG files" in page
    assert "A closer look at jpeg-dl, seed 0" in page
    assert "data:image/webp;base64," in page
    for typed in ("jpegdl compare", "jpegdl attack", "jpegdl explain"):
        assert typed in page
    clean = 100 * _attack(seen, "jpeg-dl")["clean"]["accuracy"]
    assert f"<td>{clean:.1f}</td>" in page


@pytest.mark.parametrize(
    ("file", "what"),
    [
        ("attack.json", "has changed since it was attacked"),
        ("explain/explain.json", "has changed since it was looked at"),
    ],
)
def test_what_was_found_of_another_model_is_no_part_of_the_page(seen, capsys, file, what):
    path = seen / "jpeg-dl/0" / file
    found = json.loads(path.read_text(encoding="utf-8"))
    (found if file == "attack.json" else found["made_of"])["model"] = "0" * 16
    path.write_text(json.dumps(found), encoding="utf-8")
    assert what in _page(capsys)


def test_what_was_found_beside_another_plain_model_is_no_part_of_the_page(seen, capsys):
    model = seen / "plain/0/model.safetensors"
    model.write_bytes(model.read_bytes() + b" ")
    page = _page(capsys)
    assert re.search(r"jpeg-dl, seed 0: .*plain model.safetensors .*changed.*attacked", page)
    assert re.search(r"plain model.safetensors .*changed.*looked at", page)
    model.unlink()
    page = _page(capsys)
    assert re.search(r"plain, seed 0: .*model.safetensors is gone.*jpegdl attack", page)


def test_an_arm_that_is_attacked_alone_stands_beside_what_was_found_of_others(seen, capsys):
    before = (seen / "attack.csv").read_text(encoding="utf-8")
    assert run_command(capsys, "attack", "--name", "mine", "--eps", "[2, 8]", *QUICK, "--arms", "[jpeg-dl]")[0] == 0
    assert (seen / "attack.csv").read_text(encoding="utf-8") == before


def test_runs_that_were_attacked_differently_are_not_put_side_by_side(seen, capsys):
    status, out, _ = run_command(capsys, "attack", "--name", "mine", "--eps", "[1]", *QUICK, "--arms", "[plain]")
    assert status == 0
    assert re.search(r"Without jpeg-dl, seed 0.*other settings.*other images", " ".join(out.split()))
    assert {row["arm"] for row in csv.DictReader((seen / "attack.csv").open(encoding="utf-8"))} == {"plain"}
    assert "The runs cannot be compared" in _page(capsys)


def test_arms_without_anything_to_explain_are_named_beside_others(seen, capsys):
    settings = ["--images", "12", "--ablation", "false", "--pictures", "1"]
    status, out, _ = run_command(capsys, "explain", "mine", "--arms", "plain,jpeg-dl", "--seeds", "0,", *settings)
    assert status == 0
    assert "there is nothing to explain of plain, seed 0" in out
    assert "Written to runs/mine/jpeg-dl/0/explain" in out


def test_a_wrong_device_is_one_line_in_every_command(seen, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    for command in (
        ["compare", "other"], ["train", "other"], ["evaluate", "mine"], ["evaluate", "mine", "--from-files", "."],
        ["calibrate", "mine"], ["attack", "mine"], ["explain", "mine"], ["rate", "mine"],
        ["predict", "--name", "mine", "photo.png"],
    ):  # fmt: skip
        assert "device must be auto, cpu, gpu, cuda, cuda:N" in one_error(capsys, *command, "--device", "tpu"), command
    assert sorted(tmp_path.rglob("*")) == before


def test_bad_input_is_one_line(mine, capsys):
    assert "no comparison in runs/mien; did you mean mine" in one_error(capsys, "attack", "--name", "mien", *QUICK)
    for named, command in (
        (r"arm 'gain' in runs/mine.*: jpeg-dl, plain", ["attack", "mine", "--arms", "[gain]", *QUICK]),
        (r"arm jpeg-dl, seed 3 in runs/mine.*: 0, 1", ["explain", "mine", "--seeds", "3,"]),
        (r"plain, seed 0: .*no layer.*--arms", ["explain", "mine", "--arms", "plain", "--images", "2"]),
    ):
        assert re.search(named, one_error(capsys, *command)), command
    assert "eps must each be greater than 0, got -1" in one_error(capsys, "attack", "--name", "mine", "--eps", "[-1]", *QUICK)
    assert "no comparison in" in one_error(capsys, "report", "--name", "nothing")
    assert "no run is there; did you mean mine" in one_error(capsys, "evaluate", "--name", "mien")
    assert "no run is there; available: 0, 1" in one_error(capsys, "evaluate", "--name", "mine", "--seed", "7")
    (mine / "jpeg-dl/0/attack.json").write_text("{", encoding="utf-8")
    assert "attack.json is damaged" in one_error(capsys, "report", "--name", "mine")
    assert run_command(capsys, "attack", "--name", "mine", "--eps", "[2]", *QUICK, "--arms", "[jpeg-dl]")[0] == 0
    rows = (mine / "attack.csv").read_text(encoding="utf-8")
    file = mine / "jpeg-dl/0/attack.json"
    file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), "levels": [{}]}), encoding="utf-8")
    assert "attack.json is damaged (no 'norm' in it)" in one_error(capsys, "report", "--name", "mine")
    assert "must name at least one run" in one_error(capsys, "attack", "--name", "mine", *QUICK, "--seeds", "0")
    assert (mine / "attack.csv").read_text(encoding="utf-8") == rows


@pytest.mark.usefixtures("mine")
def test_compress_then_evaluate_on_the_files(capsys, tmp_path):
    photos = tmp_path / "photos"
    for name in ("a", "b"):
        (photos / name).mkdir(parents=True)
        Image.effect_noise((40, 40), 60).save(photos / name / "1.png")
    status, out, err = run_command(capsys, "compress", str(photos), str(tmp_path / "small"), "--tables", "standard:50")
    assert status == 0
    assert "2 images written, 0 were there already" in out
    assert "MB became" in out
    assert err == ""  # a log gets no bar
    assert Image.open(tmp_path / "small/a/1.jpg").format == "JPEG"
    (photos / "b/2.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    status, out, err = run_command(capsys, "compress", str(photos), str(tmp_path / "small"), "--tables", "standard:50")
    assert status == 1
    assert "0 images written, 2 were there already" in out
    assert [line for line in err.splitlines() if "2.png" in line and line.startswith("jpegdl: error:")]
    assert "--model RUN and --tables FILE" in one_error(capsys, "compress", str(photos), str(tmp_path / "x"))
    assert "--from-files nowhere is not a folder" in one_error(capsys, "evaluate", "--name", "mine", "--from-files", "nowhere")
    assert "knows other classes" in one_error(capsys, "evaluate", "--name", "mine", "--from-files", str(tmp_path / "small"))


def test_a_run_is_evaluated_on_its_own_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for part in ("train", "test"):
        for name, level in (("dark", 60), ("light", 190)):
            (tmp_path / "data" / part / name).mkdir(parents=True)
            for i in range(8):
                Image.new("RGB", (32, 32), (level + i, level, level)).save(tmp_path / "data" / part / name / f"{i}.png")
    small = [
        *SMALL,
        "--data.path",
        "data",
        "--data.size",
        "32",
        "--data.resize",
        "32",
        "--data.batch_size",
        "8",
        "--seeds",
        "1",
    ]
    layer = ["--layer.tables", "standard:50", "--layer.bits", "null"]
    assert run_command(capsys, "compare", "--name", "mine", *small, *layer)[0] == 0
    assert run_command(capsys, "compress", "data/test", "small", "--model", "runs/mine/jpeg-dl/0")[0] == 0
    status, out, err = run_command(capsys, "evaluate", "--name", "mine", "--from-files", "small")
    assert status == 0, err
    assert "bits per pixel" in out
    assert [line.split("  ")[0] for line in out.splitlines() if line.startswith(("soft", "hard", "real"))][:2] == [
        "soft",
        "hard",
    ]
    found = json.loads(Path("runs/mine/jpeg-dl/0/files.json").read_text(encoding="utf-8"))
    assert [row["name"] for row in found["rows"]][:2] == ["soft", "hard"]
    assert run_command(capsys, "report", "--name", "mine")[0] == 0
    assert "In real JPEG files" in Path("runs/mine/report.html").read_text(encoding="utf-8")
    Path("runs/mine/jpeg-dl/0/files.json").write_text(json.dumps({**found, "model": "0" * 16}), encoding="utf-8")
    assert run_command(capsys, "report", "--name", "mine")[0] == 0
    assert "has changed since it read the files" in Path("runs/mine/report.html").read_text(encoding="utf-8")


def test_a_log_gets_a_line_now_and_then(monkeypatch, capsys):
    with Bar("plain, seed 0", "pieces") as bar:
        for done in range(1000):
            bar.show("fgsm", done, 1000)
    assert capsys.readouterr().err == ""  # all within seconds
    monkeypatch.setattr("jpegdl.runs.progress.SELDOM", 0.0)
    with Bar("plain, seed 0", "pieces") as bar:
        bar.show("fgsm", 1.4, 8)
    assert capsys.readouterr().err == "plain, seed 0: fgsm, 1 of 8 pieces\n"


def test_compress_says_what_became_of_the_bytes(tmp_path, capsys):
    (tmp_path / "in").mkdir()
    Image.effect_noise((64, 64), 60).convert("RGB").save(tmp_path / "in/1.jpg", quality=20)
    before = (tmp_path / "in/1.jpg").stat().st_size
    for quality, larger in ((5, False), (95, True)):
        out = tmp_path / str(quality)
        _, said, err = run_command(capsys, "compress", str(tmp_path / "in"), str(out), "--tables", f"standard:{quality}")
        ratio = (out / "1.jpg").stat().st_size / before
        assert f", x{ratio:.2f}" in said
        assert ("LARGER than the originals" in said) is (ratio > 1) is larger
        assert err == ""


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--data.size", "24"], "--data.size counts for nothing"),
        (["--data.jpeg_test=30", "--layer.bits", "4"], "--data.jpeg-test, --layer.bits count for nothing"),
        (["--data", "{flip: false}"], "count for nothing"),
        (["--arms", "plain"], "the default is --arm jpeg-dl"),
        (["--seeds", "1,"], "the default is --seed 0"),
    ],
)
def test_settings_that_are_not_the_runs_own_are_refused(mine, tmp_path, capsys, options, named):
    assert named in one_error(capsys, "evaluate", "mine", *options)
    assert named in one_error(capsys, "evaluate", "mine", "--from-files", str(tmp_path), *options)
    assert named in one_error(capsys, "export", "mine", "model.onnx", *options)


@pytest.mark.parametrize("options", [["--arms", "plain,"], ["--seeds", "5,"]])
def test_several_do_not_say_which_run_to_train(mine, capsys, options):
    assert f"give {options[0][:-1]}" in one_error(capsys, "train", "mine", *options)


def test_settings_that_are_the_runs_own_are_not(mine, capsys):
    where = ["--data.workers", "1", "--device", "cpu"]
    for own in (["--data.size", "16"], ["--config", "demo"], ["--arms", "plain", "--arm", "plain"]):
        status, _, err = run_command(capsys, "evaluate", "--name", "mine", *own, *where)
        assert status == 0, err


@pytest.mark.parametrize("command", ["evaluate", "explain", "attack"])
def test_every_command_says_that_images_are_others(mine, capsys, command):
    file = mine / "jpeg-dl/0/data.json"
    there = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**there, "test": {**there["test"], "content": "another"}}), encoding="utf-8")
    few = {"explain": ["--ablation", "false", "--pictures", "0"], "attack": [*QUICK, "--arms", "jpeg-dl,", "--eps", "2,"]}
    status, out, err = run_command(capsys, command, "mine", "--device", "cpu", *few.get(command, []))
    assert status == 0, err
    assert "other ones" in " ".join(out.split())
