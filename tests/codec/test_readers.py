import json
import sys
import threading
import warnings

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as nn_functional

from jpegdl.codec import PhotoReader, open_reader, open_readers, readers
from jpegdl.data import DataConfig, TestTransform, photograph
from jpegdl.errors import UsageError

PHOTO = Image.fromarray(photograph("chelsea")).convert("RGB").resize((96, 70))


class Tiny(nn.Module):
    """Three classes, by the mean of each colour."""

    def __init__(self, classes=3):
        super().__init__()
        self.head = nn.Linear(3, classes)

    def forward(self, x):
        return self.head(x.mean((2, 3)))


def reader(network=None, **options):
    torch.manual_seed(0)
    return PhotoReader(network or Tiny(), "tiny", **{"size": 32, "resize": 40, "fast": False, **options})


def as_tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(96, 70), (70, 96), (33, 41), (40, 40)])
def test_what_a_reader_sees_is_what_a_test_of_a_run_sees(size, interpolation):
    image = PHOTO.resize(size)
    seen = reader(interpolation=interpolation).view(as_tensor(image))
    wanted = TestTransform(DataConfig(size=32, resize=40, interpolation=interpolation))(image)
    assert seen.shape == (3, 32, 32)
    assert float((seen * 255 - wanted.float() * 255).abs().max()) <= 1.01


@pytest.mark.parametrize("size", [(96, 70), (51, 200), (40, 40), (40, 64), (2000, 20)])
def test_what_it_does_not_see_has_no_gradient(size):
    one = reader()
    width, height = size
    pixels = torch.rand(3, height, width, requires_grad=True)
    one.view(pixels).clamp(0.001, 0.999).sum().backward()
    top, left, bottom, right = one.sees(height, width)
    outside = torch.ones(height, width, dtype=torch.bool)
    outside[top:bottom, left:right] = False
    felt = pixels.grad.abs().sum(0)
    assert float(felt[outside].sum()) == 0
    assert float(felt[(top + bottom) // 2, (left + right) // 2]) > 0
    rows = felt.sum(1).nonzero()
    assert int(rows.min()) - top < 8 + 3 * height / 40
    assert bottom - int(rows.max()) < 8 + 3 * height / 40


def test_distances_are_those_of_pytorch():
    one = reader()
    views = torch.rand(4, 3, 32, 32)
    own, seen = one.answers(views), one.answers(views.flip(0))
    wanted = nn_functional.kl_div(seen, own, log_target=True, reduction="none").sum(1)
    assert torch.allclose(one.distance(own, seen), wanted, atol=1e-7)
    features = PhotoReader(nn.AdaptiveAvgPool2d(1), "pool", size=32, features=True, fast=False)
    own, seen = features.answers(views), features.answers(views + 0.1)
    assert own.shape == (4, 3)
    assert torch.allclose(features.distance(own, seen), (seen - own).square().sum(1) / own.square().sum(1))


class Two(nn.Module):
    def forward(self, x, text):
        return x.mean((2, 3))


class Bad(Tiny):
    def forward(self, x):
        return super().forward(x) * float("nan")


class Maps(nn.Module):
    def forward(self, x):
        return x


@pytest.mark.parametrize(
    ("network", "named"), [(Two(), "images"), (Bad(), "finite"), (Maps(), "logits"), (nn.Linear(3, 3), "images")]
)
def test_what_is_no_reader_is_refused(network, named):
    with pytest.raises(UsageError, match=named) as error:
        reader(network)
    assert "\n" not in str(error.value)


class Given(nn.Module):
    """What ``made`` makes of the logits of three classes."""

    def __init__(self, made):
        super().__init__()
        torch.manual_seed(0)
        self.logits = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 3))
        self.made = made

    def forward(self, x):
        return self.made(9 * self.logits(x))


@pytest.mark.parametrize(
    ("made", "named"),
    [
        (lambda logits: logits[:, :1], "features"),
        (lambda logits: logits + 0j, "logits"),
        (lambda logits: nn_functional.dropout(logits), "random"),
        (lambda logits: logits - logits.mean(0), "other images"),
        (lambda logits: logits / {}["scale"], "KeyError"),
        (lambda logits: 1 // 0, "ZeroDivisionError"),
    ],
)
def test_answers_that_cannot_choose_are_refused(made, named):
    with pytest.raises(UsageError, match=named) as error:
        reader(Given(made))
    assert "tiny" in str(error.value)


def test_probabilities_are_taken_for_what_they_are():
    views = torch.rand(4, 3, 32, 32)
    wanted = reader(Given(lambda logits: logits)).answers(views)
    given = reader(Given(lambda logits: logits.softmax(1)))
    assert torch.allclose(given.answers(views), wanted, atol=1e-5)
    assert float(wanted.exp().std()) > 0.05  # which logarithms of such numbers as logits would not show


def test_one_number_has_distances():
    one = reader(Given(lambda logits: logits[:, :1]), features=True)
    assert one.answers(torch.rand(2, 3, 32, 32)).shape == (2, 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("fast", [False, True])
def test_networks_of_another_precision_compute_in_ours(dtype, fast):
    views, exact = torch.rand(2, 3, 32, 32), reader()
    torch.manual_seed(0)
    network = Tiny().to(dtype)
    assert torch.allclose(reader(network, fast=fast).answers(views), exact.answers(views), atol=0.02)
    assert network.head.weight.dtype == dtype  # the caller's own stays


def test_torchscript_reads():
    views, exact = torch.rand(2, 3, 32, 32), reader()
    torch.manual_seed(0)
    for made in (torch.jit.script, lambda network: torch.jit.trace(network.eval(), views)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a PyTorch that calls it old
            network = made(Tiny())
        assert torch.allclose(reader(network).answers(views), exact.answers(views))


def test_what_cannot_be_copied_is_named():
    network = Tiny()
    network.lock = threading.Lock()
    with pytest.raises(UsageError, match="tiny cannot be copied"):
        reader(network)


def test_a_normalisation_of_ones_own_is_recorded():
    records = [reader(mean=mean, std=(0.5, 0.5, 0.5)).record() for mean in ((0.5, 0.5, 0.5), (0.4, 0.5, 0.5))]
    assert records[0] != records[1]
    assert "mean" not in reader().record()  # as in records of before


def test_readers_that_cannot_decide_together_are_refused(tmp_path, monkeypatch):
    (tmp_path / "my_readers.py").write_text(
        "import torch\nfrom torch import nn\n"
        "def small(classes=3):\n"
        "    torch.manual_seed(0)\n"
        "    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))\n"
        "def other():\n    return small(4)\n"
        "def needs(size):\n    return small()\n"
        "three = 3\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert open_reader("my_readers:small").outputs == 3
    with pytest.raises(UsageError, match="classes"):
        open_readers(["my_readers:small", "my_readers:other"])
    with pytest.raises(UsageError, match="features"):
        open_readers(["my_readers:small", "features:my_readers:small"])
    with pytest.raises(UsageError, match="twice"):
        open_readers(["my_readers:small", "my_readers:small"])
    for name, named in (("my_readers:needs", "size"), ("my_readers:three", "int"), ("my_readers:smal", "small")):
        with pytest.raises(UsageError, match=named):
            open_reader(name)
    sys.modules.pop("my_readers")


def test_a_network_by_name_with_weights_of_mine(tmp_path):
    torch.manual_seed(1)
    name = "cifar_resnet8"
    network = timm.create_model(name, num_classes=7)
    torch.save({"model": {f"module.{key}": value for key, value in network.state_dict().items()}}, tmp_path / "w.pth")
    one = open_reader(f"{name}@{tmp_path / 'w.pth'}")
    assert (one.name, one.outputs, one.features) == (f"{name}@w.pth", 7, False)
    views = torch.rand(2, 3, one.size, one.size)
    own = PhotoReader(network.eval(), "same", size=one.size, resize=one.resize, interpolation=one.interpolation)
    assert torch.allclose(one.answers(views), own.answers(views), atol=1e-5)
    bare = open_reader(f"features:{name}@{tmp_path / 'w.pth'}")
    assert bare.features
    assert bare.outputs > 7
    torch.save(timm.create_model(name, num_classes=0).state_dict(), tmp_path / "headless.pth")
    with pytest.raises(UsageError, match="no head.*features:"):  # a random one would answer
        open_reader(f"{name}@{tmp_path / 'headless.pth'}")
    assert open_reader(f"features:{name}@{tmp_path / 'headless.pth'}").outputs == bare.outputs


def test_a_run_is_a_reader_with_its_layer(mine):
    run = mine / "jpeg-dl" / "0"
    from jpegdl import load

    one, model = open_reader(str(run)), load(run)
    assert one.classes == model.classes
    views = torch.rand(2, 3, one.size, one.size)
    with torch.no_grad():
        wanted = model(views).log_softmax(1)
    exact = PhotoReader(model.model, "same", size=one.size, fast=False)
    assert torch.allclose(exact.answers(views), wanted, atol=1e-5)
    model.save_pretrained(mine.parent / "saved")
    saved = open_reader(str(mine.parent / "saved"))
    assert saved.classes == model.classes
    assert torch.allclose(saved.answers(views), one.answers(views), atol=1e-5)


def test_folders_that_hold_no_model(tmp_path):
    for content in (None, "{", json.dumps({"architecture": "no_such_model"})):
        if content is not None:
            (tmp_path / "config.json").write_text(content, encoding="utf-8")
        with pytest.raises(UsageError, match=tmp_path.name) as error:
            open_reader(str(tmp_path))
        assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="no_such"):
        open_reader("no_such_network")


def test_a_folder_of_transformers(tmp_path):
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_labels=4, layer_type="basic")
    torch.manual_seed(0)
    model = transformers.ResNetForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    made = {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": True, "resample": 3}
    made |= {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(made), encoding="utf-8")
    one = open_reader(str(tmp_path))
    assert (one.size, one.resize, one.interpolation, one.outputs) == (32, 40, "bicubic", 4)
    assert len(one.classes) == 4
    views = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(made[key]).view(3, 1, 1) for key in ("image_mean", "image_std"))
    with torch.no_grad():
        wanted = model((views - mean) / std).logits.log_softmax(1)
    assert torch.allclose(one.answers(views), wanted, atol=0.05)  # bfloat16, where the processor has it


@pytest.mark.parametrize(
    ("processor", "made", "seen"),
    [
        ("ViTImageProcessor", {"size": {"height": 32, "width": 32}}, (32, 32, "squash")),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 28}, "crop_pct": 0.875}, (28, 32, "center")),
        ("CLIPImageProcessor", {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}}, (32, 40, "center")),
    ],
)
def test_photos_as_processors_of_transformers_make_them(tmp_path, processor, made, seen):
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_labels=4, layer_type="basic")
    transformers.ResNetForImageClassification(config).save_pretrained(tmp_path)
    process = getattr(transformers, processor)(**made, resample=3)
    process.save_pretrained(tmp_path)
    one = open_reader(str(tmp_path))
    assert (one.size, one.resize, one.crop) == seen
    photo = PHOTO.crop((0, 0, 96, 50))
    mean, std = (torch.tensor(getattr(process, key)).view(3, 1, 1) for key in ("image_mean", "image_std"))
    wanted = process(photo, return_tensors="pt")["pixel_values"][0] * std + mean
    assert float((one.view(as_tensor(photo)) - wanted).abs().mean()) < 0.01


def test_a_squashed_photo_is_seen_whole():
    one = reader(crop="squash")
    wide = torch.rand(3, 50, 5000, requires_grad=True)
    view = one.view(wide)
    assert view.shape == (3, 32, 32)
    view.clamp(0.001, 0.999).sum().backward()
    top, left, bottom, right = one.sees(50, 5000)
    rows, columns = (wide.grad.abs().sum(dims).nonzero() for dims in ((0, 2), (0, 1)))
    assert top <= int(rows.min()) < int(rows.max()) < bottom
    assert left <= int(columns.min()) < int(columns.max()) < right
    assert right - left > 0.75 * 5000  # 32 of 40 pixels, and what scaling takes in around them
    assert "squash" in one.record().values()
    with pytest.raises(UsageError, match="border"):
        reader(crop="border")


def test_what_timm_says_of_crops_is_followed():
    recorded = {"input_size": (3, 32, 32), "crop_pct": 0.8, "interpolation": "bicubic"}
    for more, wanted in (({"crop_mode": "squash"}, "squash"), ({}, "center"), ({"crop_mode": "border"}, None)):
        network = Tiny()
        network.pretrained_cfg = recorded | more
        if wanted is None:
            with pytest.raises(UsageError, match="border"):
                readers._recorded_input(network)
        else:
            assert readers._recorded_input(network)["crop"] == wanted
    network.pretrained_cfg = recorded | {"input_size": (3, 32, 16)}
    with pytest.raises(UsageError, match="32 x 16"):
        readers._recorded_input(network)


@pytest.mark.parametrize("note", range(1, 9))
def test_a_reader_that_follows_the_cameras_note_sees_what_a_run_sees_of_the_file(note, tmp_path):
    image, exif = PHOTO, Image.Exif()
    exif[0x0112] = note
    image.save(tmp_path / "turned.png", exif=exif)
    one = reader(orientation="follow")
    with Image.open(tmp_path / "turned.png") as stored:
        wanted = TestTransform(DataConfig(size=32, resize=40, orientation="follow"))(stored)
    seen = one.view(as_tensor(image), note)
    assert float((seen * 255 - wanted.float() * 255).abs().max()) <= 1.01
    assert torch.equal(reader().view(as_tensor(image), note), reader().view(as_tensor(image)))
    wide = torch.rand(3, 61, 210, requires_grad=True)
    one.view(wide, note).clamp(0.001, 0.999).sum().backward()
    top, left, bottom, right = one.sees(61, 210, note)
    outside = torch.ones(61, 210, dtype=torch.bool)
    outside[top:bottom, left:right] = False
    felt = wide.grad.abs().sum(0)
    assert float(felt[outside].sum()) == 0
    assert (felt.sum(0) > 0).sum() > (right - left) / 2


def test_what_orientations_there_are():
    with pytest.raises(UsageError, match="orientation"):
        reader(orientation="turned")
    assert reader(orientation="follow").record()["orientation"] == "follow"
