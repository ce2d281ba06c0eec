"""How a comparison ends, and its summary read back; on folders made by hand."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from factory import fake_result, fake_summary
from jpegdl.cli import main
from jpegdl.comparison.numbers import summary_csv, summary_latex, summary_table, verdict
from jpegdl.comparison.summary import closing, read_summary, shown_files


def _summary(folder, results, failed=None):
    """Writes the summary and the ``result.json`` of every run."""
    summary = {"name": folder.name, **fake_summary(results, failed)}
    for arm, by_seed in results.items():
        for seed, result in by_seed.items():
            run = folder / arm / str(seed)
            run.mkdir(parents=True)
            (run / "result.json").write_text(json.dumps(result), encoding="utf-8")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return summary


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = Path("runs/mine")
    results = {"plain": {0: fake_result(0.5), 1: fake_result(0.25)}, "jpeg-dl": {0: fake_result(0.75), 1: fake_result(0.625)}}
    return folder, _summary(folder, results)


# --------------------------------------------------------------------------------------------------------------- closing


def test_what_the_files_show(tmp_path):
    assert shown_files(tmp_path) == []
    for name in ("summary.json", "gains.png", "tables-jpeg-dl.png", "tables-ste.png", "ste/0/metrics.csv", "locks/summary"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    shown = {entry.name: entry for entry in shown_files(tmp_path)}
    assert list(shown) == ["summary.json", "gains.png", "tables-ARM.png", "ste/0/metrics.csv"]
    assert shown["tables-ARM.png"].files == [tmp_path / "tables-jpeg-dl.png", tmp_path / "tables-ste.png"]
    assert all(entry.about for entry in shown.values())


def test_closing(mine):
    folder, summary = mine
    (folder / "gains.png").touch()
    lines = closing(folder, summary).splitlines()
    assert len(lines) <= 20
    assert " ".join(lines[: lines.index("")]) == verdict(summary)
    assert "Run folder: runs/mine" in lines
    assert any(line.startswith("  gains.png ") for line in lines)
    assert not any("tables-" in line or "accuracy.png" in line for line in lines)
    after = lines[lines.index("Next:") + 1 :]
    (folder / "summary.md").touch()
    assert max(map(len, closing(folder, summary).splitlines())) <= 80
    assert [line.split("  ")[1].strip() for line in after if not line.startswith("    ")] == [
        "jpegdl evaluate mine",
        "jpegdl predict --name mine PHOTO",
        "jpegdl export mine model.onnx",
        "jpegdl summary mine",
        "jpegdl explain mine",
        "jpegdl attack mine --attacks fgsm,pgd --corruptions '[]'",
    ]
    (folder / "plain/0/events.out.tfevents.1.host.2.0").touch()
    assert "\n  tensorboard --logdir runs/mine " in closing(folder, summary)


def test_closing_names_what_is_not_the_default(tmp_path):
    results = {"plain": {2: fake_result(0.5)}, "jpeg-dl": {}, "ste": {2: fake_result(0.75), 3: fake_result(0.5)}}
    folder = tmp_path / "two words"
    text = closing(folder, _summary(folder, results, {"jpeg-dl": {2: "loss is not finite"}}))
    place = f"'two words' --output {tmp_path}"
    for command in (
        f"evaluate {place} --arm ste --seed 2\n",
        f"predict --name {place} --arm ste PHOTO",
        f"export {place} --arm ste --seed 2 model.onnx",
        f"summary {place}",
    ):
        assert f"  jpegdl {command}" in text
    text = closing(tmp_path / "-x", _summary(tmp_path / "-x", results))
    assert f"  jpegdl summary --name=-x --output {tmp_path}" in text  # nothing that looks like an option
    folder = tmp_path / "alone"
    text = closing(folder, _summary(folder, {"plain": {0: fake_result(0.5)}}))
    assert f"jpegdl evaluate alone --output {tmp_path} --arm plain\n" in text


# --------------------------------------------------------------------------------------------------------------- summary


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ([], summary_table),
        (["--format", "table"], summary_table),
        (["--format", "csv"], summary_csv),
        (["--format", "latex"], summary_latex),
        (["--format", "json"], lambda summary: json.dumps(summary, indent=1)),
    ],
)
def test_the_summary_again(capsys, mine, arguments, written):
    assert main(["summary", "--name", "mine", *arguments]) == 0
    assert capsys.readouterr() == (f"{written(mine[1]).rstrip()}\n", "")


def test_a_summary_that_is_printed_again_needs_no_pytorch(mine):
    code = "import sys; from jpegdl.cli import main; main(['summary', 'mine'])"
    code += "; sys.exit(str([name for name in ('torch', 'lightning', 'timm', 'matplotlib') if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, encoding="utf-8", timeout=300)
    assert (done.stdout, done.stderr) == (f"{summary_table(mine[1]).rstrip()}\n", "[]\n")


def test_the_summary_of_another_output(capsys, tmp_path):
    summary = _summary(tmp_path / "there" / "mine", {"plain": {0: fake_result(0.5)}})
    assert main(["summary", "--name", "mine", "--output", str(tmp_path / "there")]) == 0
    assert capsys.readouterr().out == f"{summary_table(summary).rstrip()}\n"


def test_no_summary(capsys, mine):
    for name, hint in (("mime", "did you mean mine?"), ("zzz", "available: mine")):
        assert main(["summary", "--name", name]) == 1
        assert capsys.readouterr() == ("", f"jpegdl: error: no comparison in runs/{name}; {hint}\n")
    (mine[0] / "summary.json").unlink()
    assert main(["summary", "--name", "mine"]) == 1
    assert "runs/mine/summary.json does not exist; jpegdl compare writes it" in capsys.readouterr().err


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: "null",
        lambda text: "{}",
        lambda text: text.replace('"mean": 0.375', '"mean": "0.375"'),
        lambda text: text.replace('"failed": []', '"failed": [1]'),
        lambda text: text.replace('"accuracy": [0.5, 0.25]', '"accuracy": [0.5]'),
        lambda text: "\udcff",
    ],
)
def test_a_damaged_summary(capsys, mine, damage):
    file = mine[0] / "summary.json"
    file.write_bytes(damage(file.read_text(encoding="utf-8")).encode(errors="surrogateescape"))
    assert main(["summary", "--name", "mine"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("jpegdl: error: runs/mine/summary.json is damaged (")
    assert "jpegdl compare" in err
    assert err.count("\n") == 1


def test_a_terminal_that_cannot_show_a_character(mine, monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["summary", "--name", "mine"]) == 0
    stream.flush()
    assert rb"37.50 \xb1 17.68" in stream.buffer.getvalue()


def test_runs_that_the_summary_does_not_tell_of(mine, recwarn):
    folder, summary = mine
    assert read_summary(folder) == summary
    assert not recwarn.list
    (folder / "ste/0").mkdir(parents=True)
    (folder / "ste/0/result.json").write_text(json.dumps(fake_result(0.9)), encoding="utf-8")  # trained since
    (folder / "plain/1/result.json").write_text(json.dumps(fake_result(0.26)), encoding="utf-8")  # trained again since
    (folder / "jpeg-dl/0/result.json").write_text("{", encoding="utf-8")  # damaged since
    with pytest.warns(match="jpeg-dl/0, plain/1, ste/0; run jpegdl compare"):
        assert read_summary(folder) == summary


def test_runs_of_the_summary_whose_results_are_gone(mine):
    folder, summary = mine
    (folder / "jpeg-dl/1/result.json").unlink()
    with pytest.warns(match="results of some runs in this table are gone: jpeg-dl/1; run jpegdl compare"):
        assert read_summary(folder) == summary


def test_runs_that_the_summary_says_why_it_leaves_out(tmp_path, recwarn):
    results = {
        "plain": {0: fake_result(0.5), 1: fake_result(0.5)},
        "ste": {0: fake_result(0.5), 1: fake_result(0.5, loss=float("nan"))},
    }
    summary = _summary(tmp_path, results)
    assert [entry["seed"] for entry in summary["failed"]] == [1]
    assert read_summary(tmp_path) == summary
    assert not recwarn.list
