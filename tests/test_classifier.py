"""A trained model away from its training: the same pixels, the same logits, labels for photos, and its way to others."""

import copy
import errno
import inspect
import json
import pickle
import shlex
import shutil
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from PIL import Image

import jpegdl
import jpegdl.backbones
from factory import fake_run, small_comparison
from jpegdl import classifier, pretrained
from jpegdl.cli import main
from jpegdl.comparison import compare
from jpegdl.data import Data, DataConfig, TestTransform
from jpegdl.errors import UsageError
from jpegdl.layer import LayerConfig, prepend
from jpegdl.runs import RunConfig, RunFolder, TrainingConfig, open_run
from jpegdl.runs.model import build_model

CLASSES = ["bee", "fly"]


def _pixels(random, level, size, channels=3):
    return random.normal(60 + 90 * level, 40, (*size, channels)).clip(0, 255).astype(np.uint8)


def _photos(folder):
    """Class folders whose images are of many sizes and modes."""
    random = np.random.default_rng(0)
    for part, count in (("train", 8), ("test", 9)):
        for level, name in enumerate(CLASSES):
            (folder / part / name).mkdir(parents=True)
            for i in range(count):
                image = Image.fromarray(_pixels(random, level, (20 + 3 * i, 33 - i)))
                kind = i if part == "test" else 0
                if kind == 1:
                    image = image.convert("L")
                elif kind == 2:
                    image = Image.fromarray(_pixels(random, level, (24, 40), 4), "RGBA")
                elif kind == 3:
                    image = image.quantize(16)
                elif kind == 4:
                    image = Image.fromarray(random.integers(0, 65536, (30, 22)).astype(np.uint16))
                elif kind == 5:
                    image = image.convert("CMYK")
                elif kind == 6:
                    image = image.convert("1")
                image.save(folder / part / name / (f"{i}.jpg" if kind in (5, 7, 8) else f"{i}.png"))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a comparison, and the photos it was trained on."""
    folder = tmp_path_factory.mktemp("trained")
    photos = _photos(folder / "photos")
    data = DataConfig(path=str(photos), size=16, resize=18, batch_size=8)
    training = TrainingConfig(epochs=1)  # and defaults, which the card's command leaves out
    compare(small_comparison(folder, data=data, layer=LayerConfig(tables="standard:75"), training=training))
    return folder / "mine", photos


@pytest.fixture
def model(trained):
    return jpegdl.load(trained[0] / "jpeg-dl" / "0")


@pytest.fixture
def batch():
    return torch.rand(3, 3, 16, 16)


def _logits(model, batch):
    with torch.no_grad():
        return model(batch)


# ----------------------------------------------------------------------------------------------------------------- load


def test_the_transform_gives_the_pixels_of_the_test(trained, model):
    """Bit for bit, for images of many sizes and modes."""
    data = Data(RunFolder(trained[0] / "jpeg-dl" / "0").config().data)
    files = [trained[1] / "test" / name / f"{i}" for name in CLASSES for i in range(9)]
    for i, file in enumerate(files):
        with Image.open(next(file.parent.glob(f"{file.name}.*"))) as image:
            ours = model.transform(image)
        assert ours.dtype == torch.float32
        assert torch.equal(ours, data.test[i][0])


def test_the_transform_of_a_test_on_jpeg_files(trained):
    config = DataConfig(path=str(trained[1]), size=16, resize=18, jpeg_test=30)
    with Image.open(trained[1] / "test" / "bee" / "0.png") as image:
        assert torch.equal(TestTransform(config)(image), Data(config).test[0][0])
        assert not torch.equal(TestTransform(config)(image), TestTransform(DataConfig(size=16, resize=18))(image))
    assert "JPEG of quality 30" in repr(TestTransform(config))


def test_three_files_of_a_run_are_enough(trained, tmp_path, model, batch):
    for name in ("config.yaml", "data.json", "model.safetensors"):
        shutil.copy(trained[0] / "jpeg-dl" / "0" / name, tmp_path)
    alone = jpegdl.load(tmp_path)
    assert alone.classes == CLASSES
    assert alone.measured is None
    assert torch.equal(_logits(alone, batch), _logits(model, batch))


def test_the_model_is_the_runs_own(trained, model, batch):
    own = open_run(RunFolder(trained[0] / "jpeg-dl" / "0"))
    assert not model.training
    assert torch.equal(_logits(model, batch), _logits(own.model, batch))
    assert model.measured["accuracy"] == RunFolder(trained[0] / "jpeg-dl" / "0").result()["accuracy"]


def test_a_folder_of_runs_stands_for_its_lowest_seed(trained, tmp_path):
    for arm, seed, name in (("jpeg-dl", 0, "10"), ("jpeg-dl", 0, "9"), ("plain", 0, "2")):
        shutil.copytree(trained[0] / arm / str(seed), tmp_path / arm / name)
    (tmp_path / "jpeg-dl" / "3").mkdir()  # not trained yet
    assert classifier._find_run(tmp_path).path == tmp_path / "jpeg-dl" / "9"
    assert classifier._find_run(tmp_path / "plain").path == tmp_path / "plain" / "2"
    shutil.rmtree(tmp_path / "jpeg-dl")
    with pytest.raises(UsageError, match="no trained jpeg-dl.*plain/2"):
        jpegdl.load(tmp_path)
    shutil.rmtree(tmp_path / "plain")
    with pytest.raises(UsageError, match="train one first"):
        jpegdl.load(tmp_path)
    with pytest.raises(UsageError, match="no folder .*nowhere; give a run's"):
        jpegdl.load(tmp_path / "nowhere")


def test_a_run_in_training_is_no_model(trained, tmp_path):
    folder = tmp_path / "0"
    shutil.copytree(trained[0] / "jpeg-dl" / "0", folder)
    (folder / "model.safetensors").unlink()
    (folder / "result.json").unlink()
    with pytest.raises(UsageError, match="no trained model in .*0: its training is not finished"):
        jpegdl.load(folder)


def test_loading_leaves_the_random_numbers_alone(trained):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    jpegdl.load(trained[0])
    assert torch.equal(torch.rand(3), expected)


def test_devices(trained):
    assert jpegdl.load(trained[0], device=torch.device("meta")).model.mean.is_meta
    with pytest.raises(UsageError, match="device must be .*, got 'gpu7'"):
        jpegdl.load(trained[0], device="gpu7")


def test_copies(model, batch):
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(_logits(other, batch), _logits(model, batch))


# -------------------------------------------------------------------------------------------------------------- predict


def test_predictions_are_the_models_own(trained, model):
    files = sorted((trained[1] / "test" / "fly").iterdir())
    data = Data(RunFolder(trained[0] / "jpeg-dl" / "0").config().data)
    probabilities = _logits(model, torch.stack([data.test[9 + i][0] for i in range(9)])).softmax(-1)
    found = model.predict(files, top=2)
    assert len(found) == 9
    for prediction, expected in zip(found, probabilities, strict=True):
        assert set(prediction.labels) == set(CLASSES)
        assert prediction.label == CLASSES[int(expected.argmax())]
        assert prediction.probability == pytest.approx(float(expected.max()), abs=1e-6)
        assert sum(prediction.probabilities) == pytest.approx(1)


def test_one_photo_or_many(trained, model):
    file = trained[1] / "test" / "bee" / "0.png"
    with Image.open(file) as image:
        one = model.predict(image)
        assert model.predict(str(file)) == one
        assert model.predict([image, file]) == [one, one]
        assert model.predict((file,)) == [one]
    assert model.predict([]) == []
    assert one.labels == (one.label,)
    assert str(one) == f"{one.label} {100 * one.probability:.1f} %"


def test_more_photos_than_a_batch(trained, model, monkeypatch):
    files = sorted((trained[1] / "test" / "bee").iterdir())
    expected = model.predict(files)
    monkeypatch.setattr(classifier, "BATCH", 4)
    for ours, theirs in zip(model.predict(files), expected, strict=True):
        assert ours.label == theirs.label
        assert ours.probability == pytest.approx(theirs.probability, abs=1e-6)


def test_photos_that_cannot_be_read(trained, model, tmp_path):
    good = trained[1] / "test" / "bee" / "0.png"
    text, cut = tmp_path / "text.jpg", tmp_path / "cut.png"
    text.write_text("no image", encoding="utf-8")
    cut.write_bytes(good.read_bytes()[:200])
    found = list(model.predict_each([text, good, cut, tmp_path / "none.png", tmp_path]))
    assert [isinstance(each, UsageError) for each in found] == [True, False, True, True, True]
    assert found[1] == model.predict(good)
    assert "text.jpg cannot be read (the file is not an image" in str(found[0])
    assert str(found[3]).endswith("none.png cannot be read (No such file or directory)")
    assert "Is a directory" in str(found[4])
    with pytest.raises(UsageError, match="text.jpg cannot be read"):
        model.predict([good, text])
    with pytest.raises(UsageError, match="the image cannot be read .floating-point pixels"):
        model.predict(Image.new("F", (9, 9)))


def test_turned_photos_are_counted_and_turned_where_training_did(trained, model, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.open(trained[1] / "test" / "bee" / "0.png").convert("RGB")
    files = [tmp_path / name for name in ("a.png", "b.jpg", "c.tif", "d.png")]
    for file in files:
        image.save(file, **({} if file.name == "d.png" else {"exif": exif}))
    with pytest.warns(UserWarning, match="3 of 4.*EXIF orientation"):
        stored = model.predict(files)
    assert stored[0] == stored[2] == stored[3]  # whatever the format
    follows = classifier.Classifier(
        model.model, model.classes, replace(model.config, data=replace(model.config.data, orientation="follow"))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        followed = follows.predict(files)
    upright = image.transpose(Image.Transpose.ROTATE_270)
    assert followed[0] == followed[2] == model.predict(upright)
    folder = tmp_path / "saved"
    follows.save_pretrained(folder)
    assert classifier.load(folder).config.data.orientation == "follow"


def test_what_is_no_photo(model, batch):
    with pytest.raises(TypeError, match=r"Tensor;.*\[0, 1\]"):
        model.predict(batch)
    for top in (0, 3):
        with pytest.raises(UsageError, match=f"at most 2, the number of classes, got {top}"):
            model.predict([], top=top)


def test_predicting_is_testing(trained, model):
    file = trained[1] / "test" / "bee" / "0.png"
    expected = model.predict(file)
    model.train()
    assert model.predict(file) == expected


# ------------------------------------------------------------------------------------------------------ the command line


def _main(capsys, *arguments):
    status = main([*map(str, arguments)])
    out, err = capsys.readouterr()
    return status, out, err


def test_the_command_prints_a_table(trained, model, capsys):
    where = ["--output", trained[0].parent, "--name", "mine"]
    folder = trained[1] / "test" / "bee"
    status, out, err = _main(capsys, "predict", *where, folder, trained[1] / "test" / "fly" / "0.png")
    assert (status, err) == (0, "")
    header, *rows = out.splitlines()
    assert header.split() == ["photo", "label", "probability"]
    files = [*sorted(folder.iterdir()), trained[1] / "test" / "fly" / "0.png"]
    assert [row.split()[0] for row in rows] == [str(file) for file in files]
    assert [row.split()[1] for row in rows] == [each.label for each in model.predict(files)]
    assert len({len(line) for line in rows}) == 1

    status, out, _ = _main(capsys, "predict", *where, "--top", "2", "--arm", "plain", "--seed", "0", files[0])
    assert len(out.splitlines()) == 3
    assert {row.split()[-3] for row in out.splitlines()[1:]} == set(CLASSES)
    assert f"{100 * jpegdl.load(trained[0] / 'plain' / '0').predict(files[0]).probability:.2f} %" in out


def test_the_command_prints_json(trained, model, capsys):
    file = trained[1] / "test" / "bee" / "0.png"
    status, out, _ = _main(capsys, "predict", "--output", trained[0].parent, "--name", "mine", "--json", "--top", "2", file)
    found = json.loads(out)
    assert status == 0
    assert found["photo"] == str(file)
    assert tuple(found["labels"]) == model.predict(file, top=2).labels
    assert sum(found["probabilities"]) == pytest.approx(1)


def test_a_bad_file_is_one_line_and_the_others_are_done(trained, capsys, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_text("no image", encoding="utf-8")
    file = trained[1] / "test" / "bee" / "0.png"
    status, out, err = _main(capsys, "predict", "--output", trained[0].parent, "--name", "mine", bad, file, tmp_path / "none")
    assert status == 1
    assert str(file) in out.splitlines()[1]
    assert [line.partition(" cannot be read")[0] for line in err.splitlines()] == [
        f"jpegdl: error: {bad}", f"jpegdl: error: {tmp_path / 'none'}", "jpegdl: error: 2 of 3 photos"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{photo}", "--name", "other"], "no comparison in "),
        (["{photo}", "--arm", "gain"], "no finished run of arm 'gain'"),
        (["{photo}", "--top", "5"], "top must be at least 1 and at most 2"),
        (["{empty}"], "holds no image file (.png, "),
        ([], "PHOTO is missing"),
    ],
)
def test_a_mistake_gets_one_line(trained, capsys, tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    places = {"photo": trained[1] / "test" / "bee" / "0.png", "empty": tmp_path / "empty"}
    given = ["--output", trained[0].parent, "--name", "mine", *(each.format(**places) for each in arguments)]
    status, _, err = _main(capsys, "predict", *given)
    assert status in (1, 2)
    assert message in err
    assert err.count("jpegdl: error:") == 1


def test_photos_of_a_folder_are_in_order_of_their_names(tmp_path):
    for name in ("b/10.png", "b/2.JPG", "a.webp", ".hidden/1.png", "__MACOSX/1.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert classifier.find_photos([tmp_path]) == [tmp_path / name for name in ("a.webp", "b/2.JPG", "b/10.png")]
    assert classifier.find_photos([tmp_path / "none", tmp_path / "notes.txt"]) == [tmp_path / "none", tmp_path / "notes.txt"]


# -------------------------------------------------------------------------------------------------------------- sharing


@pytest.mark.parametrize("arm", ["plain", "jpeg-dl"])
def test_a_saved_folder_gives_the_same_logits(trained, tmp_path, batch, arm):
    model = jpegdl.load(trained[0] / arm / "0")
    model.save_pretrained(tmp_path / "saved")
    shutil.move(tmp_path / "saved", tmp_path / "moved")
    for other in (jpegdl.load(tmp_path / "moved"), jpegdl.Classifier.from_pretrained(tmp_path / "moved")):
        assert torch.equal(_logits(other, batch), _logits(model, batch))
        assert other.classes == CLASSES
        assert repr(other.transform) == repr(model.transform)
        assert other.measured == model.measured
    again = jpegdl.load(tmp_path / "moved")
    again.save_pretrained(tmp_path / "again")
    for file in (tmp_path / "moved").iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("kind", ["jpeg", "regions", "cascade", "log", "gain", "normalize", "none"])
def test_every_kind_of_layer_can_be_saved(tmp_path, batch, kind):
    config = RunConfig(data=DataConfig(size=16), layer=LayerConfig(kind=kind, region=8, rounding="hard"))
    model = jpegdl.Classifier(build_model(config, 2), CLASSES, config)
    with torch.no_grad():
        for parameter in model.model.layer.parameters():
            parameter.mul_(3.5)
    model.save_pretrained(tmp_path)
    assert torch.equal(_logits(jpegdl.load(tmp_path), batch), _logits(model, batch))
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["layer"]["config"]["kind"] == kind


@pytest.mark.parametrize("backbone", ["cifar_resnet8", "vit_tiny_patch16_224", "torchvision/squeezenet1_1"])
def test_other_means_and_sizes_are_kept(tmp_path, backbone):
    config = RunConfig(backbone=backbone, data=DataConfig(size=32, resize=36))
    own = build_model(config, 3)
    model = jpegdl.Classifier(prepend(own.backbone, own.layer, (0.1, 0.2, 0.3), (0.4, 0.5, 0.7)), ["a", "b", "c"], config)
    model.save_pretrained(tmp_path)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(_logits(jpegdl.load(tmp_path), images), _logits(model, images))
    if not backbone.startswith("torchvision/"):
        timms = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
        assert tuple(timm.data.resolve_model_data_config(timms)["input_size"]) == (3, 32, 32)
        normalised = (images - model.model.mean) / model.model.std
        assert torch.equal(_logits(timms, normalised), _logits(model.model.backbone, normalised))


def test_timm_opens_the_backbone(trained, tmp_path, model, batch):
    """Behind the layer, and normalised as timm's own config says, it gives the logits of the whole model."""
    model.save_pretrained(tmp_path)
    backbone = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    cfg = backbone.pretrained_cfg
    mean, std = (torch.tensor(cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    with torch.no_grad():
        assert torch.equal(backbone((model.model.layer(batch) - mean) / std), model(batch))
        assert torch.equal(prepend(backbone, model.model.layer)(batch), model(batch))
    assert list(cfg["label_names"]) == CLASSES
    assert (cfg["num_classes"], cfg["interpolation"]) == (2, "bicubic")


@pytest.mark.parametrize(("size", "side"), [(16, 18), (32, 36), (224, 256), (224, 224), (29, 47), (300, 331)])
def test_timm_prepares_images_of_the_same_size(tmp_path, size, side):
    """Its own transform scales to the same short side; the pixels of RGB images are then ours."""
    config = RunConfig(data=DataConfig(size=size, resize=side), layer=LayerConfig(kind="none"))
    jpegdl.Classifier(build_model(config, 2), CLASSES, config).save_pretrained(tmp_path)
    backbone = timm.create_model(f"local-dir:{tmp_path}")
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(backbone), is_training=False)
    cfg = backbone.pretrained_cfg
    mean, std = (torch.tensor(cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    image = Image.fromarray(_pixels(np.random.default_rng(0), 0.5, (2 * side, 2 * side)))
    torch.testing.assert_close(transform(image) * std + mean, TestTransform(config.data)(image), atol=1e-5, rtol=0)


def test_the_config_says_what_the_layer_is(trained, tmp_path, model):
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["architecture"] == "cifar_resnet8"
    assert config["label_names"] == CLASSES
    assert config["layer"]["layer"] == "JpegLayer"
    assert config["layer"]["kind"] == "steps"
    assert config["layer"]["tables"]["luma"] == model.model.layer.luma.tolist()
    assert config["layer"]["config"]["bits"] == 8
    assert config["pretrained_cfg"]["mean"] == [0.5071, 0.4867, 0.4408]


def test_a_folder_of_two_models_is_none(tmp_path, model, monkeypatch):
    """A process that was killed while it replaced one model by another left weights of one and classes of the other."""
    other = jpegdl.Classifier(build_model(model.config, len(model.classes)), model.classes, model.config)
    next(other.model.layer.parameters()).data.mul_(2)
    model.save_pretrained(tmp_path / "one")
    other.save_pretrained(tmp_path / "other")
    for name in ("model.safetensors", "layer.safetensors"):
        mixed = tmp_path / f"mixed-{name}"
        shutil.copytree(tmp_path / "one", mixed)
        shutil.copy(tmp_path / "other" / name, mixed / name)
        with pytest.raises(UsageError, match=f"{name} is not the one that config.json describes.*save or download it again"):
            jpegdl.load(mixed)
    before = {file.name: file.read_bytes() for file in (tmp_path / "one").iterdir()}

    def full(self, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="cannot be written"):
            other.save_pretrained(tmp_path / "one")
    assert {file.name: file.read_bytes() for file in (tmp_path / "one").iterdir()} == before
    about = json.loads(before["config.json"])
    del about["files"]  # as an earlier version wrote it
    (tmp_path / "one/config.json").write_text(json.dumps(about), encoding="utf-8")
    jpegdl.load(tmp_path / "one")


def test_the_card_holds_what_was_measured(trained, tmp_path, model):
    model.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    result = RunFolder(trained[0] / "jpeg-dl" / "0").result()
    assert f"test accuracy {100 * result['accuracy']:.2f} %" in card
    assert "on 18 images of `folder`, after training on 16" in card
    assert (trained[0] / "summary.md").read_text(encoding="utf-8").strip() in card
    assert "jpegdl compare --arms '[plain, jpeg-dl]' --seeds '[0]'" in card
    assert " --layer.tables standard:75 " in card
    assert " --training.epochs 1 --data.path FOLDER\n" in card
    for file in ("README.md", "config.json"):  # nothing of where it was trained
        assert str(trained[0].parent) not in (tmp_path / file).read_text(encoding="utf-8")
    jpegdl.Classifier(model.model, CLASSES, model.config).save_pretrained(tmp_path)
    assert "No measurement came with this model." in (tmp_path / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arm", "tables", "command"),
    [
        ("ste", "sensitivity", "compare --arms '[plain, ste]'"),
        ("fixed-50", "standard:50", "train --arm fixed-50"),
        ("an-arm-of-mine", "standard:50", "compare --arms '[plain, jpeg-dl]'"),
    ],
)
def test_the_cards_command_trains_the_arm(model, arm, tables, command):
    config = replace(model.config, layer=replace(model.config.layer, tables=tables))
    assert f"\njpegdl {command} --seed" in pretrained._results(config, {**model.measured, "arm": arm})


def test_the_card_counts_images_without_corrupt_ones(tmp_path):
    data = {"name": "folder", **{part: {"images": 20} for part in ("train", "validation", "test")}, "left_out": list("abcdef")}
    run = fake_run(tmp_path, "plain", data=data, correct=9, images=18, validation={"images": 17})
    measured = pretrained.measurements(run)
    assert (measured["test_images"], measured["train_images"]) == (18, 19)  # of six, 2 are in the test and 3 held out


def test_the_cards_command_has_the_runs_settings(trained, tmp_path, model, monkeypatch, capsys):
    command = next(
        line for line in pretrained._results(model.config, model.measured).splitlines() if line.startswith("jpegdl ")
    )
    seen = []
    monkeypatch.setattr("jpegdl.comparison.compare", lambda config, **_: seen.append(config) or 1 / 0)
    assert main(shlex.split(command)[1:]) == 1
    (config,) = seen
    run = copy.deepcopy(model.config)
    run.data.path, run.data.name, run.device = "FOLDER", "folder", "auto"
    assert config.run == run


def test_files_of_another_kind_are_not_overwritten(tmp_path, model):
    (tmp_path / "README.md").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="holds other files; give a new folder"):
        model.save_pretrained(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["README.md"]
    with pytest.raises(UsageError, match="holds other files"):
        model.save_pretrained(tmp_path / "README.md")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "layer.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "cut", "other"])
def test_a_damaged_folder_is_named(tmp_path, model, name, damage):
    model.save_pretrained(tmp_path)
    file = tmp_path / name
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-20])
    elif name == "config.json":
        file.write_text('{"architecture": "resnet18"}', encoding="utf-8")
    else:
        shutil.copy(tmp_path / {"model.safetensors": "layer.safetensors"}.get(name, "model.safetensors"), file)
    with pytest.raises(UsageError) as error:
        jpegdl.load(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("change", [{"run": {"seeds": 3}}, {"layer": 3}, {"architecture": "magic"}, {"measured": None}])
def test_an_edited_config(tmp_path, model, change):
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**config, **change}), encoding="utf-8")
    if change == {"measured": None}:
        assert jpegdl.load(tmp_path).measured is None
        return
    with pytest.raises(UsageError):
        jpegdl.load(tmp_path)


class _Hub(SimpleNamespace):
    """A stand-in for huggingface_hub: a folder for its repositories."""

    def __init__(self, folder):
        super().__init__(folder=folder, calls=[])

    def HfApi(self, **about):  # noqa: N802
        assert about["library_name"] == "jpegdl"
        return self

    def create_repo(self, name, *, private, exist_ok):
        assert exist_ok
        self.calls.append((name, private))
        return type("RepoUrl", (str,), {"repo_id": f"me/{name.rpartition('/')[2]}"})(f"hub/me/{name.rpartition('/')[2]}")

    def upload_folder(self, *, repo_id, folder_path, commit_message):
        shutil.copytree(folder_path, self.folder / repo_id)

    def snapshot_download(self, name, *, revision, allow_patterns):
        self.calls.append((name, revision))
        if not (self.folder / name).is_dir():
            raise OSError(f"404:\nno {name}")
        return str(self.folder / name)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    hub = _Hub(tmp_path / "hub")
    hub.__spec__ = huggingface_hub.__spec__
    monkeypatch.setitem(sys.modules, "huggingface_hub", hub)
    return hub


def test_there_and_back_over_the_hub(hub, model, batch):
    assert model.push_to_hub("me/bees", private=True) == "hub/me/bees"
    other = jpegdl.Classifier.from_pretrained("me/bees", revision="v1")
    assert hub.calls == [("me/bees", True), ("me/bees", "v1")]
    assert torch.equal(_logits(other, batch), _logits(model, batch))
    card = (hub.folder / "me" / "bees" / "README.md").read_text(encoding="utf-8")
    assert 'from_pretrained("me/bees")' in card
    assert 'timm.create_model("hf-hub:me/bees", pretrained=True)' in card


def test_the_hub_says_no(hub, model, monkeypatch):
    with pytest.raises(UsageError, match="me/none.*OSError: 404: no me/none"):
        jpegdl.Classifier.from_pretrained("me/none")
    monkeypatch.setattr(_Hub, "create_repo", lambda *_, **__: (_ for _ in ()).throw(PermissionError("no token")))
    with pytest.raises(UsageError, match="me/bees.*PermissionError: no token"):
        model.push_to_hub("me/bees")


@pytest.mark.parametrize("section", ["architecture", "layer"])
def test_a_download_runs_no_code_of_its_own(hub, model, section):
    model.push_to_hub("me/bees")
    file = hub.folder / "me" / "bees" / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    if section == "layer":
        config["layer"]["config"]["kind"] = "os:system"
    else:
        config["architecture"] = "os:system"
    file.write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(UsageError, match="code of its own, os:system: .*trust"):
        jpegdl.Classifier.from_pretrained("me/bees")


def test_without_the_hubs_package(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r"pip install '.\[share\]'"):
        model.push_to_hub("me/bees")


def test_the_hubs_own_functions_take_what_they_are_given():
    """The stand-in above is called as the real package is."""
    api = huggingface_hub.HfApi(library_name="jpegdl", library_version="0")
    inspect.signature(api.create_repo).bind("me/bees", private=True, exist_ok=True)
    inspect.signature(api.upload_folder).bind(repo_id="me/bees", folder_path="x", commit_message="y")
    inspect.signature(huggingface_hub.snapshot_download).bind("me/bees", revision=None, allow_patterns=["x"])
