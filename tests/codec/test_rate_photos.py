import csv
import io
import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_reader_stage import CODE, PHOTO

import jpegdl.cli
from factory import code_module
from jpegdl.codec import Encoder, PhotoRateConfig, open_reader, photo_rate_figure, photo_rates, rate_photos, shaping
from jpegdl.errors import DataWarning, UsageError
from jpegdl.statistics import paired_interval, wilson
from jpegdl.tables import standard_tables, write_tables


@pytest.fixture
def network(tmp_path, monkeypatch):
    named = CODE.replace("fast=False, **options)", 'fast=False, classes=["a", "b", "c", "d"])')
    code = named.replace("def others(): return made(0, classes=7)\n", "")
    return f"{code_module(tmp_path, monkeypatch, 'rate_readers', code)}:one"


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for number, name in enumerate("abcab"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        PHOTO.crop((20 * number, 0, 20 * number + 60, 50)).save(folder / name / f"{number}.png")
    return folder


def test_what_each_quality_costs(photos, network):
    found = rate_photos(PhotoRateConfig(network, str(photos), qualities=[10, 80], device="cpu"))
    assert (found.images, found.total, found.labelled, found.bad) == (5, 5, True, [])
    assert [(row["files"], row["setting"]) for row in found.rows] == [("default", 10), ("default", 80)]
    one, encoder = open_reader(network), Encoder(*standard_tables(10), None, "4:2:0")
    sizes, kept, right, before = [], [], [], []
    for path in sorted(photos.rglob("*.png")):
        with Image.open(path) as image:
            content = encoder.encode(image.convert("RGB"))
            pixels = np.array(image)
        with Image.open(io.BytesIO(content)) as file:
            both = [torch.from_numpy(part).permute(2, 0, 1) for part in (pixels, np.array(file))]
        first, second = (int(one.answers(one.view(part)[None]).argmax()) for part in both)
        sizes.append(len(content))
        kept.append(first == second)
        right.append(second == "abcd".index(path.parent.name))
        before.append(first == "abcd".index(path.parent.name))
    row = found.rows[0]
    assert row["bits_per_pixel"] == pytest.approx(8 * sum(sizes) / (5 * 60 * 50))
    assert row["megabytes"] == pytest.approx(sum(sizes) / 1e6)
    assert row["agreement"] == pytest.approx(np.mean(kept))
    assert row["accuracy"] == pytest.approx(np.mean(right))
    assert row["points"] == pytest.approx(100 * (np.mean(right) - np.mean(before)))
    lost, gained = (sum(a > b for a, b in zip(*pair, strict=True)) for pair in ((before, right), (right, before)))
    assert (row["points_low"], row["points_high"]) == pytest.approx([100 * end for end in paired_interval(lost, gained, 5)])
    assert row["points_high"] - row["points_low"] > 10  # of five photos, even where no answer changes
    assert "quality 10" in found.lines[0]


def test_without_labels_agreement_counts(photos, network, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for path in photos.rglob("*.png"):
        (flat / path.name).write_bytes(path.read_bytes())
    (flat / "bad.png").write_bytes(b"nothing")
    config = PhotoRateConfig(
        network,
        str(flat),
        reader="rate_readers:two",
        judge="rate_readers:three",
        qualities=[10, 50],
        mus=[3.0, 0.01],
        device="cpu",
    )
    found = rate_photos(config)
    assert (found.images, found.total, found.labelled) == (5, 6, False)
    assert len(found.bad) == 1
    assert {row["read_by"] for row in found.rows} == {"net 0", "net 2"}
    assert len(found.rows) == 2 * 4
    for row in found.rows:
        assert row["accuracy"] is None
        assert row["points"] == pytest.approx(100 * (row["agreement"] - 1))
        low, high = wilson(5 * row["agreement"], 5)
        assert (row["points_low"], row["points_high"]) == pytest.approx((100 * (low - 1), 100 * (high - 1)))
        assert row["points_low"] < -10
    assert "--reader" in found.lines[0]


def test_a_reader_may_choose_from_tables_of_mine(photos, network, tmp_path):
    """Steps of 1 make the nearest files; kept results are of the tables that the file held."""
    file, ones = tmp_path / "mine.json", torch.ones(8, 8)
    config = PhotoRateConfig(
        network, str(photos), reader=network, effort=2, robust=False, qualities=[50], mus=[0.0], device="cpu"
    )
    without = rate_photos(config).rows[1]
    config.tables, found = str(file), []
    for step in (100.0, 1.0, 100.0):
        write_tables(file, {"luma": step * ones, "chroma": step * ones})
        found.append(rate_photos(config, None, tmp_path / "kept").rows[1])
    assert found[1]["distance"] < without["distance"]
    assert found[1]["bits_per_pixel"] > without["bits_per_pixel"]
    assert found[0] == found[2] != found[1]


@pytest.mark.parametrize("effort", [1, 3])
def test_no_more_large_photos_are_in_work_than_in_each_file(photos, network, monkeypatch, effort):
    config = PhotoRateConfig(network, str(photos), reader=network, qualities=[10], mus=[0.3, 0.1], effort=effort, device="cpu")
    wanted, together, tried = rate_photos(config), [], photo_rates.tried
    monkeypatch.setattr(photo_rates, "tried", lambda several, *rest: together.append(len(several)) or tried(several, *rest))
    monkeypatch.setattr(shaping, "LARGEST_BATCH", 2 * 60 * 50)
    found = rate_photos(config)
    assert max(together) == 2
    assert [row["bits_per_pixel"] for row in found.rows] == [row["bits_per_pixel"] for row in wanted.rows]


def test_each_network_has_its_own_order_of_classes(photos, network, tmp_path, monkeypatch):
    """The same network with its logits turned round knows the same."""
    code = """
from rate_readers import one
from torch import nn
from jpegdl.codec import PhotoReader

class Turned(nn.Module):
    def forward(self, x):
        return one()._model(x).flip(1)

def turned(classes=("d", "c", "b", "a"), name="turned"):
    model = nn.Sequential(nn.Identity(), Turned())
    model.pretrained_cfg = {"mean": (0, 0, 0), "std": (1, 1, 1)}
    return PhotoReader(model, name, size=24, resize=28, fast=False, classes=classes)
def strange(): return turned("wxyz", "strange")
"""
    (tmp_path / "more").mkdir()
    named = code_module(tmp_path / "more", monkeypatch, "turned_readers", code)
    judges = f"{named}:turned,{named}:strange"
    found = rate_photos(PhotoRateConfig(network, str(photos), judge=judges, qualities=[10], device="cpu"))
    own, turned, strange = found.rows
    assert turned["accuracy"] == own["accuracy"]
    assert own["accuracy"] > 0
    assert strange["accuracy"] is None
    assert [row["points_of"] for row in found.rows] == ["accuracy", "accuracy", "agreement"]
    axes = photo_rate_figure(found).axes[0]
    assert axes.get_ylabel() == "points of accuracy or of agreement, against the originals"
    assert [text.get_text().rpartition(" ")[2] for text in axes.get_legend().get_texts()] == [
        "accuracy",
        "accuracy",
        "agreement",
    ]


def test_what_was_measured_without_labels_is_measured_again_with_them(photos, network, tmp_path, monkeypatch):
    monkeypatch.setattr(photo_rates, "_GROUP", 1)
    config, keep = PhotoRateConfig(network, str(photos), qualities=[10], device="cpu"), tmp_path / "kept"
    loose = photos / "z.png"  # is in no class folder
    loose.write_bytes((photos / "a" / "0.png").read_bytes())
    with pytest.warns(DataWarning, match=r"no labels .* z\.png"):
        assert not rate_photos(config, None, keep).labelled
    loose.unlink()
    (photos / "a").rename(photos / "A")
    with pytest.warns(DataWarning, match="A in "):
        assert not rate_photos(config).labelled
    (photos / "A").rename(photos / "a")
    wanted = rate_photos(config).rows
    assert wanted[0]["accuracy"] > 0
    assert rate_photos(config, None, keep).rows == wanted


def test_the_name_of_a_class_in_its_other_unicode_form_is_the_same(photos, network, tmp_path, monkeypatch):
    """Names of classes are composed, and folders of a Mac are not."""
    code = """
from rate_readers import one

def named(*classes):
    reader = one()
    reader.classes = list(classes)
    return reader

def accented(): return named("\\u00e9", "b", "c", "d")
def twice(): return named("b", "a", "c", "b")
"""
    (tmp_path / "more").mkdir()
    module = code_module(tmp_path / "more", monkeypatch, "accented_readers", code)
    plain = rate_photos(PhotoRateConfig(network, str(photos), qualities=[10], device="cpu")).rows
    (photos / "a").rename(photos / "e\u0301")
    found = rate_photos(PhotoRateConfig(f"{module}:accented", str(photos), qualities=[10], device="cpu"))
    assert found.labelled
    assert found.rows[0]["accuracy"] == plain[0]["accuracy"]
    (photos / "e\u0301").rename(photos / "a")
    with pytest.raises(UsageError, match="two classes called b"):
        rate_photos(PhotoRateConfig(f"{module}:twice", str(photos), qualities=[10], device="cpu"))


def test_the_command(photos, network, tmp_path, capsys):
    options = ["--photos", str(photos), "--qualities", "10,80", "--to", str(tmp_path / "to"), "--device", "cpu"]
    assert jpegdl.cli.main(["rate", "--model", network, *options, "--reader", "rate_readers:two", "--mus", "1,0.1"]) == 0
    out = capsys.readouterr().out
    assert "store at quality 10" in " ".join(out.split())
    assert all(len(line) <= 80 for line in out.splitlines() if str(tmp_path) not in line)
    with (tmp_path / "to" / "rate.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["setting"]) for row in rows] == [10, 80, 1, 0.1]
    settings = json.loads((tmp_path / "to" / "rate.json").read_text(encoding="utf-8"))["settings"]
    assert (settings["images"], settings["mus"]) == (500, [1, 0.1])
    assert (tmp_path / "to" / "rate.png").stat().st_size > 0
    every = list(map(str, range(5, 100, 5)))  # what comparisons take by default
    assert jpegdl.cli.main(["rate", "--model", network, *options, "--images", "null", "--qualities", ",".join(every)]) == 0
    settings = json.loads((tmp_path / "to" / "rate.json").read_text(encoding="utf-8"))["settings"]
    assert (settings["images"], settings["qualities"]) == (None, list(map(int, every)))
    assert jpegdl.cli.main(["rate", *options]) == 1
    assert "--model" in capsys.readouterr().err
    assert jpegdl.cli.main(["rate", "--model", network, *options, "--arms", "plain", "--data.path", "x"]) == 1
    assert "--arms, --data.path count for nothing" in capsys.readouterr().err
    assert jpegdl.cli.main(["rate", "--model", network, *options, "--to", str(photos / "to")]) == 1
    assert "inside" in capsys.readouterr().err
    assert jpegdl.cli.main(["rate", "mine", "--reader", network]) == 1
    assert "--reader counts for nothing" in capsys.readouterr().err


def test_a_photo_on_which_answers_are_not_finite_is_named(photos, network, tmp_path):
    wanted = rate_photos(PhotoRateConfig(network, str(photos), qualities=[10], device="cpu")).rows
    Image.new("RGB", (40, 40)).save(photos / "a" / "black.png")
    config = PhotoRateConfig("rate_readers:particular", str(photos), qualities=[10], device="cpu")
    for more in ({}, {"reader": "rate_readers:particular", "mus": [1.0]}):
        found = rate_photos(replace(config, **more))
        assert [Path(line.partition(": ")[0]).name for line in found.bad] == ["black.png"]
        assert "finite" in found.bad[0]
        assert found.rows[0]["distance"] == pytest.approx(wanted[0]["distance"], rel=1e-4)


def test_what_cannot_be(photos, network, tmp_path):
    (tmp_path / "empty").mkdir()
    for settings, named in (
        ({"photos": str(tmp_path / "none")}, "none"),
        ({"photos": str(tmp_path / "empty")}, "empty"),
        ({"qualities": [0]}, "qualities"),
        ({"qualities": []}, "qualities"),
        ({"mus": [], "reader": network}, "mus"),
        ({"tables": "standard:50", "effort": 2}, "tables"),
        ({"tables": "standard:50", "reader": network}, "tables"),
        ({"tables": "nowhere.json", "reader": network, "effort": 2}, "nowhere"),
        ({"model": "no_such_network"}, "no_such_network"),
        ({"judge": f"rate_readers:two,{network}"}, "net 0"),
        ({"effort": 3, "mus": [1.0]}, "effort, mus need --reader"),
    ):
        with pytest.raises(UsageError, match=named):
            rate_photos(PhotoRateConfig(**{"model": network, "photos": str(photos), "device": "cpu", **settings}))


def test_it_goes_on_where_it_was_interrupted(photos, network, tmp_path, monkeypatch):
    config = PhotoRateConfig(
        network, str(photos), reader=network, judge=network.replace("one", "two"), qualities=[10, 80], mus=[0.3]
    )
    config.device = "cpu"
    wanted = rate_photos(config)
    (photos / "a" / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    monkeypatch.setattr(photo_rates, "_GROUP", 2)

    def stop(what, done, total):
        if done == 4:
            raise KeyboardInterrupt

    keep, looked = tmp_path / "kept", []
    with pytest.raises(KeyboardInterrupt):
        rate_photos(config, stop, keep)
    measure = photo_rates._Measured._measured
    monkeypatch.setattr(photo_rates._Measured, "_measured", lambda self, *args: looked.append(args[1]) or measure(self, *args))
    found = rate_photos(config, None, keep)
    assert [len(several) for several in looked] == [2]
    assert (found.images, len(found.bad)) == (5, 1)
    for now, before in zip(found.rows, wanted.rows, strict=True):
        assert {**now, "megabytes": 0} == pytest.approx({**before, "megabytes": 0})
    assert rate_photos(config, None, keep).rows == found.rows
    assert len(looked) == 1
    PHOTO.crop((5, 5, 66, 60)).save(photos / "b" / "1.png")  # another photo of that name
    config.mus = [0.3]
    rate_photos(config, None, keep)
    assert len(looked) == 2
    config.mus = [0.4]
    rate_photos(config, None, keep)
    assert len(looked) == 5
    rate_photos(config, None, keep)
    assert len(looked) == 5
    PHOTO.crop((5, 5, 66, 60)).save(photos / "b" / "1.png", compress_level=0)
    before = (photos / "b" / "1.png").stat()
    rate_photos(config, None, keep)
    PHOTO.crop((9, 5, 70, 60)).save(photos / "b" / "1.png", compress_level=0)  # of the same size and time stamp
    os.utime(photos / "b" / "1.png", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (photos / "b" / "1.png").stat().st_size == before.st_size
    rate_photos(config, None, keep)
    assert len(looked) == 7
    code = Path(sys.modules["rate_readers"].__file__)  # of the same weights, and other answers for all that is known
    code.write_text(code.read_text(encoding="utf-8") + "# changed", encoding="utf-8")
    rate_photos(config, None, keep)
    assert len(looked) == 10
