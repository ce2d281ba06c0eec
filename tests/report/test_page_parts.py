"""The head of the page, its warning, and pictures on a dark page."""

import json
from types import SimpleNamespace
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from factory import code_module, fake_run, fake_summary
from jpegdl.comparison import CompareConfig
from jpegdl.heatmaps import heat
from jpegdl.report import page
from jpegdl.report.explanations import darkened
from jpegdl.report.head import page_head
from jpegdl.report.svg import inline_svg
from jpegdl.runs import RunFolder

PARTS = {"train": {"images": 1200}, "validation": {"images": 30}, "test": {"images": 50}}


def test_the_head_says_on_what_and_with_what(tmp_path):
    config = CompareConfig(name="mine", output=str(tmp_path), backbone="cifar_resnet8")
    data = {"name": "photos", "classes": ["a", "b", "c"], "tables": None, **PARTS}
    fake_run(config.folder, "plain", 0, 0.5, config=config.arm_run("plain"), data=data)
    runs = {"plain": {0: RunFolder(config.folder / "plain" / "0")}}
    head = dict(page_head(runs, fake_summary({"plain": {0: runs["plain"][0].result()}})))
    assert head["Data"] == "photos: 3 classes (chance 33.3 %)"
    assert head["Images"] == "1,200 training, 30 validation, 50 test"
    corrupt = fake_summary({"plain": {0: runs["plain"][0].result()}}) | {"left_out": ["a.jpg", "b.jpg"]}
    assert "; 2 of these cannot be decoded" in dict(page_head(runs, corrupt))["Images"]
    assert head["Size"] == "32 x 32 pixels"
    assert "cifar_resnet8, 1,000 parameters" in head["Network"]
    assert "from random weights" in head["Network"]
    assert "Finished" in head
    (config.folder / "plain/0/data.json").write_text("{", encoding="utf-8")
    assert "Data" not in dict(page_head(runs, fake_summary({"plain": {0: runs["plain"][0].result()}})))
    assert page_head({}, {}) == []


def test_the_head_of_several_processes_and_of_a_network_of_ones_own(tmp_path, monkeypatch):
    name = code_module(tmp_path, monkeypatch, "network_of_ones_own", "def make(num_classes): ...\n")
    config = CompareConfig(name="mine", output=str(tmp_path), backbone=f"{name}:make")
    config.training.devices, config.training.num_nodes = 2, 3
    run = fake_run(config.folder, "plain", 0, 0.5, config=config.arm_run("plain"))
    head = dict(page_head({"plain": {0: run}}, fake_summary({"plain": {0: run.result()}})))
    assert "batches of 192," in head["Training of plain"]  # 32 in each process
    assert "weights" not in head["Network"]  # what it begins with is not known


def test_it_warns_where_plain_was_not_tuned():
    arms = {"plain": SimpleNamespace(), "jpeg-dl": SimpleNamespace()}
    assert "not tuned" in page._untuned({"arms": arms, "data": "photos"})
    assert page._untuned({"arms": arms, "data": "photos", "tuned": {"trials": 3}}) == ""
    changed = {"trials": 3, "changed": ["backbone resnet18, tuned resnet50"]}
    assert "for this comparison" in page._untuned({"arms": arms, "data": "photos", "tuned": changed})
    assert page._untuned({"arms": {"plain": None}, "data": "photos"}) == ""


@pytest.mark.drawn
@pytest.mark.parametrize(("colours", "turned"), [("RdBu", 2), ("RdBu_r", 2), ("PiYG", 2), ("viridis", 0)])
def test_heat_maps_around_white_turn_with_their_colour_bar(colours, turned):
    figure = Figure()
    axes = figure.subplots()
    figure.colorbar(heat(axes, np.zeros((8, 8)), Normalize(-1, 1), "", "{:g}".format, colours))
    root = ElementTree.fromstring(inline_svg(figure, "one", ""))
    images = [element for element in root.iter() if element.tag.endswith("}image")]
    assert len(images) == 2  # the table and its colour bar
    assert sum(element.get("class") == "turned" for element in images) == turned
    assert ("var(--on-light)" in ElementTree.tostring(root, "unicode")) == bool(turned)


@pytest.mark.drawn
def test_a_users_style_is_not_the_pages(tmp_path):
    config = CompareConfig(name="mine", output=str(tmp_path), backbone="cifar_resnet8")
    fake_run(config.folder, "plain", 0, 0.5, config=config.arm_run("plain"))
    runs = {"plain": {0: RunFolder(config.folder / "plain" / "0").result()}}
    summary = fake_summary(runs, name="mine", versions={}, machine="")
    (config.folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    text = page.write_report(config.folder).read_text(encoding="utf-8")
    with matplotlib.rc_context({"text.color": "#123456", "axes.labelcolor": "#123456", "axes.facecolor": "#fedcba"}):
        assert page.write_report(config.folder).read_text(encoding="utf-8") == text
        assert matplotlib.rcParams["text.color"] == "#123456"


def test_a_drawing_turns_dark_and_its_photographs_stay():
    drawing = np.full((120, 200, 3), 255, np.uint8)
    photograph = np.random.default_rng(0).integers(0, 240, (40, 50, 3), dtype=np.uint8)
    drawing[10:50, 10:60] = photograph
    drawing[80:90, 10:150] = (31, 119, 180)  # a bar
    drawing[100, 10:150] = 0  # a line
    scale = np.linspace((68, 1, 84), (253, 231, 37), 120).astype(np.uint8)[:, None]  # of a map, 8 pixels wide
    drawing[0:120, 180:188] = scale
    drawing[60, 188:192] = 0  # and a tick on it
    turned = darkened(drawing)
    assert (turned[:, 180:188] == scale).all()
    assert (turned[60, 188:192] == 255).all()
    assert (turned[:60, 188:192] == 22).all()
    assert (darkened(drawing, photographs=False)[10:50, 10:60] != photograph).any()
    assert (turned[10:50, 10:60] == photograph).all()
    assert (turned[0, 0] == 22).all()
    assert (turned[100, 20] == 255).all()
    red, green, blue = turned[85, 20].astype(int)
    assert red < green < blue  # the same hue
    assert blue > 180  # and lighter
