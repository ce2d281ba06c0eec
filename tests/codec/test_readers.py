import copy
import json
import sys
import threading
import warnings

import numpy as np
import pytest
import timm
import torch
import yaml
from PIL import Image
from timm.data import create_transform
from torch import nn
from torch.nn import functional as nn_functional

from jpegdl.backbones.build import own_input
from jpegdl.codec import PhotoReader, open_reader, open_readers, readers
from jpegdl.data import DataConfig, TestTransform, photograph
from jpegdl.errors import UsageError
from jpegdl.runs import RunFolder

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


@pytest.mark.parametrize("quality", [5, 60])
def test_a_view_goes_through_the_jpeg_of_its_test(quality):
    image, one = PHOTO.resize((40, 40)), reader(jpeg=quality)
    wanted = TestTransform(DataConfig(size=32, resize=40, jpeg_test=quality))(image)
    pixels = as_tensor(image)
    floating = (pixels / 255).requires_grad_()
    view = one.view(floating)
    assert torch.allclose(one.view(pixels), wanted, rtol=0, atol=1e-6)
    assert torch.allclose(view, wanted, rtol=0, atol=1e-6)
    assert not torch.allclose(reader().view(pixels), wanted, rtol=0, atol=0.01)
    view.square().sum().backward()
    assert float(floating.grad[:, 4:-4, 4:-4].abs().sum()) > 0
    assert one.record()["jpeg"] == quality
    for wrong in ({"jpeg": 0}, {"size": 0}, {"size": 24.5}, {"resize": "40"}, {"resize": 31}):
        with pytest.raises(UsageError, match=f"{next(iter(wrong))} of tiny"):
            reader(**wrong)


def test_a_reader_that_squashes_sees_the_whole_photo_as_timms_transform_does():
    one = reader(squash=True)
    made = create_transform((3, 32, 32), crop_pct=0.8, crop_mode="squash", interpolation="bicubic", mean=(0,) * 3, std=(1,) * 3)
    for size in ((96, 70), (70, 300)):
        image = PHOTO.resize(size)
        assert float((one.view(as_tensor(image)) - made(image)).abs().max()) <= 1.01 / 255
    wide = torch.rand(3, 50, 5000, requires_grad=True)
    view = one.view(wide)
    assert view.shape == (3, 32, 32)
    view.clamp(0.001, 0.999).sum().backward()
    top, left, bottom, right = one.sees(50, 5000)
    rows, columns = (wide.grad.abs().sum(dims).nonzero() for dims in ((0, 2), (0, 1)))
    assert top <= int(rows.min()) < int(rows.max()) < bottom
    assert left <= int(columns.min()) < int(columns.max()) < right
    assert right - left > 0.75 * 5000  # 32 of 40 pixels, and what scaling takes in around them
    assert one.record()["squash"] is True


@pytest.mark.parametrize("squash", [False, True])
@pytest.mark.parametrize("size", [(96, 70), (51, 200), (40, 40), (40, 64), (2000, 20)])
def test_what_it_does_not_see_has_no_gradient(size, squash):
    one = reader(squash=squash)
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


def test_answers_that_say_nothing_of_a_file():
    """Labels that may come together, the same whatever there is to see, and numbers whose logarithms overflow."""

    class Says(nn.Module):
        def __init__(self, says):
            super().__init__()
            torch.manual_seed(0)
            self.net, self.says = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 8)), says

        def forward(self, x):
            return self.says(self.net(x))

    for says, named in (
        (torch.sigmoid, "sigmoid"),
        (lambda y: 0 * y, "same answer"),
        (lambda y: 3e38 * y.sign(), "finite"),
    ):
        with pytest.raises(UsageError, match=named):
            PhotoReader(Says(says), size=16, fast=False)
    assert PhotoReader(Says(torch.sigmoid), size=16, fast=False, features=True).outputs == 8
    alike = [PhotoReader(Says(lambda y: y), name, size=16, fast=False) for name in ("one", "two")]
    with pytest.raises(UsageError, match="one and two have the same weights"):
        readers.check_together(alike)
    with pytest.raises(UsageError, match="the same weights"):
        readers.check_together([alike[0], alike[0]])
    readers.check_together(
        [alike[0], PhotoReader(Says(lambda y: y), "near", size=16, resize=24, fast=False)]
    )  # sees another part


def test_a_network_that_is_sure_of_noise_is_taken():
    """Its probabilities of two pictures of noise are 1 and 0, to the last bit."""

    class Sure(nn.Module):
        def forward(self, x):
            smooth = 100.0 * ((x[..., 1:] - x[..., :-1]).abs().mean((1, 2, 3)) < 0.3)
            return torch.stack((torch.full_like(smooth, 50.0), smooth), 1).softmax(1)

    assert PhotoReader(Sure(), size=32, fast=False).outputs == 2


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


def test_what_networks_share_is_seen_whatever_their_file_and_names_and_head():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    here = reader(nn.Sequential(body, nn.Linear(8, 3)))
    alike = [copy.deepcopy(body).to(dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)]
    assert all(here.shared(reader(one, features=True)) == 1 for one in alike)
    assert reader(nn.Sequential(body, nn.Linear(8, 3))).shared(here) == pytest.approx(224 / (224 + 27))  # another head
    torch.manual_seed(1)
    body[0].reset_parameters()
    assert here.shared(reader(body, features=True)) == 0


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
        "def read():\n    from jpegdl.codec import PhotoReader\n    return PhotoReader(small(), size=32)\n"
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
    assert open_reader("my_readers:read").size == 32
    with pytest.raises(UsageError, match=r"has its weights: drop @w\.pth"):
        open_reader("my_readers:read@w.pth")
    sys.modules.pop("my_readers")


def test_a_record_with_a_border_around_photos_is_seen_without():
    made = own_input("volo_d4_448.sail_in1k")
    assert made.resize < made.size
    assert readers._seen(made, "volo") == {"size": 448, "resize": 448, "interpolation": "bicubic", "squash": False}


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


def test_weights_of_a_run_name_their_classes(tmp_path, monkeypatch):
    """Labels of photos go by these names, whose order is the run's own."""
    monkeypatch.syspath_prepend(tmp_path)
    text = "import torch\nfrom torch import nn\ndef make(): return nn.Sequential(nn.Flatten(), nn.Linear(3 * 224**2, 2))\n"
    (tmp_path / "flat_readers.py").write_text(text, encoding="utf-8")
    for name, network, classes in (
        ("cifar_resnet8", timm.create_model("cifar_resnet8", num_classes=3), ["b", "c", "a"]),
        ("flat_readers:make", nn.Sequential(nn.Flatten(), nn.Linear(3 * 224**2, 2)), ["b", "a"]),
    ):
        RunFolder(tmp_path).write_model(network, classes)
        one = open_reader(f"{name}@{tmp_path}/model.safetensors")
        assert (one.name, one.classes) == (f"{name}@model.safetensors", classes)
        RunFolder(tmp_path).write_model(network, [*classes, "more"])
        with pytest.raises(UsageError, match="names of classes"):
            open_reader(f"{name}@{tmp_path}/model.safetensors")
    sys.modules.pop("flat_readers")


def test_a_run_is_a_reader_with_its_layer(mine):
    run = mine / "jpeg-dl" / "0"
    from jpegdl import load

    one, model = open_reader(str(run)), load(run)
    assert one.classes == model.classes
    views = torch.rand(2, 3, one.size, one.size)
    with torch.no_grad():
        wanted = model(views).log_softmax(1)
    assert one.jpeg is None
    exact = PhotoReader(model.model, "same", size=one.size, fast=False)
    assert torch.allclose(exact.answers(views), wanted, atol=1e-5)
    model.save_pretrained(mine.parent / "saved")
    saved = open_reader(str(mine.parent / "saved"))
    assert saved.classes == model.classes
    assert torch.allclose(saved.answers(views), one.answers(views), atol=1e-5)


def test_a_run_sees_the_jpeg_of_its_own_test_by_every_way_to_open_it(mine):
    from jpegdl import load

    run = mine / "plain" / "0"
    settings = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    settings["data"] |= {"jpeg_test": 7, "resize": 48, "interpolation": "bilinear", "orientation": "follow"}
    (run / "config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    model = load(run)
    model.save_pretrained(mine.parent / "saved")
    image = PHOTO.crop((0, 0, 48, 48))
    for name in (run, mine.parent / "saved"):
        one = open_reader(str(name))
        assert (one.jpeg, one.resize, one.interpolation, one.orientation) == (7, 48, "bilinear", "follow")
        assert torch.allclose(one.view(as_tensor(image)), model.transform(image), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({}, False),
        ({"crop_mode": "center"}, False),
        ({"crop_mode": "squash"}, True),
        ({"crop_mode": "border"}, "border"),
        ({"input_size": (3, 32, 16)}, "32 x 16"),
        ({"interpolation": "lanczos"}, "lanczos"),
    ],
)
def test_a_network_with_timms_record_sees_what_that_says(more, wanted, tmp_path, monkeypatch):
    recorded = {"input_size": (3, 32, 32), "crop_pct": 0.8, **more}
    (tmp_path / "recorded_readers.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
        f"    network.pretrained_cfg = {recorded}\n"
        "    return network\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "recorded_readers", raising=False)
    if isinstance(wanted, str):
        with pytest.raises(UsageError, match=wanted):
            open_reader("recorded_readers:make")
    else:
        one = open_reader("recorded_readers:make")
        assert (one.size, one.resize, one.squash, one.interpolation) == (32, 40, wanted, "bicubic")
    sys.modules.pop("recorded_readers")


@pytest.mark.parametrize("where", ["crop_mode 'border'", "1024 x 768"])
def test_published_weights_for_other_images_are_refused(where):
    for name in timm.list_models(pretrained=True):
        if where in own_input(name).unlike:
            with pytest.raises(UsageError, match=where):
                open_reader(name)
            return
    pytest.skip("this version of timm has none")


def test_what_published_weights_see_is_timms_and_torchvisions():
    """Of all networks whose record says that photos are squashed, and of some of those whose record does not."""
    names = timm.list_models(pretrained=True)
    squashed = [name for name in names if timm.models.get_pretrained_cfg(name).crop_mode == "squash"]
    assert len(squashed) > 20
    for name in [*squashed, *names[::100]]:
        made, config = own_input(name), timm.models.get_pretrained_cfg(name)
        assert (made.squash, made.size) == (config.crop_mode == "squash", config.input_size[-1])
    assert not own_input("torchvision/resnet18").squash


def test_published_weights_of_torchvision_get_the_normalisation_they_were_made_with(monkeypatch):
    network = Tiny()
    network.transform_input = False
    monkeypatch.setattr(readers, "check_backbone", lambda *_, **__: None)
    monkeypatch.setattr(readers, "build_backbone", lambda *_: network)
    monkeypatch.setattr(readers, "pretrained_weights", lambda *_: network.state_dict())
    monkeypatch.setattr(readers, "load_weights", lambda *_: None)
    open_reader("torchvision/inception_v3")
    assert network.transform_input


def test_folders_that_hold_no_model(tmp_path):
    for content in (None, "{", json.dumps({"architecture": "no_such_model"})):
        if content is not None:
            (tmp_path / "config.json").write_text(content, encoding="utf-8")
        with pytest.raises(UsageError, match=tmp_path.name) as error:
            open_reader(str(tmp_path))
        assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="no_such"):
        open_reader("no_such_network")


@pytest.fixture
def of_transformers(tmp_path):
    """A folder with a network of transformers, and that network."""
    transformers = pytest.importorskip("transformers")
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], num_labels=4, layer_type="basic")
    torch.manual_seed(0)
    model = transformers.ResNetForImageClassification(config).eval()
    model.save_pretrained(tmp_path)
    return tmp_path, model


def test_a_classifier_of_transformers_gives_features(of_transformers):
    folder, model = of_transformers
    with pytest.warns(UserWarning, match="preprocessor"):
        one = open_reader(f"features:{folder}", fast=False)
    views = torch.rand(2, 3, one.size, one.size)
    mean, std = one.normalisation
    with torch.no_grad():
        wanted = model.resnet((views - mean) / std).pooler_output.flatten(1)
    assert torch.allclose(one.answers(views), wanted, atol=1e-5)


@pytest.mark.parametrize("kind", [dict, tuple, list])
def test_what_holds_logits_is_looked_into(kind):
    views, wanted = torch.rand(2, 3, 32, 32), reader(Given(lambda logits: logits))
    given = reader(Given(lambda logits: {"logits": logits, "loss": None} if kind is dict else kind((logits, logits[:, :1]))))
    assert torch.equal(given.answers(views), wanted.answers(views))


OWN = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}


@pytest.mark.parametrize(
    ("made", "seen"),
    [
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 28}, **OWN}, (28, 32, False)),
        ({"feature_extractor_type": "ConvNextFeatureExtractor", "size": 28, "crop_pct": 0.7, **OWN}, (28, 40, False)),
        ({"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384}}, (384, 384, True)),
        ({"size": {"shortest_edge": 28}, "crop_pct": 0.875}, (28, 32, False)),  # by the kind of network
        ({"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}}, (32, 32, True)),
        ({"image_processor_type": "ViTImageProcessor", "size": 32, "do_normalize": False}, (32, 32, True)),
        ({"image_processor_type": "CLIPImageProcessor", "size": 40, "crop_size": 32}, (32, 40, False)),
        ({"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}, "resample": 3}, (32, 32, True)),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 28}, "crop_pct": 0.875, "resample": 3},
            (28, 32, False),
        ),
        (
            {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 40}, "resample": 3}
            | {"crop_size": {"height": 32, "width": 32}},
            (32, 40, False),
        ),
    ],
)
def test_a_network_of_transformers_sees_what_its_image_processor_makes(of_transformers, made, seen):
    from transformers import AutoImageProcessor

    folder, model = of_transformers
    (folder / "preprocessor_config.json").write_text(json.dumps(made), encoding="utf-8")
    process = AutoImageProcessor.from_pretrained(folder)
    one = open_reader(str(folder), fast=False)
    pixels = as_tensor(PHOTO.resize((2 * one.resize, one.resize)))
    wanted = process(images=PHOTO.resize((2 * one.resize, one.resize)), return_tensors="pt")
    with torch.no_grad():
        assert torch.allclose(
            one.answers(one.view(pixels)[None]), model(wanted["pixel_values"]).logits.log_softmax(1), atol=0.01
        )
    process.save_pretrained(folder)  # with all that it has by default
    photo = PHOTO.crop((0, 0, 96, 50))
    wanted = process(photo, return_tensors="pt")["pixel_values"][0]
    if process.do_normalize:
        mean, std = (torch.tensor(getattr(process, key)).view(3, 1, 1) for key in ("image_mean", "image_std"))
        wanted = wanted * std + mean
    for each in (one, open_reader(str(folder), fast=False)):
        assert (each.size, each.resize, each.squash) == seen
        assert float((each.view(as_tensor(photo)) - wanted).abs().mean()) < 0.01


def test_an_image_processor_that_does_something_else_is_refused(of_transformers):
    folder, _ = of_transformers
    for more, named in (
        ({"do_rescale": False}, "ViTImageProcessor"),
        ({"do_resize": False}, "ViTImageProcessor"),
        ({"size": {"height": 32, "width": 48}}, "ViTImageProcessor"),
        ({"resample": 1}, "lanczos"),
    ):
        made = {"image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}, **more}
        (folder / "preprocessor_config.json").write_text(json.dumps(made), encoding="utf-8")
        with pytest.raises(UsageError, match=named) as error:
            open_reader(str(folder))
        assert "\n" not in str(error.value)
    (folder / "preprocessor_config.json").unlink()
    with pytest.warns(UserWarning, match=r"preprocessor_config\.json"):
        assert open_reader(str(folder)).size == 224


def test_a_folder_of_transformers(of_transformers):
    tmp_path, model = of_transformers
    made = {"image_processor_type": "BitImageProcessor"}
    made |= {"size": {"shortest_edge": 40}, "crop_size": {"height": 32, "width": 32}, "do_center_crop": True, "resample": 3}
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
