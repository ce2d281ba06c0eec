import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torchvision.transforms.v2 import functional as v2

from factory import made_up_config, make_run, small_config
from factory import run as trained
from jpegdl.codec import (
    CompressConfig,
    Encoder,
    compress_folder,
    file_report,
    keep_file_report,
    read_file_report,
    stored_in_words,
)
from jpegdl.codec.config import MANIFEST
from jpegdl.codec.read_back import are_right, header_bytes, made_exact
from jpegdl.data import Data
from jpegdl.errors import UsageError
from jpegdl.runs import RunFolder, open_run
from jpegdl.tables import standard_tables


def by_name(found):
    return {row["name"]: row for row in found["rows"]}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    pytest.importorskip("jpeglib")
    return make_run(tmp_path_factory.mktemp("codec") / "run", made_up_config(bits=None))


def encoded(run, quality=60, **options):
    data = Data(run.config().data, test_only=True)
    encoder = Encoder(*standard_tables(quality), **options)
    return [encoder.encode(v2.to_pil_image(image)) for image, _ in data.test], [target for _, target in data.test]


def accuracy(run, files, targets, layer):
    import io

    from jpegdl.layer import PrependedModel

    model = open_run(run).model
    if not layer:
        model = PrependedModel(model.backbone, torch.nn.Identity(), model.mean.flatten().tolist(), model.std.flatten().tolist())
    images = torch.stack([v2.pil_to_tensor(Image.open(io.BytesIO(file))).float() / 255 for file in files])
    return float((model.eval()(images).argmax(1) == torch.tensor(targets)).float().mean())


def test_files_of_what_the_model_sees(run):
    found = file_report(run, batch_size=7)
    rows = by_name(found)
    assert list(rows) == ["soft", "hard", "real file", "real file, layer kept"]
    files, targets = encoded(run)
    pixels = 16 * 16 * len(files)
    real = rows["real file"]
    assert real["images"] == len(files)
    assert real["bits_per_pixel"] == pytest.approx(8 * sum(map(len, files)) / pixels)
    assert real["header"] == pytest.approx(8 * sum(map(header_bytes, files)) / pixels)
    assert real["ratio"] == pytest.approx(24 / real["bits_per_pixel"])
    with torch.no_grad():
        assert real["accuracy"] == pytest.approx(accuracy(run, files, targets, layer=False))
        assert rows["real file, layer kept"]["accuracy"] == pytest.approx(accuracy(run, files, targets, layer=True))
    assert rows["soft"]["bits_per_pixel"] == 24
    # Whole steps and no cap: the levels in the file are the layer's own, and so is its size but for the encoder's rounding.
    assert rows["hard"]["bits_per_pixel"] == pytest.approx(real["bits_per_pixel"], rel=0.02)
    assert found["carried"]["faithful"]
    assert found["tables"]["luma"] == standard_tables(60)[0].int().tolist()
    assert found["other_images"] is None


def test_exact_files_are_as_large_as_the_hard_levels(run):
    rows = by_name(file_report(run, images=9, exact=True))
    assert rows["hard"]["bits_per_pixel"] == rows["real file"]["bits_per_pixel"]
    assert {row["images"] for row in rows.values()} == {9}


def test_the_model_is_left_as_it_is_and_progress_is_told(run):
    told = []
    first = file_report(run, images=8, batch_size=4, progress=lambda *standing: told.append(standing))
    assert told == [("soft and hard", 4, 8), ("soft and hard", 8, 8), ("real file", 4, 8), ("real file", 8, 8)]
    assert file_report(run, images=8, batch_size=4) == first


def test_hard_is_not_stored_without_jpeglib(run, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jpeglib", None)
    rows = by_name(file_report(run, images=4))
    assert rows["hard"]["bits_per_pixel"] is rows["hard"]["ratio"] is None
    assert rows["real file"]["bits_per_pixel"] > 0


def test_files_in_a_folder(run, tmp_path):
    """Those that compress_folder writes, of the run's own test images: the same numbers as in memory."""
    data = Data(run.config().data, test_only=True)
    for i, (image, target) in enumerate(data.test):
        folder = tmp_path / "in" / data.classes[target]
        folder.mkdir(parents=True, exist_ok=True)
        v2.to_pil_image((image * 255).round().to(torch.uint8)).save(folder / f"{i}.png")
    found = compress_folder(tmp_path / "in", tmp_path / "out", CompressConfig(tables="standard:60"))
    of_folder = file_report(run, tmp_path / "out")
    stored = of_folder["stored"]
    assert (stored["tables"], stored["formats"], stored["subsampling"]) == ("own", ["JPEG"], ["4:4:4"])
    assert stored["test"]["images"] == found["written"]
    keep_file_report(run, of_folder)
    assert read_file_report(run) == of_folder
    rows = by_name(of_folder)
    expected = by_name(file_report(run))
    for name in ("real file", "real file, layer kept"):
        assert rows[name]["accuracy"] == expected[name]["accuracy"]
        assert rows[name]["bits_per_pixel"] == pytest.approx(expected[name]["bits_per_pixel"]) == found["bits_per_pixel"]
        assert rows[name]["header"] is None
    assert rows["soft"] == expected["soft"]
    # Files with other tables, and files that are none: said, not taken for the run's own.
    compress_folder(tmp_path / "in", tmp_path / "30", CompressConfig(tables="standard:30", subsampling="4:2:0"))
    other = file_report(run, tmp_path / "30", images=8)["stored"]
    assert (other["tables"], other["subsampling"]) == ("other", ["4:2:0"])
    assert other["digest"] != stored["digest"]
    first = next((tmp_path / "in").glob("*/*.png"))
    (tmp_path / "out" / first.parent.name / "more.png").write_bytes(first.read_bytes())
    assert file_report(run, tmp_path / "out")["stored"]["formats"] == ["JPEG", "PNG"]
    assert file_report(run, tmp_path / "in", images=8)["stored"]["tables"] is None


def test_what_files_carry_is_told_of_these_files(tmp_path):
    """Whether the cap was applied, and the subsampling, are those of the folder, not of the run."""
    pytest.importorskip("jpeglib")
    run = make_run(tmp_path / "run", made_up_config(bits=3))
    data = Data(run.config().data, test_only=True)
    for i, (image, target) in enumerate(data.test):
        folder = tmp_path / "in" / data.classes[target]
        folder.mkdir(parents=True, exist_ok=True)
        v2.to_pil_image((image * 255).round().to(torch.uint8)).save(folder / f"{i}.png")
    told = {}
    for name, options in {"plain": {}, "exact": {"exact": True}, "coarse": {"subsampling": "4:2:0"}}.items():
        made = compress_folder(tmp_path / "in", tmp_path / name, CompressConfig(model=str(run.path), **options))
        told[name] = file_report(run, tmp_path / name)
        assert told[name]["carried"]["capped"] == made["carried"]["capped"] == (name == "exact")
        assert told[name]["carried"]["held_back"] > 0.001
    assert told["exact"]["carried"]["displaced"] < told["plain"]["carried"]["displaced"]
    assert told["plain"]["carried"]["rms"] != told["coarse"]["carried"]["rms"]
    assert "where the layer has" not in stored_in_words(told["exact"]["stored"])
    assert stored_in_words(told["coarse"]["stored"]).endswith("4:2:0 where the layer has 4:4:4")
    (tmp_path / "exact" / "compress.json").unlink()
    unknown = file_report(run, tmp_path / "exact")
    assert unknown["stored"]["exact"] is None
    assert "taken as made without the cap" in unknown["carried"]["words"]


@pytest.mark.parametrize(
    ("content", "exact"),
    [({"exact": True}, True), ({"exact": False}, False), ({"readers": []}, False), ([], None), (None, None)],
)
def test_whether_files_are_exact_is_known_from_what_made_them(tmp_path, content, exact):
    (tmp_path / "class").mkdir()
    if content is not None:
        (tmp_path / MANIFEST).write_text(json.dumps({"settings": content}), encoding="utf-8")
    assert made_exact(tmp_path / "class") is exact


def test_what_is_not_finite_is_no_answer():
    logits = torch.tensor([[float("nan")] * 3, [3.0, 1, 2], [float("inf"), 1, 2], [1, 2, 3]])
    assert are_right(logits, torch.tensor([0, 0, 0, 0])).tolist() == [False, True, False, False]


def test_a_damaged_files_json_is_one_error(run):
    file = run.path / "files.json"
    good = {**file_report(run, images=4), "files": "there", "stored": {"tables": None, "formats": ["PNG"]}}
    for bad in ("{", "[]", "{}", json.dumps({**good, "rows": [{}]}), json.dumps({**good, "stored": {"tables": "mine"}})):
        file.write_text(bad, encoding="utf-8")
        with pytest.raises(UsageError, match=r"files\.json is damaged"):
            read_file_report(run)
    file.unlink()
    assert read_file_report(run) is None


def test_what_cannot_be_tested(run, tmp_path):
    with pytest.raises(UsageError, match="exact is for files .* give only one"):
        file_report(run, tmp_path, exact=True)
    for name in ("a", "b"):
        (tmp_path / "other" / name).mkdir(parents=True)
        Image.new("RGB", (16, 16)).save(tmp_path / "other" / name / "1.png")
    with pytest.raises(UsageError, match="knows other classes"):
        file_report(run, tmp_path / "other")
    with pytest.raises(UsageError, match="kind 'zero-dc'"):
        file_report(make_run(tmp_path / "zero", made_up_config(kind="zero-dc"), steps=0))
    # Soft and hard would be of images after JPEG, and real files of others.
    shutil.copytree(run.path, tmp_path / "jpeg")
    settings = yaml.safe_load((tmp_path / "jpeg" / "config.yaml").read_text(encoding="utf-8"))
    settings["data"]["jpeg_test"] = 75
    (tmp_path / "jpeg" / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    for files in (None, tmp_path / "other"):
        with pytest.raises(UsageError, match=r"data\.jpeg_test"):
            file_report(RunFolder(tmp_path / "jpeg"), files)


# ------------------------------------------------------------------------------- whether files are the run's test images


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Class folders of 12 training and 8 test images a class, of the same names in both, and a run that was trained on them."""
    place, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 8)):
        for name in ("bee", "fly"):
            (place / "data" / part / name).mkdir(parents=True)
            for i in range(count):
                coarse = Image.fromarray(draw.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((20, 20))
                coarse.save(place / "data" / part / name / f"{i}.png")
    settings = small_config(1)
    data = replace(settings.data, path=str(place / "data"), batch_size=8)
    trained(replace(settings, data=data), place / "run")
    return place


def _copies(place, target, part="test", wanted=8, names="{}"):
    for file in sorted((place / "data" / part).glob("*/*.png")):
        if int(file.stem) < wanted:
            (target / file.parent.name).mkdir(parents=True, exist_ok=True)
            Image.open(file).save(target / file.parent.name / f"{names.format(file.stem)}.jpg", quality=50)
    return target


def test_files_of_all_test_images_or_of_some(pictures, tmp_path):
    run = RunFolder(pictures / "run")
    whole = file_report(run, _copies(pictures, tmp_path / "all"))
    assert [row["images"] for row in whole["rows"]] == [16] * 4
    assert whole["rows"][0]["accuracy"] == run.result()["accuracy"]
    assert [whole["stored"][name] for name in ("same", "missing", "foreign", "unlike", "images")] == [True, 0, 0, 0, None]
    some = _copies(pictures, tmp_path / "some", wanted=5)
    _copies(pictures, some, names="new{}", wanted=1)
    found = file_report(run, some)
    assert [row["images"] for row in found["rows"]] == [10] * 4  # the same images in all rows
    assert found["stored"]["same"]
    assert found["stored"]["images"] == (
        "6 of the run's 16 test images have no file here and 2 of the 12 files are none of the run's test images, by class and "
        "name: left out of all rows."
    )
    assert [row["images"] for row in file_report(run, some, images=4)["rows"]] == [4] * 4


def test_files_of_a_run_that_kept_a_share_of_its_images_for_the_test(pictures, tmp_path):
    """The files of one folder of classes: those that it was trained on count for nothing, neither as right nor as bits."""
    settings = RunFolder(pictures / "run").config()
    data = replace(settings.data, path=str(pictures / "data" / "train"), test_share=0.25)
    trained(replace(settings, data=data), tmp_path / "run")
    run = RunFolder(tmp_path / "run")
    files = _copies(pictures, tmp_path / "files", "train", wanted=12)
    whole = file_report(run, files)
    images = Data(data, test_only=True).test
    tested = [(files / images.key(i)).with_suffix(".jpg") for i in range(len(images))]
    assert len(tested) == 6
    assert [row["images"] for row in whole["rows"]] == [6] * 4
    for file in set(files.glob("*/*.jpg")) - set(tested):
        file.write_bytes(file.read_bytes() + bytes(5000))
    assert by_name(whole)["real file"]["bits_per_pixel"] == sum(8 * file.stat().st_size for file in tested) / (6 * 400)
    assert file_report(run, files)["rows"] == whole["rows"]
    for file in set(files.glob("*/*.jpg")) - set(tested):
        file.unlink()
    assert file_report(run, files)["rows"] == whole["rows"]


@pytest.mark.parametrize(
    ("names", "said"), [("x{}", "None of the 16 files is one of the run's 16"), ("{}", "do not look like")]
)
def test_files_of_other_images_stand_beside_none_of_the_run_s_own(pictures, tmp_path, names, said):
    """Those of training images, by mistake: of other names, or of the very same."""
    found = file_report(RunFolder(pictures / "run"), _copies(pictures, tmp_path / "train", "train", names=names))
    assert [row["name"] for row in found["rows"]] == ["real file", "real file, layer kept"]
    assert found["stored"]["same"] is False
    assert said in found["stored"]["images"]
    keep_file_report(RunFolder(pictures / "run"), found)
    assert read_file_report(RunFolder(pictures / "run")) == found
