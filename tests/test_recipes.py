import json
import math
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

from jpegdl.backbones.build import build_backbone
from jpegdl.cli import main
from jpegdl.compare import CompareConfig, check_compare, train_arm
from jpegdl.errors import UsageError
from jpegdl.recipes import RECIPES, WIDTH, list_recipes, read_recipe
from jpegdl.training import JointTraining

pytestmark = pytest.mark.filterwarnings("ignore")

PROTOCOLS = [name for name in RECIPES if read_recipe(name).row]
COMPLETE = [name for name in RECIPES if name != "smoke"]
BACKBONES = [(name, backbone) for name in COMPLETE for backbone in read_recipe(name).backbones]

STEPS_240 = {"schedule": "multistep", "milestones": [150, 180, 210], "gamma": 0.1}
STEPS_200 = {"schedule": "multistep", "milestones": [100, 150], "gamma": 0.1}
STEPS_90 = {"schedule": "multistep", "milestones": [30, 60], "gamma": 0.1}
SGD = {"name": "sgd", "momentum": 0.9}
TABLES_SGD = SGD | {"lr": 0.5, "weight_decay": 0}
ADAM = {"name": "adam", "weight_decay": 0, "schedule": "constant"}
CIFAR_SGD = SGD | STEPS_240 | {"weight_decay": 5e-4}
ADAMW = {"name": "adamw", "lr": 2e-3, "schedule": "cosine"}
SENSITIVITY = {"tables": "sensitivity", "q_max": 5, "alpha": None, "hardness": None, "bits": 8, "window": 5}  # alpha None is 5
MAGNITUDE = {"tables": "magnitude", "alpha": None, "hardness": 0.7, "bits": 11, "window": 5}
PIXELS_32 = {"size": 32, "resize": None, "crop": "random", "pad": 4, "flip": True}
PIXELS_224 = {"size": 224, "resize": 256, "crop": "resized", "pad": 0, "flip": True}
AMP = {"precision": "16-mixed"}

#: The published protocols, written down once more: data, layer, training, the backbone's optimizer, the layer's optimizer.
PUBLISHED = {
    "cifar100": (PIXELS_32 | {"batch_size": 64}, SENSITIVITY, {"epochs": 240}, CIFAR_SGD | {"lr": 0.05}, ADAM | {"lr": 0.003}),
    "cifar100-mobile": (
        PIXELS_32 | {"batch_size": 64}, SENSITIVITY, {"epochs": 240}, CIFAR_SGD | {"lr": 0.01}, ADAM | {"lr": 0.003},
    ),
    "finegrained": (
        PIXELS_224 | {"batch_size": 32}, SENSITIVITY, {"epochs": 200}, SGD | STEPS_200 | {"lr": 0.1, "weight_decay": 1e-4},
        ADAM | {"lr": 0.003},
    ),
    "finegrained-transformer": (
        PIXELS_224 | {"batch_size": 256}, SENSITIVITY, {"epochs": 600} | AMP, ADAMW | {"warmup": 100}, ADAM | {"lr": 0.01},
    ),
    "cifar100-transformer": (
        PIXELS_224 | {"batch_size": 256}, SENSITIVITY, {"epochs": 300} | AMP, ADAMW | {"warmup": 50}, ADAM | {"lr": 0.01},
    ),
    "imagenet": (PIXELS_224, MAGNITUDE, {"epochs": 90}, SGD | STEPS_90 | {"lr": 0.1}, TABLES_SGD | STEPS_90),
    "imagenet-mobilenetv2": (
        PIXELS_224, MAGNITUDE, {"epochs": 300},
        SGD | {"lr": 0.045, "weight_decay": 4e-5, "schedule": "exponential", "gamma": 0.98},
        TABLES_SGD | {"schedule": "exponential", "gamma": 0.98},
    ),
}  # fmt: skip


def _config(monkeypatch, *arguments):
    """What ``jpegdl compare`` is called with."""
    called = []
    monkeypatch.setattr("jpegdl.cli.compare", lambda config: called.append(config) or ({}, ""))
    assert main(["compare", *arguments]) == 0
    (config,) = called
    return config


def _holds(settings, expected):
    assert {name: getattr(settings, name) for name in expected} == expected


def test_every_published_row_has_a_recipe():
    assert sorted(PUBLISHED) == PROTOCOLS
    rows = {}
    for recipe in map(read_recipe, PROTOCOLS):
        networks, sets = rows.setdefault(recipe.row, (set(), set()))
        networks.update(name.removeprefix("cifar_").removeprefix("torchvision/") for name in recipe.backbones)
        sets.update(recipe.data)
    transformers, birds_to_pets = {"efficientformer_l1", "vit_tiny_patch16_224", "mobilevitv2_050"}, {"cub200", "dogs", "pets"}
    cifar = {"resnet56", "resnet110", "vgg8", "vgg13", "wrn_40_2", "mobilenetv2", "shufflenetv2", "resnet32", "resnet50"}
    assert rows == {
        "CIFAR-100": (cifar, {"cifar100"}),
        "CIFAR-100, transformers": (transformers, {"cifar100"}),
        "fine-grained, CNNs": ({"resnet18", "densenet121"}, birds_to_pets | {"flowers102"}),
        "fine-grained, transformers": (transformers, birds_to_pets | {"flowers102"}),
        "ImageNet-1K": ({"squeezenet1_1", "resnet18", "resnet34", "efficientformer_l1"}, {"imagenet"}),
        "ImageNet-1K, MobileNetV2": ({"mobilenet_v2"}, {"imagenet"}),
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_numbers(monkeypatch, name):
    config = _config(monkeypatch, "--config", name)
    data, layer, training, optimizer, layer_optimizer = PUBLISHED[name]
    _holds(config.data, data)
    _holds(config.layer, {"kind": "jpeg", "train": True, "rounding": "soft", "trainable_alpha": False} | layer)
    _holds(config.training, training)
    _holds(config.training.optimizer, {"warmup": 0} | optimizer)
    _holds(config.training.layer_optimizer, {"warmup": 0} | layer_optimizer)
    _holds(config, {"arms": ["plain", "jpeg-dl"], "seeds": 3})


@pytest.mark.parametrize("name", COMPLETE)
def test_a_recipe_says_what_it_is(monkeypatch, name):
    recipe = read_recipe(name)
    config = _config(monkeypatch, "--config", name)
    check_compare(config)
    assert config.name == name
    assert (config.backbone, config.data.kind if name != "dtd10" else "folder") == (recipe.backbones[0], recipe.data[0])
    assert config.training.epochs == recipe.epochs
    for data in recipe.data:
        check_compare(replace(config, data=replace(config.data, name=data)))


@pytest.mark.parametrize(("name", "backbone"), BACKBONES)
def test_every_backbone_of_a_recipe_takes_its_images(monkeypatch, name, backbone):
    config = _config(monkeypatch, "--config", name, "--backbone", backbone)
    check_compare(config)
    with torch.device("meta"):
        model = build_backbone(backbone, 7, 0, config.data.size)
        assert model(torch.empty(2, 3, config.data.size, config.data.size)).shape == (2, 7)


@pytest.mark.parametrize("name", COMPLETE)
def test_two_steps_of_every_recipe(monkeypatch, tmp_path, name):
    config = _config(monkeypatch, "--config", name, "--config", "smoke", "--training.accelerator", "cpu")
    assert config.folder == Path("runs/smoke") / name
    config.output = str(tmp_path)
    if config.data.size == 224 and config.backbone != "efficientformer_l1":  # which takes 224 pixels alone
        config.data.size, config.data.resize = 64, 72
    steps = []
    step = JointTraining.training_step
    monkeypatch.setattr(JointTraining, "training_step", lambda self, *batch: steps.append(1) or step(self, *batch))
    if config.layer.tables == "sensitivity":
        train_arm(config, "plain", 0)
        steps.clear()
    result = train_arm(config, "jpeg-dl", 0)
    assert len(steps) == 2
    assert math.isfinite(result["loss"])
    assert result["layer_parameters"] == 128
    tables = json.loads((config.folder / "jpeg-dl" / "0" / "tables.json").read_text())
    for table in ("luma", "chroma"):
        assert tables["before"][table] != tables["after"][table]


def test_the_last_of_several_recipes_wins_and_the_command_line_over_all(monkeypatch):
    config = _config(monkeypatch, "--seeds", "2", "--config", "cifar100", "--data.limit=5", "--config=smoke")
    assert (config.name, config.data.name, config.data.pad, config.training.epochs) == ("cifar100", "made-up", 4, 1)
    assert (config.seeds, config.data.limit) == (2, 5)


def test_the_list_and_a_single_recipe(capsys):
    assert main(["recipes"]) == 0
    listed = capsys.readouterr().out
    assert listed == f"{list_recipes()}\n"
    assert max(map(len, listed.splitlines())) <= WIDTH
    for name in RECIPES:
        assert f"{name}\n  " in listed
        recipe = read_recipe(name)
        for text in (recipe.about, recipe.row, recipe.published, ", ".join(recipe.backbones)):
            assert text in " ".join(listed.split())
    assert main(["recipes", "finegrained"]) == 0
    text = capsys.readouterr().out
    assert text == read_recipe("finegrained").text
    assert yaml.safe_load(text)["training"]["epochs"] == 200
    with pytest.raises(UsageError, match="no recipe 'finer'; recipes: cifar10, "):
        read_recipe("finer")


def test_the_commands_of_the_protocols_page(monkeypatch):
    """Each row of each protocol once, with a run folder of its own."""
    page = (Path(__file__).parents[1] / "docs/protocols.md").read_text()
    found, folders = set(), set()
    for command in re.findall(r"`jpegdl compare (--config .*?)`", page):
        arguments = command.split()
        config = _config(monkeypatch, *arguments)
        check_compare(config)
        found.add((arguments[1], config.data.name, config.backbone))
        folders.add(config.folder)
    recipes = [read_recipe(name) for name in PROTOCOLS]
    assert found == {
        (recipe.name, data, backbone) for recipe in recipes for data in recipe.data for backbone in recipe.backbones
    }
    assert len(folders) == len(found)


def test_torchvision_backbones():
    size = 64
    images = torch.rand(2, 3, size, size)
    for name in ("torchvision/squeezenet1_1", "torchvision/vit_b_16"):
        check_compare(CompareConfig(backbone=name))
    one, again, other = (build_backbone("torchvision/squeezenet1_1", 5, seed, size).eval() for seed in (1, 1, 2))
    assert one(images).shape == (2, 5)
    assert torch.equal(one(images), again(images))
    assert not torch.equal(one(images), other(images))
    assert sum(p.numel() for p in build_backbone("torchvision/squeezenet1_1", 1000, 0, 224).parameters()) == 1_235_496
    with torch.device("meta"):  # told the size
        assert build_backbone("torchvision/vit_b_16", 5, 0, size)(torch.empty(2, 3, size, size)).shape == (2, 5)
    check_compare(CompareConfig(backbone="vit_tiny_patch16_224_in21k"))  # a name that timm no longer lists, but takes
    with pytest.raises(UsageError, match="'torchvision/squeezenet' is no classifier of torchvision; did you mean squeezenet1_"):
        check_compare(CompareConfig(backbone="torchvision/squeezenet"))
    with pytest.raises(UsageError, match="'torchvision/qqq' is no classifier of torchvision; alexnet is one"):
        check_compare(CompareConfig(backbone="torchvision/qqq"))
    with pytest.raises(UsageError, match="'torchvision/vit_b_16' cannot be built for 65-pixel images"):
        build_backbone("torchvision/vit_b_16", 5, 0, 65)
