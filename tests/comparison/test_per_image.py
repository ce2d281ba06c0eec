"""What runs said image by image: metrics, classes, confusions and pairs."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_calibration_error

import factory
from commands import one_error
from jpegdl.cli import main
from jpegdl.comparison import compare
from jpegdl.comparison.per_image import class_accuracies, paired_images, predictions_of, worst_pairs
from jpegdl.data import Data
from jpegdl.errors import UsageError
from jpegdl.report import write_report
from jpegdl.report.classes import image_sections
from jpegdl.runs.metrics import describe
from jpegdl.runs.predictions import Predictions, confusion, predictions_file, read_predictions, write_predictions
from jpegdl.training.module import _said

CLASSES = [f"class, {number}" for number in range(7)]


def _predictions(logits, target):
    found = _said(logits, target).double().numpy().T
    whole = [found[index].astype(int) for index in (0, 1, 3)]
    return Predictions([f"{i}.png" for i in range(len(target))], CLASSES, whole[0], whole[1], found[2], whole[2], found[4])


@pytest.fixture
def drawn():
    """200 random answers to images of the first six of seven classes: logits and classes."""
    generator = torch.Generator().manual_seed(3)
    target = torch.randint(0, 6, (200,), generator=generator)
    logits = torch.randn(200, 7, generator=generator) + 1.5 * torch.nn.functional.one_hot(target, 7)
    return logits, target


def test_metrics_are_those_of_the_logits(drawn):
    logits, target = drawn
    found = _predictions(logits, target)
    said = describe(found)
    right = logits.argmax(1) == target
    assert said["nll"] == pytest.approx(float(torch.nn.functional.cross_entropy(logits, target)), rel=1e-6)
    assert said["top5"] == pytest.approx(float((logits.topk(5).indices == target[:, None]).any(1).double().mean()))
    each = [float(right[target == index].double().mean()) for index in range(6)]
    assert said["balanced_accuracy"] == pytest.approx(np.mean(each))  # a class without images is no part of it
    error = multiclass_calibration_error(logits.softmax(1), target, 7, n_bins=15)
    assert said["calibration_error"] == pytest.approx(float(error), abs=1e-6)
    assert [one.accuracy for one in class_accuracies([found, found])] == pytest.approx(each)
    counts = confusion(found)
    assert counts.sum() == 200
    assert counts[2, 4] == int(((target == 2) & (logits.argmax(1) == 4)).sum())


def test_equal_logits_do_not_count_as_right():
    found = _predictions(torch.zeros(4, 7), torch.tensor([0, 1, 2, 3]))
    assert found.right.sum() == (found.rank == 1).sum() == 1


def test_predictions_are_read_as_they_were_written(tmp_path, drawn):
    found = _predictions(*drawn)
    found.images[:5] = ['a,b"c".png', "=1+1.png", "two\nlines.png", "two\r\nlines.png", "no text \udcff.png"]
    write_predictions(tmp_path / "p.csv", found)
    again = read_predictions(tmp_path / "p.csv", CLASSES)
    assert again.images == found.images
    for name in ("target", "predicted", "rank"):
        assert (getattr(again, name) == getattr(found, name)).all()
    assert again.loss == pytest.approx(found.loss, rel=1e-5)
    with pytest.raises(UsageError, match="damaged"):
        read_predictions(tmp_path / "p.csv", CLASSES[:3])
    with pytest.raises(UsageError, match="missing"):
        read_predictions(tmp_path / "q.csv", CLASSES)
    lines = (tmp_path / "p.csv").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    (tmp_path / "p.csv").write_text(f"{lines[0]}\n{lines[-1].rsplit(',', 2)[0]}", encoding="utf-8")
    with pytest.raises(UsageError, match=r"p\.csv is damaged \(no loss, rank in it\)"):
        read_predictions(tmp_path / "p.csv", CLASSES)


def test_pairs_are_of_the_same_images(drawn):
    logits, target = drawn
    one, other = _predictions(logits, target), _predictions(logits.roll(1, 1), target)
    pair = paired_images(one, other)
    assert pair["both"] + pair["only_arm"] + pair["only_plain"] + pair["neither"] == 200
    assert pair["only_arm"] == int((one.right & ~other.right).sum())
    assert paired_images(one, replace(other, images=other.images[::-1])) is None


def test_the_worst_pairs_come_first(drawn):
    found = _predictions(*drawn)
    pairs = worst_pairs([found])
    counts = confusion(found)
    assert [n for *_, n, _ in pairs] == sorted((counts - np.diag(counts.diagonal())).ravel(), reverse=True)[:10]
    name, other, n, share = pairs[0]
    row, column = CLASSES.index(name), CLASSES.index(other)
    assert (n, share) == (counts[row, column], counts[row, column] / counts[row].sum())


def test_from_training_to_page(tmp_path, capsys, no_figures):
    config = factory.small_comparison(tmp_path)
    compare(replace(config, data=replace(config.data, holdout=0.25)))
    folder = config.run_folder("plain", 0)
    result = folder.result()
    assert result["validation"]["images"] == 6
    assert result["validation"]["accuracy"] == folder.metrics()[-1]["val_accuracy"]
    assert ["test_accuracy" in row for row in folder.metrics()] == [False, True]
    found, notes = predictions_of({"plain": {0: folder}})
    assert (int(found["plain"][0].right.sum()), notes) == (result["correct"], [])
    said = describe(found["plain"][0])
    assert said.pop("top5") is result["metrics"].pop("top5") is None  # of three classes
    assert result["metrics"] == pytest.approx(said, rel=1e-4)
    with pytest.raises(UsageError, match=r"data\.holdout"):
        compare(config)
    kept = (folder.path / "predictions.csv").read_bytes()
    (folder.path / "predictions.csv").unlink()
    page = write_report(config.folder).read_text(encoding="utf-8")
    assert f"jpegdl evaluate --name mine --output {tmp_path} --arm plain --seed 0" in page
    other = tmp_path / "other.csv"
    place = ["--name", "mine", "--output", str(tmp_path)]
    assert main(["evaluate", *place, "--arm", "plain", "--predictions", str(other), "--device", "cpu"]) == 0
    assert all(len(line) <= 80 for line in capsys.readouterr().out.splitlines() if str(tmp_path) not in line)
    assert other.read_bytes() == (folder.path / "predictions.csv").read_bytes() == kept
    assert "jpegdl evaluate --name mine" in (config.folder / "commands.txt").read_text(encoding="utf-8")
    for damaged in (b"", kept[:-40], b"\xff\x00", kept.replace(b"class", b"kind", 1)):
        (folder.path / "predictions.csv").write_bytes(damaged)
        assert len(predictions_of({"plain": {0: folder}})[1]) == 1
    assert main(["evaluate", *place, "--arm", "plain", "--device", "cpu"]) == 0
    assert (folder.path / "predictions.csv").read_bytes() == kept
    (folder.path / "predictions.csv").unlink()
    folder.write_result({**result, "correct": result["correct"] - 1})  # as of a device on which an image falls the other way
    capsys.readouterr()
    assert main(["evaluate", *place, "--arm", "plain", "--device", "cpu"]) == 0
    assert "jpegdl report adds it" not in capsys.readouterr().out  # which would refuse it
    assert not (folder.path / "predictions.csv").exists()
    folder.write_result(result)
    (folder.path / "predictions.csv").write_bytes(kept)
    assert "is a folder" in one_error(capsys, "evaluate", *place, "--arm", "plain", "--predictions", str(tmp_path))
    assert "--predictions" in one_error(
        capsys, "evaluate", *place, "--arm", "plain", "--predictions", "x.csv", "--from-files", str(tmp_path)
    )
    assert "p (McNemar)" in write_report(config.folder).read_text(encoding="utf-8")
    assert len(Data(folder.config().data).train) == 18
    assert math.isfinite(result["metrics"]["nll"])


@pytest.mark.parametrize("content", ["same", "other"])
def test_the_page_pairs_what_the_table_pairs(tmp_path, drawn, content):
    """Images of the same names may be others."""
    said, results, runs = _predictions(*drawn), {}, {}
    for arm, held in (("plain", "same"), ("jpeg-dl", content)):
        part = {"images": len(said), "digest": held, "content": held}
        data = {"name": "folder", "classes": CLASSES, "tables": None, "train": part, "test": part}
        run = factory.fake_run(tmp_path, arm, accuracy=float(said.right.mean()), data=data)
        write_predictions(predictions_file(run), said)
        runs[arm], results[arm] = {0: run}, {0: run.result()}
    summary = factory.fake_summary(results)
    sections = {section.title: section for section in image_sections(runs, summary)}
    paired = summary["arms"]["jpeg-dl"]["difference"] is not None
    assert paired == (content == "same")
    assert ("Image by image" in sections) == paired
    assert any("difference" in row[0] for row in sections["Beyond accuracy"].table) == paired
