"""Trained weights: from files of every layout, fitted to the data's classes, and the settings that they bring along."""

import argparse
import re
import warnings

import huggingface_hub.constants
import pytest
import safetensors.torch
import timm
import torch
import torchvision
from torch import nn

from jpegdl.backbones.build import build_backbone, check_backbone, input_of, own_input
from jpegdl.backbones.weights import head_names, imagenet_rows, load_weights, pretrained_weights, read_weights
from jpegdl.comparison import CompareConfig, check_compare
from jpegdl.data import DataConfig
from jpegdl.errors import UsageError
from jpegdl.runs import RunConfig, TrainingConfig, check_config

CLASSES = list("abcde")
SIZE = 16


def _backbone(name="cifar_resnet8", classes=5, seed=1):
    return build_backbone(name, classes, seed, SIZE).eval()


def _logits(model):
    return model.eval()(torch.linspace(-1, 1, 2 * 3 * SIZE * SIZE).reshape(2, 3, SIZE, SIZE))


def _prefixed(state, prefix):
    return {f"{prefix}{name}": tensor for name, tensor in state.items()}


def _without_counts(state):
    return {name: tensor for name, tensor in state.items() if not name.endswith("num_batches_tracked")}


OTHER = {name: torch.zeros_like(tensor) for name, tensor in _backbone().state_dict().items()}
LAYOUTS = {
    "as it is": ("a.pth", lambda state: state),
    "safetensors": ("a.safetensors", lambda state: state),
    "DDP": ("a.pt", lambda state: _prefixed(state, "module.")),
    "compiled": ("a.bin", lambda state: _prefixed(state, "_orig_mod.")),
    "timm's checkpoint": ("a.pth.tar", lambda state: {"epoch": 3, "args": argparse.Namespace(lr=1), "state_dict": state}),
    "moving average first": (
        "a.pth",
        lambda state: {"model": OTHER, "model_ema": {"n_averaged": torch.tensor(7), **_prefixed(state, "module.")}},
    ),
    "Lightning": (
        "a.ckpt",
        lambda state: {"epoch": 3, "state_dict": {**_prefixed(state, "model."), "loss.weight": torch.ones(5)}},
    ),
    "before PyTorch counted batches": ("a.pth", _without_counts),
    "half precision": ("a.pth", lambda state: {n: t.half() if t.is_floating_point() else t for n, t in state.items()}),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(tmp_path, layout):
    name, arrange = LAYOUTS[layout]
    trained = _backbone()
    content = arrange(trained.state_dict())
    (safetensors.torch.save_file if name.endswith("safetensors") else torch.save)(content, tmp_path / name)
    other = _backbone(seed=2)
    assert not torch.equal(_logits(other), _logits(trained))
    assert load_weights(other, read_weights(tmp_path / name), CLASSES, "weights") == "own"
    assert torch.allclose(_logits(other), _logits(trained), atol=2e-3 if layout == "half precision" else 0)


@pytest.mark.parametrize("around", ["", "model."])
def test_models_of_this_project(around):
    trained = _backbone()
    state = {**_prefixed(trained.state_dict(), f"{around}backbone."), f"{around}layer.luma": torch.ones(8, 8)}
    other = _backbone(seed=2)
    with pytest.warns(UserWarning, match="only the backbone's are loaded"):
        assert load_weights(other, state, CLASSES, "mine") == "own"
    assert torch.equal(_logits(other), _logits(trained))


def test_torchvision():
    name = "torchvision/squeezenet1_1"
    trained, other = _backbone(name), _backbone(name, seed=2)
    assert load_weights(other, torchvision.models.squeezenet1_1(num_classes=5).state_dict(), CLASSES, "weights") == "own"
    assert load_weights(other, trained.state_dict(), CLASSES, "weights") == "own"
    assert all(torch.equal(a, b) for a, b in zip(other.state_dict().values(), trained.state_dict().values(), strict=True))


def test_timm_converts_for_another_image_size():
    trained = timm.create_model("test_vit", num_classes=5, img_size=160)
    other = build_backbone("test_vit", 5, 0, 96)
    load_weights(other, trained.state_dict(), CLASSES, "weights")
    assert torch.equal(other.blocks[0].mlp.fc1.weight, trained.blocks[0].mlp.fc1.weight)
    assert other.pos_embed.shape != trained.pos_embed.shape
    assert other(torch.zeros(1, 3, 96, 96)).isfinite().all()


# ------------------------------------------------------------------------------------------------------------------- heads


def test_a_head_of_another_size_is_replaced_and_that_is_said():
    trained, other, fresh = _backbone(classes=7), _backbone(seed=2), _backbone(seed=2)
    with pytest.warns(UserWarning, match="the head of FILE is for 7.*5"):
        assert load_weights(other, trained.state_dict(), CLASSES, "FILE") == "new"
    own, theirs, before = other.state_dict(), trained.state_dict(), fresh.state_dict()
    head = head_names(other, 5)
    assert head == ["fc.weight", "fc.bias"]
    for name, tensor in own.items():
        assert torch.equal(tensor, before[name] if name in head else theirs[name]), name


def test_weights_without_a_head_get_a_new_one():
    state = {name: tensor for name, tensor in _backbone().state_dict().items() if not name.startswith("fc.")}
    with pytest.warns(UserWarning, match="the head of FILE.*5"):
        assert load_weights(_backbone(seed=2), state, CLASSES, "FILE") == "new"


@pytest.mark.parametrize("name", ["cifar_resnet8", "torchvision/squeezenet1_1", "deit_tiny_distilled_patch16_224"])
def test_wordnet_ids_select_rows_of_imagenets_head(name):
    """The logits are those of the whole head at the classes' places, in the classes' order."""
    classes = ["n01443537", "n15075141", "n01440764"]  # goldfish, toilet tissue (the last), tench (the first)
    assert imagenet_rows(1000, classes) == [1, 999, 0]
    size = 224 if name.startswith("deit") else 32
    whole, part = (build_backbone(name, count, count, size).eval() for count in (1000, 3))
    assert load_weights(part, whole.state_dict(), classes, "weights") == "selected"
    images = torch.randn(2, 3, size, size)
    assert torch.allclose(part(images), whole(images)[:, [1, 999, 0]], atol=1e-5)


def test_classes_that_are_not_all_imagenets_get_a_new_head():
    assert imagenet_rows(1000, ["n01443537", "cat"]) is None
    assert imagenet_rows(7, ["n01443537"]) is None
    with pytest.warns(UserWarning, match="is for 1000 classes, and the data have 2"):
        assert load_weights(_backbone(classes=2), _backbone(classes=1000).state_dict(), ["n01443537", "cat"], "FILE") == "new"


# ----------------------------------------------------------------------------------------------------------------- refusals


def test_another_architecture_is_refused_by_its_first_names():
    with pytest.raises(UsageError, match=r"^FILE do not fit CifarResNet: \S+ is missing; \S+ is missing; .*, \d+ in all; give"):
        load_weights(_backbone(), _backbone("cifar_vgg8").state_dict(), CLASSES, "FILE")
    with pytest.raises(UsageError, match=r"conv1.weight is \(16, 3, 3, 3\), not \(32, 3, 3, 3\).*in all"):
        load_weights(_backbone("cifar_resnet8x4"), _backbone().state_dict(), CLASSES, "FILE")
    state = _backbone().state_dict()
    del state["conv1.weight"]
    with pytest.raises(UsageError, match="CifarResNet: conv1.weight"):
        load_weights(_backbone(), state, CLASSES, "FILE")


class _Code:
    def __reduce__(self):
        return (print, ("code was run",))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.pth", {"w": torch.ones(2), "code": _Code()}, "hold code, which is not run here"),
        ("a.pth", nn.Linear(2, 2), "hold code"),
        ("a.pth", b"PK\x03\x04 cut", "cannot be read"),
        ("a.safetensors", b"\x09", "cannot be read as a safetensors file"),
        ("a.pth", {}, "must hold a state dict, tensors by name, got nothing"),
        ("a.pth", [1, 2], "must hold a state dict, tensors by name, got list"),
        ("a.pth", {"w": torch.ones(2), "lr": 0.1}, "'lr' is not a tensor"),
        ("a.pth", {"good": torch.ones(2), "bad": torch.tensor([1.0, torch.nan])}, "not finite, first in bad"),
        ("a.onnx", b"", "must be a file named .safetensors, .pth,"),
        ("missing.pth", None, "there is no such file"),
    ],
)
def test_files_that_are_no_weights_are_refused_in_one_line(tmp_path, capsys, name, content, message):
    file = tmp_path / name
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        torch.save(content, file)
    with pytest.raises(UsageError, match=f"weights {re.escape(str(file))} .*{message}|{message}") as error:
        read_weights(file)
    assert "\n" not in str(error.value)
    assert "code was run" not in capsys.readouterr().out


# -------------------------------------------------------------------------------------------------------- published weights


def test_published_weights_without_a_network(monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setenv("HF_HUB_CACHE", "nowhere")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", "nowhere")
    with pytest.raises(UsageError, match="'test_resnet'.*timm/test_resnet.r160_in1k.*give a file") as error:
        pretrained_weights("test_resnet", 160)
    assert "\n" not in str(error.value)


def test_published_weights_from_the_cache(tmp_path, monkeypatch):
    """torchvision's are taken from its own cache, here with weights of our own."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    trained = torchvision.models.squeezenet1_1()
    (tmp_path / "checkpoints").mkdir()
    url = torchvision.models.SqueezeNet1_1_Weights.DEFAULT.url
    torch.save(trained.state_dict(), tmp_path / "checkpoints" / url.rpartition("/")[2])
    state = pretrained_weights("torchvision/squeezenet1_1", 64)
    assert torch.equal(state["classifier.1.bias"], trained.classifier[1].bias)


def test_tags_are_taken_with_weights_only():
    check_backbone("resnet18.a1_in1k", trained=True)
    with pytest.raises(UsageError, match="stands for pretrained weights, which are not loaded; add --pretrained true"):
        check_backbone("resnet18.a1_in1k")
    with pytest.raises(UsageError, match="'test_resnet.mine'.*test_resnet.r160_in1k"):
        check_backbone("test_resnet.mine", trained=True)
    with pytest.raises(UsageError, match="'cifar_resnet8'.*--weights"):
        check_config(RunConfig(pretrained=True))


# ------------------------------------------------------------------------------------------------- what comes with weights


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tf_efficientnet_lite0", (224, 256, "bicubic")),
        ("resnet18.a1_in1k", (224, 235, "bicubic")),
        ("test_resnet", (160, 168, "bilinear")),
        ("torchvision/resnet18", (224, 256, "bilinear")),
    ],
)
def test_the_weights_own_images(name, expected):
    own = own_input(name)
    assert (own.size, own.resize, own.interpolation) == expected
    data = RunConfig(backbone=name, pretrained=True).data
    assert (data.size, data.resize, data.interpolation) == expected
    data = CompareConfig(backbone=name, weights="a.pth").run.data
    assert (data.size, data.resize, data.interpolation) == expected


def test_photos_that_are_prepared_in_another_way_than_for_the_weights_are_warned_of(monkeypatch):
    name = "coat_lite_medium_384"
    with pytest.warns(UserWarning, match=f"{name}.*squashes"):
        data = RunConfig(backbone=name, pretrained=True).data
    assert data.size == 384
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        RunConfig(backbone=name, pretrained=True, data=data)  # as a record is read
        RunConfig(backbone=name)
        RunConfig(backbone="resnet18", pretrained=True)
    for more in ({"input_size": (3, 64, 48)}, {"crop_mode": "border"}, {"interpolation": "lanczos"}):
        own = input_of({"input_size": (3, 48, 48), **more})
        monkeypatch.setattr("jpegdl.backbones.build.own_input", lambda _, own=own: own)
        with pytest.warns(UserWarning, match=r"64 x 48|border|lanczos"):
            data = RunConfig(backbone=name, pretrained=True).data
        assert (data.size, data.interpolation) == (48, "bicubic")


def test_what_is_given_wins_and_random_weights_have_the_old_defaults():
    data = RunConfig().data
    assert (data.size, data.resize, data.interpolation) == (32, None, "bicubic")
    data = RunConfig(backbone="test_resnet", pretrained=True, data=DataConfig(size=64, interpolation="bicubic")).data
    assert (data.size, data.resize, data.interpolation) == (64, None, "bicubic")
    data = RunConfig(backbone="test_resnet", pretrained=True, data=DataConfig(resize=200)).data
    assert (data.size, data.resize) == (160, 200)
    assert RunConfig(backbone="nobody's", pretrained=True).data.size == 32
    with pytest.raises(UsageError, match="data.interpolation.*bilinear.*got 'nearest'"):
        check_config(RunConfig(data=DataConfig(interpolation="nearest")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": TrainingConfig(train="layer")}, "training.train layer .* needs trained"),
        ({"training": TrainingConfig(train="head")}, "training.train must be .*both.*layer.* got 'head'"),
        (
            {"training": TrainingConfig(head_lr=0.0)},
            "training.head_lr must be .*greater than 0.* got 0.0",
        ),
        ({"weights": "nowhere.pth"}, "weights nowhere.pth: there is no such file"),
    ],
)
def test_settings_that_are_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        check_compare(CompareConfig(**changes))


def test_pretrained_tables_need_trained_weights():
    config = CompareConfig()
    config.layer.tables = "pretrained"
    with pytest.raises(UsageError, match="layer.tables pretrained takes the sensitivities of trained weights"):
        check_compare(config)
