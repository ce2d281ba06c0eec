"""Accuracy against true bits per pixel: points of runs, curves, Bjontegaard measures, the command."""

import csv
import io
import json
import math
import os
import re
import shutil
from dataclasses import replace

import filelock
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as v2

from commands import one_error, run_command
from factory import fake_result, made_up_config, make_run
from jpegdl.codec import (
    RATE_COLUMNS,
    Curve,
    CurveConfig,
    Encoder,
    bd_accuracy,
    bd_rate,
    compare_curves,
    rate_comparison,
    rate_comparisons,
    rate_curves,
    rate_figure,
    rate_notes,
    rate_rows,
    rate_run,
    rate_table,
    rate_text,
    read_rate,
)
from jpegdl.codec.rate_results import REFERENCES
from jpegdl.data import Data
from jpegdl.errors import UsageError
from jpegdl.files import BusyError
from jpegdl.layer import LayerConfig, PrependedModel
from jpegdl.runs import RunFolder, open_run
from jpegdl.tables import standard_tables

FEW = CurveConfig(qualities=[10, 50, 90], subsampling="4:4:4")


def made(path, arm="jpeg-dl", quality=60, seed=0, **layer):
    """A finished run, whose comparison's folder is three above it."""
    folder = make_run(path / arm / str(seed), made_up_config(bits=None, **layer), arm, steps=10, seed=seed, quality=quality)
    run = folder.config()
    folder.write_result({"arm": arm, "seed": seed, **fake_result(data=Data(run.data, 0).fingerprint)})
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rate") / "runs" / "few"
    made(folder, "plain")
    for weight, quality in ((0.1, 85), (0.3, 40), (1, 12)):
        made(folder, f"rate-{weight}", quality)
    return folder


@pytest.fixture(scope="module")
def results(place):
    return {arm: {0: rate_run(RunFolder(place / arm / "0"), FEW)} for arm in ("plain", "rate-0.1", "rate-0.3", "rate-1")}


def test_points_are_of_real_files_and_of_the_network_alone(results, place):
    folder = RunFolder(place / "rate-0.3" / "0")
    (point,) = results["rate-0.3"][0]["points"]
    images = [image for image, _ in Data(folder.config().data, test_only=True).test]
    targets = torch.tensor([target for _, target in Data(folder.config().data, test_only=True).test])
    encoder = Encoder(*standard_tables(40))
    files = [encoder.encode(v2.to_pil_image(image)) for image in images]
    assert point["bits_per_pixel"] == pytest.approx(8 * sum(map(len, files)) / (16 * 16 * len(files)))
    assert point["entries"]["luma"] == standard_tables(40)[0].int().tolist()
    decoded = torch.stack([v2.pil_to_tensor(Image.open(io.BytesIO(file))).float() / 255 for file in files])
    model = open_run(folder).model
    bare = PrependedModel(
        model.backbone, torch.nn.Identity(), model.mean.flatten().tolist(), model.std.flatten().tolist()
    ).eval()
    with torch.no_grad():
        right = bare(decoded).argmax(1) == targets
        losses = torch.nn.functional.cross_entropy(bare(decoded), targets, reduction="none")
        hard = model
        hard.layer.rounding = "hard"
        assert results["rate-0.3"][0]["hard"] == pytest.approx(
            float((hard(torch.stack(images)).argmax(1) == targets).float().mean())
        )
    assert point["accuracy"] == pytest.approx(float(right.float().mean()))
    (curve,) = [c for c in rate_curves(results) if c.name == "rate"]
    place_of_it = [p["arm"] for p in curve.points].index("rate-0.3")
    assert curve.right(len(images))[place_of_it].tolist() == right.tolist()
    assert point["loss"] == curve.losses[place_of_it] == pytest.approx(float(losses.mean()), rel=1e-5)
    np.testing.assert_allclose(curve.each_loss(len(images))[place_of_it], losses.numpy(), rtol=2e-3, atol=1e-4)


def test_default_jpeg_is_measured_with_the_plain_network(results):
    points = results["plain"][0]["points"]
    assert [(p["tables"], p["subsampling"]) for p in points] == [(f"standard:{q}", "4:4:4") for q in (10, 50, 90)]
    sizes = [p["bits_per_pixel"] for p in points]
    assert sizes == sorted(sizes)
    assert results["plain"][0]["hard"] is None


def test_what_is_there_is_not_measured_again(place, results, monkeypatch):
    folder = RunFolder(place / "plain" / "0")
    told = []
    again = rate_run(folder, replace(FEW, qualities=[50, 10]), lambda *said: told.append(said))
    assert told == []
    assert {p["tables"] for p in again["points"]} == {"standard:10", "standard:50"}
    more = rate_run(folder, replace(FEW, qualities=[10, 30]), lambda *said: told.append(said))
    assert [what for what, *_ in told] == ["standard:30 4:4:4"]
    assert {p["tables"] for p in more["points"]} == {"standard:10", "standard:30"}
    fewer = rate_run(folder, replace(FEW, images=8))  # others are no part of it
    assert fewer["images"] == 8
    rate_run(folder, FEW)


def test_a_model_that_changed_is_measured_anew(tmp_path):
    folder = made(tmp_path, "rate-0.3", 40)
    before = rate_run(folder, FEW)
    made(tmp_path, "rate-0.3", 12)
    after = rate_run(folder, FEW)
    assert after["points"][0]["bits_per_pixel"] < before["points"][0]["bits_per_pixel"]
    assert len(after["points"]) == 1


def test_curves_join_arms_that_differ_in_a_number(results):
    curves = {curve.name: curve for curve in rate_curves(results)}
    assert list(curves) == ["default JPEG 4:4:4", "rate"]
    assert [p["arm"] for p in curves["rate"].points] == ["rate-1", "rate-0.3", "rate-0.1"]
    alone = {curve.name for curve in rate_curves({"rate-1": results["rate-1"], "jpeg-dl": results["rate-0.1"]})}
    assert alone == {"rate-1", "jpeg-dl"}


def test_runs_measured_differently_are_not_compared(results, place):
    other = json.loads(json.dumps(results["plain"][0]))
    other["made_of"]["images"] = 8
    with pytest.raises(UsageError, match="different images"):
        rate_curves({**results, "plain": {0: other}})


def test_what_another_version_measured_is_not_compared(results):
    other = json.loads(json.dumps(results["plain"][0]))
    del other["made_of"]["encoder"]
    with pytest.raises(UsageError, match="plain, seed 0 and rate-1, seed 0 were measured by different versions of jpegdl"):
        rate_curves({"plain": {0: other}, "rate-1": results["rate-1"]})


def test_rows_text_and_figure(results):
    rows = rate_rows(results)
    assert [row["curve"] for row in rows] == ["default JPEG 4:4:4"] * 3 + ["rate"] * 3
    (between,) = rate_comparisons(results)
    assert between.reference == "default JPEG 4:4:4"
    for measure in (between.accuracy, between.loss):
        assert measure.interval[0] <= measure.mean <= measure.interval[1]
        assert measure.least[0] <= measure.mean <= measure.most[0]
        assert all(between.rates[0] <= rate <= between.rates[1] for _, rate in (measure.least, measure.most))
    text = rate_text(between)
    assert "points of accuracy on average" in text
    assert f"Test loss {between.loss.mean:+.3f} nats at the same rate" in text
    axes, of_loss = rate_figure(results).axes
    assert "loss" in of_loss.get_ylabel()
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert {"default JPEG 4:4:4", "rate"} <= set(labels)
    assert axes.get_xscale() == "log"


def test_too_few_points_are_said():
    points = [{"bits_per_pixel": 1.0, "accuracy": 0.5, "arm": "a", "right": "00"}]
    found = compare_curves([Curve("a", 0, points), Curve("b", 0, points)], "a", "b", 8)
    assert found.accuracy.mean is None
    assert "1 point, and at least 3" in found.accuracy.why
    assert "no number" in rate_text(found)
    apart = compare_curves([Curve("a", 0, points), Curve("b", 1, points)], "a", "b", 8)
    assert apart.accuracy.why == apart.loss.why == "they have no seed in common"


def _curve(name, bits, losses):
    each = np.array(losses)[:, None] + np.zeros(8)
    points = [
        {
            "bits_per_pixel": rate, "accuracy": 0.5 + 0.1 * i, "arm": name, "right": "f0",
            "loss": float(mean.mean()), "losses": mean.astype("<f2").tobytes().hex(),
        }
        for i, (rate, mean) in enumerate(zip(bits, each, strict=True))
    ]  # fmt: skip
    return Curve(name, 0, points)


def test_what_the_loss_says():
    """A curve with a tenth fewer bits at every loss, and one with a tenth of a nat less at every rate."""
    reference = _curve("b", [1, 2, 4], [1.0, 0.75, 0.5])
    found = compare_curves([_curve("a", [0.9, 1.8, 3.6], [1.0, 0.75, 0.5]), reference], "a", "b", 8)
    assert found.loss.rate == pytest.approx(-0.1)
    assert found.loss.rate_interval == pytest.approx((-0.1, -0.1), abs=1e-3)
    assert "At the same loss -10.0 % [-10.0, -10.0] of the bits." in rate_text(found)
    assert found.loss.mean < 0
    better = compare_curves([_curve("a", [1, 2, 4], [0.9, 0.65, 0.4]), reference], "a", "b", 8)
    assert better.loss.mean == pytest.approx(-0.1)
    assert better.loss.least[0] == pytest.approx(-0.1)
    assert better.loss.most[0] == pytest.approx(-0.1)
    assert better.loss.interval == pytest.approx((-0.1, -0.1), abs=1e-3)  # float16
    apart = compare_curves([_curve("a", [1, 2, 4], [0.55, 0.4, 0.3]), reference], "a", "b", 8)  # a fifth of its losses
    assert apart.loss.rate is None
    assert "both reach only 0.500 nats to 0.550 nats" in rate_text(apart)
    falls = compare_curves([_curve("a", [1, 2, 4], [0.9, 0.4, 0.5]), reference], "a", "b", 8)
    assert falls.loss.rate is None
    assert "its loss does not fall all the way: 0.400 nats and then 0.500 nats" in rate_text(falls)


def test_the_table_and_why_it_has_gaps():
    curves = [
        replace(_curve(name, bits, losses), seed=seed)
        for seed in (0, 1)
        for name, bits, losses in (
            ("default JPEG 4:4:4", [1, 2, 4], [1.0, 0.75, 0.5]),
            ("default JPEG 4:2:0", [1, 2, 4], [0.9, 0.4, 0.5]),
            ("a", [1, 2, 4], [0.9 - 0.1 * seed, 0.65, 0.4]),
            ("b", [8, 9, 10], [0.3, 0.2, 0.1]),
        )
    ]
    compared = [compare_curves(curves, name, reference, 8) for name in "ab" for reference in REFERENCES]
    rows = rate_table(compared)
    assert [row[:4] for row in rows] == [
        ["a", sub, "1.00-4.00", of] for sub in ("4:4:4", "4:2:0") for of in ("accuracy", "loss")
    ]
    assert all(len(row) == len(RATE_COLUMNS) for row in rows)
    assert re.fullmatch(r"-0\.\d{3} \[-0\.\d{3}, -0\.\d{3}\]; \[-0\.\d{3}, \+?-?0\.\d{3}\]", rows[1][4])  # images; seeds
    assert rows[1][5] == "-0.200 at 1.00"  # the better seed
    assert rows[1][7].endswith("]")
    assert rows[3][7] == ""
    assert rate_notes(compared) == [
        "a against default JPEG 4:2:0: no mean ratio of rates at the same loss, "
        "the reference's loss does not fall all the way: 0.400 nats and then 0.500 nats.",
        "b against default JPEG 4:4:4; b against default JPEG 4:2:0: no number, the curves have no rates in common.",
    ]


def test_what_was_measured_without_losses_still_has_accuracies(results):
    old = json.loads(json.dumps(results["rate-1"][0]))
    del old["points"][0]["loss"], old["points"][0]["losses"]
    mixed = {**results, "rate-1": {0: old}}
    (between,) = rate_comparisons(mixed)
    assert between.accuracy.mean is not None
    assert between.loss.mean is None
    assert "measured before losses were kept: jpegdl rate measures them" in rate_text(between)
    assert [row["loss"] is None for row in rate_rows(mixed)] == [False, False, False, True, False, False]
    assert len(rate_figure(mixed).axes) == 1


OPTIONS = {"method": "pchip", "min_overlap": 0, "require_matching_points": False}
rising = st.lists(st.floats(0.01, 1), min_size=4, max_size=8)


@given(rising, rising, rising, rising)
def test_measures_are_those_of_the_bjontegaard_package(a, b, c, d):
    import bjontegaard  # which takes a second, with Matplotlib's interactive part

    rates, accuracies = np.cumsum(a), np.cumsum(b[: len(a)] + [0.1] * (len(a) - len(b)))
    others, other_accuracies = np.cumsum(c), np.cumsum(d[: len(c)] + [0.1] * (len(c) - len(d)))
    if min(rates[-1], others[-1]) > 1.01 * max(rates[0], others[0]):
        expected = bjontegaard.bd_psnr(others, other_accuracies, rates, accuracies, **OPTIONS)
        assert bd_accuracy(rates, accuracies, others, other_accuracies) == pytest.approx(expected, abs=1e-8)
    if min(accuracies[-1], other_accuracies[-1]) > 0.01 + max(accuracies[0], other_accuracies[0]):
        expected = bjontegaard.bd_rate(others, other_accuracies, rates, accuracies, **OPTIONS)
        assert 100 * bd_rate(rates, accuracies, others, other_accuracies) == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_a_curve_that_falls_has_no_rate():
    rates = np.array([1.0, 2.0, 4.0])
    with pytest.raises(ValueError, match=r"its accuracy does not rise all the way: 70\.00 % and then 60\.00 %"):
        bd_rate(rates, np.array([0.5, 0.7, 0.6]), rates, np.array([0.5, 0.7, 0.8]))
    assert bd_accuracy(rates, np.array([0.5, 0.7, 0.6]), rates, np.array([0.4, 0.6, 0.5])) == pytest.approx(0.1)
    halved = bd_rate(rates / 2, np.array([0.5, 0.7, 0.8]), rates, np.array([0.5, 0.7, 0.8]))
    assert halved == pytest.approx(-0.5)
    with pytest.raises(ValueError, match="no rates in common"):
        bd_accuracy(rates, rates, 10 * rates, rates)
    assert math.isfinite(halved)


def test_the_command(place, capsys):
    arguments = [
        "rate",
        "--name",
        "few",
        "--output",
        str(place.parent),
        "--qualities",
        "[10,50,90]",
        "--subsampling",
        "4:4:4",
    ]
    status, out, _ = run_command(capsys, *arguments)
    assert status == 0
    assert "rate against default JPEG 4:4:4" in out
    assert all(len(line) <= 80 for line in out.splitlines() if str(place) not in line)
    with (place / "rate.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6
    assert (place / "rate.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((place / "rate.json").read_text(encoding="utf-8"))[0]["curve"] == "rate"
    assert "jpegdl rate --name few" in (place / "commands.txt").read_text(encoding="utf-8")
    # And from Python, in one call; what is there is not measured again.
    told = []
    found = rate_comparison(place, FEW, arms=["plain", "rate-0.1"], progress=lambda *how_far: told.append(how_far))
    assert told == []
    assert {row["arm"] for row in found.rows} == {"plain", "rate-0.1"} == found.results.keys()
    assert [file.name for file in found.files] == ["rate.csv", "rate.json", "rate.png"]
    with pytest.raises(UsageError, match="must name at least one run"):
        rate_comparison(place, FEW, seeds=0)


def test_mistakes_are_one_line(place, capsys, tmp_path):
    def wrong(*more):
        return one_error(capsys, "rate", "--name", "few", "--output", str(place.parent), *more)

    assert "qualities must each be from 1 to 100, got 0" in wrong("--qualities", "[0]")
    assert "subsampling must be" in wrong("--subsampling", "4:1:1")
    assert "images must be at least 1" in wrong("--images", "0")
    assert "no finished run of arm 'other'" in wrong("--arms", "[other]")
    damaged = made(tmp_path / "runs" / "few", "plain")
    (damaged.path / "rate.json").write_text("{", encoding="utf-8")
    with pytest.raises(UsageError, match="rate.json is damaged"):
        read_rate(damaged)
    found = rate_run(damaged, replace(FEW, qualities=[50]))  # what cannot be read is measured again
    assert [point["tables"] for point in found["points"]] == ["standard:50"]
    assert read_rate(damaged) == found


def test_two_calls_do_not_write_over_what_the_other_has_measured(tmp_path):
    run = made(tmp_path / "runs" / "few", "plain")
    config = replace(FEW, qualities=[50])
    with filelock.FileLock(run.path / ".rate.lock"):
        with pytest.raises(BusyError, match="being measured"):
            rate_run(run, config)
        assert read_rate(run) is None
    (run.path / ".writing-left-by-a-kill").write_text("{", encoding="utf-8")
    os.utime(run.path / ".writing-left-by-a-kill", (0, 0))
    found = rate_run(run, config)
    assert not list(run.path.glob(".writing-*"))
    with filelock.FileLock(run.path / ".rate.lock"):
        assert rate_run(run, config) == found  # there is nothing to measure


def test_a_run_whose_test_images_are_files_already_is_left_out_with_a_word(tmp_path):
    plain, other = tmp_path / "plain", tmp_path / "jpeg-75"
    made(tmp_path, "plain")
    shutil.copytree(plain, other)
    file = other / "0" / "config.yaml"
    settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    settings["data"]["jpeg_test"] = 75
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    found = rate_comparison(tmp_path, replace(FEW, qualities=[50]))
    assert {row["arm"] for row in found.rows} == {"plain"}
    assert "data.jpeg_test" in found.left_out[0]
    shutil.rmtree(plain)
    with pytest.raises(UsageError, match=r"data\.jpeg_test"):
        rate_comparison(tmp_path, replace(FEW, qualities=[50]))


def test_a_layer_without_a_file_is_left_out_with_a_word(tmp_path, capsys):
    folder = tmp_path / "runs" / "few"
    made(folder, "plain")
    cascade = make_run(folder / "cascade" / "0", made_up_config(kind="cascade"), "cascade", steps=1)
    cascade.write_result(json.loads((folder / "plain" / "0" / "result.json").read_text(encoding="utf-8")) | {"arm": "cascade"})
    status, out, _ = run_command(
        capsys, "rate", "--name", "few", "--output", str(tmp_path / "runs"), "--qualities", "[50]", "--images", "4"
    )
    assert status == 0
    assert "left out: the layer of" in out
    error = one_error(capsys, "rate", "--name", "few", "--output", str(tmp_path / "runs"), "--arms", "[cascade]")
    assert "kind 'cascade'" in error
    assert LayerConfig().kind == "jpeg"
