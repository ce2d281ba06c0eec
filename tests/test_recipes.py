import json
import math
import re
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from timm.models import efficientformer

from jpegdl.backbones.build import build_backbone
from jpegdl.cli import main
from jpegdl.comparison import CompareConfig, check_compare, train_arm
from jpegdl.errors import UsageError
from jpegdl.recipes import RECIPES, list_recipes, read_recipe
from jpegdl.training import JointTraining
from jpegdl.training.optimizers import build_optimizer, build_scheduler

PROTOCOLS = [name for name in RECIPES if read_recipe(name).row]
COMPLETE = [name for name in RECIPES if name not in ("rate", "smoke")]
BACKBONES = [(name, backbone) for name in COMPLETE for backbone in read_recipe(name).backbones]

STEPS = {"schedule": "multistep", "gamma": 0.1}
SGD = {"name": "sgd", "momentum": 0.9, "warmup": 0}
ADAM = {"name": "adam", "weight_decay": 0, "schedule": "constant", "warmup": 0}
CIFAR_SGD = SGD | STEPS | {"milestones": [150, 180, 210], "weight_decay": 5e-4}
FINE_SGD = SGD | STEPS | {"milestones": [100, 150], "lr": 0.1, "weight_decay": 1e-4}
ADAMW = {"name": "adamw", "lr": 2e-3, "weight_decay": 0.05, "schedule": "cosine"}
EVERY_30 = SGD | STEPS | {"milestones": [30, 60]}
DECAY = SGD | {"schedule": "exponential", "gamma": 0.98}
SENSITIVITY = {"tables": "sensitivity", "q_max": 5, "alpha": None, "hardness": None, "bits": 8, "window": 5}  # alpha None is 5
IN_TRAIN_MODE = SENSITIVITY | {"calibration": "train", "images": 10_000}
IN_EVAL_MODE = SENSITIVITY | {"calibration": "eval"}
MAGNITUDE = {"tables": "magnitude", "alpha": None, "bits": 11, "window": 5}
NO_CHANGE = {"auto_augment": None, "color_jitter": None, "erase": 0}
PIXELS_32 = {"size": 32, "resize": None, "crop": "random", "pad": 4, "flip": True} | NO_CHANGE
PIXELS_224 = {"size": 224, "resize": 256, "crop": "resized", "pad": 0, "flip": True}
CNN_224 = PIXELS_224 | NO_CHANGE
TRANSFORMER_224 = PIXELS_224 | {
    "batch_size": 256, "auto_augment": "rand-m9-mstd0.5-inc1", "color_jitter": None, "erase": 0.25,
}  # fmt: skip
MIXED = {"precision": "16-mixed", "label_smoothing": 0.1, "mixup": 0.8, "cutmix": 1.0}

#: The published protocols, written down once more: data, layer, training, the backbone's optimizer, the layer's optimizer.
#: Milestones and warm-up are in epochs.
PUBLISHED = {
    "cifar100": (
        PIXELS_32 | {"batch_size": 64}, IN_TRAIN_MODE, {"epochs": 240}, CIFAR_SGD | {"lr": 0.05}, ADAM | {"lr": 0.003},
    ),
    "cifar100-mobile": (
        PIXELS_32 | {"batch_size": 64}, IN_TRAIN_MODE, {"epochs": 240}, CIFAR_SGD | {"lr": 0.01}, ADAM | {"lr": 0.003},
    ),
    "finegrained": (
        CNN_224 | {"batch_size": 32, "name": "flowers102"}, IN_TRAIN_MODE, {"epochs": 200}, FINE_SGD, ADAM | {"lr": 0.003},
    ),
    "finegrained-transformer": (
        TRANSFORMER_224 | {"name": "flowers102-official"}, IN_EVAL_MODE, {"epochs": 600} | MIXED,
        ADAMW | {"warmup": 100}, ADAMW | {"warmup": 100},
    ),
    "cifar100-transformer": (
        TRANSFORMER_224, IN_EVAL_MODE, {"epochs": 300} | MIXED, ADAMW | {"warmup": 50}, ADAMW | {"warmup": 50},
    ),
    "imagenet": (
        CNN_224 | {"batch_size": 256}, MAGNITUDE | {"hardness": 0.7}, {"epochs": 90},
        EVERY_30 | {"lr": 0.1, "weight_decay": 1e-4}, EVERY_30 | {"lr": 0.5, "weight_decay": 0},
    ),
    "imagenet-resnet18": (
        CNN_224 | {"batch_size": 256}, MAGNITUDE | {"hardness": 0.8}, {"epochs": 90},
        EVERY_30 | {"lr": 0.1, "weight_decay": 1e-4}, EVERY_30 | {"lr": 0.4, "weight_decay": 0},
    ),
    "imagenet-squeezenet": (
        CNN_224 | {"batch_size": 128}, MAGNITUDE | {"hardness": 3}, {"epochs": 100},
        EVERY_30 | {"lr": 0.01, "weight_decay": 2e-4, "milestones": [30, 60, 90]},
        EVERY_30 | {"lr": 0.1, "weight_decay": 0, "milestones": [30, 60, 90]},
    ),
    "imagenet-mobilenetv2": (
        CNN_224 | {"batch_size": 256}, MAGNITUDE | {"hardness": 0.7}, {"epochs": 300},
        DECAY | {"lr": 0.045, "weight_decay": 4e-5}, DECAY | {"lr": 0.5, "weight_decay": 0},
    ),
}  # fmt: skip
PAPERS_TABLES = ADAM | {"lr": 0.01}  # of the transformers


def _config(monkeypatch, *arguments):
    """What ``jpegdl compare`` is called with."""
    called = []
    monkeypatch.setattr("jpegdl.comparison.compare", lambda config, **_: called.append(config) or 1 / 0)
    assert main(["compare", *arguments]) == 1
    (config,) = called
    return config


def _holds(settings, expected):
    assert {name: getattr(settings, name) for name in expected} == expected


def _trains_by(optimizer, expected, epochs):
    """The settings as they are, milestones and warm-up by the batches at which the learning rate turns."""
    times = {"milestones", "warmup"}
    _holds(optimizer, {name: value for name, value in expected.items() if name not in times})
    batches = 5004  # in an epoch, as many as ImageNet has
    scheduler = build_scheduler(
        optimizer, build_optimizer(optimizer, [torch.nn.Parameter(torch.ones(()))]), epochs, epochs * batches
    )
    (factor,) = scheduler.lr_lambdas
    for fallen, milestone in enumerate(expected.get("milestones", [])):
        around = [factor(milestone * batches + step) for step in (-1, 0)]
        assert around == pytest.approx([0.1**fallen, 0.1 ** (fallen + 1)])
    if "milestones" in expected:
        assert factor(epochs * batches - 1) == pytest.approx(0.1 ** len(expected["milestones"]))
    if warmup := expected["warmup"]:
        assert factor(warmup * batches - 1) == 1 - 1 / (warmup * batches)
        assert factor(warmup * batches) == 1 > factor(warmup * batches + 1)
    else:
        assert factor(0) == 1


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
        "fine-grained, transformers": (transformers, birds_to_pets | {"flowers102-official"}),
        "ImageNet-1K": ({"resnet34", "efficientformer_l1"}, {"imagenet"}),
        "ImageNet-1K, ResNet-18": ({"resnet18"}, {"imagenet"}),
        "ImageNet-1K, SqueezeNet": ({"squeezenet1_1"}, {"imagenet"}),
        "ImageNet-1K, MobileNetV2": ({"mobilenet_v2"}, {"imagenet"}),
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_numbers(monkeypatch, name):
    config = _config(monkeypatch, "--config", name)
    data, layer, training, optimizer, layer_optimizer = PUBLISHED[name]
    _holds(config.data, data)
    _holds(config.layer, {"kind": "jpeg", "train": True, "rounding": "soft", "trainable_alpha": False} | layer)
    _holds(config.training, training)
    _trains_by(config.training.optimizer, {"warmup": 0} | optimizer, config.training.epochs)
    _trains_by(config.training.layer_optimizer, {"warmup": 0} | layer_optimizer, config.training.epochs)
    _holds(config, {"arms": ["plain", "jpeg-dl"], "seeds": 3})


def _overrides(name):
    """The settings that a recipe's first lines name, as they would be typed after its command."""
    comments = "\n".join(line.removeprefix("# ") for line in read_recipe(name).text.splitlines() if line.startswith("#"))
    return {
        match.split(maxsplit=1)[0]: match
        for match in re.findall(r"--(?:layer|training|data)\.[a-z_.-]+ +(?:'[^']*'|\S+)", comments)
    }


@pytest.mark.parametrize("name", ["cifar100-transformer", "finegrained-transformer"])
def test_the_papers_optimizer_of_the_tables_is_one_override_away(monkeypatch, name):
    option = _overrides(name)["--training.layer-optimizer"]
    config = _config(monkeypatch, "--config", name, *shlex.split(option))
    _trains_by(config.training.layer_optimizer, PAPERS_TABLES, config.training.epochs)
    _trains_by(config.training.optimizer, PUBLISHED[name][3], config.training.epochs)


@pytest.mark.parametrize("name", ["cifar100", "cifar100-mobile", "finegrained"])
def test_the_papers_calibration_is_two_overrides_away(monkeypatch, name):
    options = _overrides(name)
    config = _config(
        monkeypatch, "--config", name, *shlex.split(f"{options['--layer.calibration']} {options['--layer.images']}")
    )
    _holds(config.layer, SENSITIVITY | {"calibration": "eval", "images": 5000})


def test_the_papers_row_for_resnet18_is_two_overrides_away(monkeypatch):
    options = _overrides("imagenet-resnet18")
    typed = options["--layer.hardness"] + " " + options["--training.layer-optimizer.lr"]
    config = _config(monkeypatch, "--config", "imagenet-resnet18", *shlex.split(typed))
    paper = _config(monkeypatch, "--config", "imagenet", "--backbone", "torchvision/resnet18", "--name", "imagenet-resnet18")
    assert config == paper


@pytest.mark.parametrize("name", ["cifar10", *PROTOCOLS])
def test_a_shortened_recipe_keeps_the_shape_of_its_schedule(monkeypatch, name):
    recipe = read_recipe(name)
    config = _config(monkeypatch, "--config", name, "--training.epochs", str(recipe.epochs // 10))
    check_compare(config)
    whole = _config(monkeypatch, "--config", name)
    for part in ("optimizer", "layer_optimizer"):
        settings = getattr(config.training, part)
        assert settings == getattr(whole.training, part)
        assert all(0 < share < 1 for share in settings.milestones)
        assert 0 <= settings.warmup < 1
        if settings.milestones or settings.warmup:
            assert "--training.epochs" in recipe.text  # said to the user


@pytest.mark.parametrize("name", COMPLETE)
def test_a_recipe_says_what_it_is(monkeypatch, name):
    recipe = read_recipe(name)
    config = _config(monkeypatch, "--config", name)
    check_compare(config)
    assert config.name == name
    assert (config.backbone, config.data.kind) == (recipe.backbones[0], recipe.data[0])
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


_SMALL = [pytest.param(name, True, id=name) for name in COMPLETE]
_WHOLE = pytest.param("finegrained-transformer", False, marks=pytest.mark.soak, id="efficientformer_l1-whole")


@pytest.mark.parametrize(("name", "small"), [*_SMALL, _WHOLE])
def test_two_steps_of_every_recipe(monkeypatch, tmp_path, name, small):
    if small:  # the one backbone that takes images of 224 pixels alone has a layer a stage, and narrow ones
        monkeypatch.setitem(efficientformer.EfficientFormer_depth, "l1", (1, 1, 1, 2))
        monkeypatch.setitem(efficientformer.EfficientFormer_width, "l1", (8, 16, 24, 32))
    config = _config(monkeypatch, "--config", name, "--config", "smoke", "--device", "cpu")
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
    tables = json.loads((config.folder / "jpeg-dl" / "0" / "tables.json").read_text(encoding="utf-8"))
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
    assert max(map(len, listed.splitlines())) <= 80
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
    page = (Path(__file__).parents[1] / "docs/reference/protocols.md").read_text(encoding="utf-8")
    found, folders = set(), set()
    for command in re.findall(r"`jpegdl compare (--config .*?)`", page):
        arguments = command.split()
        if arguments[1] not in PROTOCOLS:  # finetune, say
            continue
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
    with pytest.raises(UsageError, match="'torchvision/squeezenet'.*squeezenet1_"):
        check_compare(CompareConfig(backbone="torchvision/squeezenet"))
    with pytest.raises(UsageError, match="'torchvision/qqq' is not a classifier of torchvision; alexnet is one"):
        check_compare(CompareConfig(backbone="torchvision/qqq"))
    with pytest.raises(UsageError, match="'torchvision/vit_b_16'.*65-pixel images"):
        build_backbone("torchvision/vit_b_16", 5, 0, 65)
