"""Runs that start from trained weights: fine-tuned, frozen behind the layer, or only evaluated."""

import shutil
import tarfile
import warnings
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
import yaml
from PIL import Image
from timm.data import create_transform, resolve_data_config

from jpegdl.backbones.build import build_backbone
from jpegdl.cli import main
from jpegdl.comparison import CompareConfig, compare, evaluate_run, train_arm
from jpegdl.data import Data, DataConfig
from jpegdl.errors import UsageError
from jpegdl.layer import LayerConfig
from jpegdl.runs import OptimizerConfig, RunConfig, TrainingConfig, open_run
from jpegdl.training import JointTraining
from jpegdl.training.starting_weights import starting_backbone

CLASSES = ("n01440764", "n01443537")  # tench, goldfish


def _images(root, classes=CLASSES, parts=(("train", 8), ("test", 4))):
    """Class folders of noise around a grey level of the class."""
    random = np.random.default_rng(0)
    for part, count in parts:
        for level, name in enumerate(classes):
            for i in range(count):
                file = root / part / name / f"{i}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(random.normal(60 + 90 * level, 30, (16, 16, 3)).clip(0, 255).astype(np.uint8)).save(file)
    return root


def _weights(file, classes=2):
    safetensors.torch.save_file(build_backbone("cifar_resnet8", classes, 3, 16).state_dict(), file)
    return str(file)


@pytest.fixture
def config(tmp_path):
    return CompareConfig(
        weights=_weights(tmp_path / "weights.safetensors"),
        data=DataConfig(path=str(_images(tmp_path / "set")), size=16, batch_size=8),
        layer=LayerConfig(tables="standard:75", images=8),
        device="cpu",
        training=TrainingConfig(
            epochs=2,
            optimizer=OptimizerConfig(lr=0.01),
            layer_optimizer=OptimizerConfig(name="adam", lr=0.05, weight_decay=0.0),
        ),
        output=str(tmp_path),
        name="test",
        seeds=1,
        jobs=1,
    )


def _state(config, arm):
    return safetensors.torch.load_file(config.run_folder(arm, 0).model_file)


# ------------------------------------------------------------------------------------------------------------ fine-tuning


def test_a_run_starts_from_the_weights(config):
    own = safetensors.torch.load_file(config.weights)
    backbone, head = starting_backbone(config.run, CLASSES, seed=0)
    assert head == "own"
    assert all(torch.equal(tensor, own[name]) for name, tensor in backbone.state_dict().items())
    config.training.optimizer = OptimizerConfig(lr=1e-9, weight_decay=0.0)
    assert train_arm(config, "plain", 0)["head"] == "own"
    for name, parameter in backbone.named_parameters():
        assert torch.allclose(_state(config, "plain")[f"backbone.{name}"], parameter, atol=1e-5), name


def test_other_weights_under_the_same_path_are_refused(config, tmp_path):
    train_arm(config, "plain", 0)
    assert train_arm(config, "plain", 0)["arm"] == "plain"
    safetensors.torch.save_file(build_backbone("cifar_resnet8", 2, 4, 16).state_dict(), config.weights)
    with pytest.raises(UsageError, match="started from other weights: .*weights.safetensors has changed since; give another"):
        train_arm(config, "plain", 0)
    (tmp_path / "weights.safetensors").unlink()
    assert open_run(config.run_folder("plain", 0)).classes == list(CLASSES)  # what was trained needs them no more
    with pytest.raises(UsageError, match="weights was .*now None"):
        train_arm(replace(config, weights=None), "plain", 0)


def test_runs_from_before_weights_go_on(config):
    """Their files know nothing of weights or interpolation, and their settings are what is asked for by default now."""
    config = replace(config, weights=None)
    train_arm(config, "plain", 0)
    folder = config.run_folder("plain", 0)
    settings = yaml.safe_load(folder.config_file.read_text(encoding="utf-8"))
    assert settings["data"]["interpolation"] == "bicubic"
    for section, name in ((settings, "weights"), (settings, "pretrained"), (settings["data"], "interpolation")):
        del section[name]
    del settings["training"]["train"], settings["training"]["head_lr"]
    folder.config_file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    folder.data_file.write_text(folder.data_file.read_text(encoding="utf-8").replace('"weights": null,', ""), encoding="utf-8")
    assert train_arm(config, "plain", 0) == folder.result()


def test_the_head_has_its_own_learning_rate(config):
    backbone, _ = starting_backbone(config.run, CLASSES, seed=0)
    for schedule in ("constant", "onecycle"):
        training = TrainingConfig(optimizer=OptimizerConfig(lr=0.01, schedule=schedule), head_lr=0.2)
        module = JointTraining(torch.nn.ModuleDict({"backbone": backbone, "layer": torch.nn.Identity()}), training, 2, seed=0)
        module.trainer = type("Trainer", (), {"estimated_stepping_batches": 10})()
        (optimizer,), _ = module.configure_optimizers()
        body, head = optimizer.param_groups
        assert [tuple(parameter.shape) for parameter in head["params"]] == [(2, 64), (2,)]
        assert len(body["params"]) + 2 == len(list(backbone.parameters()))
        assert head["lr"] == pytest.approx(20 * body["lr"])
    module.classes = 7
    with pytest.raises(UsageError, match="training.head_lr.*7"):
        module.configure_optimizers()


@pytest.mark.parametrize("head_lr", [None, 0.2])
def test_what_the_backbone_names_has_no_weight_decay(head_lr):
    backbone = timm.create_model("vit_tiny_patch16_224", num_classes=2, img_size=32, depth=1)
    training = TrainingConfig(optimizer=OptimizerConfig(weight_decay=0.05), head_lr=head_lr)
    module = JointTraining(torch.nn.ModuleDict({"backbone": backbone, "layer": torch.nn.Identity()}), training, 2, seed=0)
    module.trainer = type("Trainer", (), {"estimated_stepping_batches": 10})()
    (optimizer,), _ = module.configure_optimizers()
    spared = {id(p) for group in optimizer.param_groups if group["weight_decay"] == 0 for p in group["params"]}
    assert spared == {id(backbone.pos_embed), id(backbone.cls_token)}
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    assert {id(p) for p in trained} == {id(p) for p in backbone.parameters()}
    assert len(trained) == len({id(p) for p in trained})
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.05}


# ----------------------------------------------------------------------------------------------------------------- frozen


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_layer_alone_trains_in_front_of_a_frozen_network(config, precision):
    config.training.train, config.training.precision = "layer", precision
    own = safetensors.torch.load_file(config.weights)
    compare(config)
    results = {arm: config.run_folder(arm, 0).result() for arm in ("plain", "jpeg-dl")}
    assert {arm: result["epochs"] for arm, result in results.items()} == {"plain": 1, "jpeg-dl": 2}
    for arm in results:
        state = _state(config, arm)
        assert all(torch.equal(state[f"backbone.{name}"], tensor) for name, tensor in own.items())  # the batch statistics too
    tables = config.run_folder("jpeg-dl", 0).tables()
    assert tables["before"]["luma"] != tables["after"]["luma"]
    alone = evaluate_run(replace(config, name="none"), "plain", 0)
    assert alone["accuracy"] == results["plain"]["accuracy"]
    shutil.rmtree(config.run_folder("plain", 0).path)  # and again, from its checkpoint
    assert train_arm(config, "plain", 0)["loss"] == results["plain"]["loss"]


def test_a_frozen_network_needs_a_head_for_the_classes(config, tmp_path):
    config.training.train, config.weights = "layer", _weights(tmp_path / "seven.safetensors", classes=7)
    with (
        pytest.warns(UserWarning, match="is for 7 classes"),
        pytest.raises(UsageError, match="training.train layer needs weights whose head fits"),
    ):
        train_arm(config, "jpeg-dl", 0)


def test_pretrained_tables_are_those_of_the_plain_model_before_training(config):
    """A frozen plain model is the pretrained one, so both ways to its sensitivities lead to the same tables."""
    config.training.train, config.training.epochs, config.layer = "layer", 1, LayerConfig(tables="sensitivity", images=8)
    train_arm(config, "plain", 0)
    train_arm(config, "jpeg-dl", 0)
    straight = replace(config, name="straight", layer=replace(config.layer, tables="pretrained"))
    train_arm(straight, "jpeg-dl", 0)  # without a plain run
    assert straight.run_folder("jpeg-dl", 0).tables()["before"] == config.run_folder("jpeg-dl", 0).tables()["before"]
    with_new_head = replace(straight, name="new", weights=_weights(straight.folder / "three.safetensors", classes=3))
    with_new_head.training = replace(config.training, train="both")
    with (
        pytest.warns(UserWarning, match="is for 3 classes"),
        pytest.raises(UsageError, match="layer.tables.*data's classes"),
    ):
        train_arm(with_new_head, "jpeg-dl", 0)


# ---------------------------------------------------------------------------------------------------- evaluated without a run


def test_pretrained_weights_are_evaluated_without_a_run(config, tmp_path, capsys):
    expected = evaluate_run(config, "plain", 0)
    assert (expected["images"], expected["rounding"]) == (8, None)
    for place in ("classes", "test"):  # class folders alone, in a folder or a tar; or only a test part
        shutil.copytree(tmp_path / "set" / "test", tmp_path / place / ("test" if place == "test" else ""))
    with tarfile.open(tmp_path / "classes.tar", "w") as tar:
        tar.add(tmp_path / "set" / "test", ".")
    for place in ("classes", "test", "classes.tar"):
        config.data.path = str(tmp_path / place)
        found = evaluate_run(config, "plain", 0)
        assert all(found[name] == value for name, value in expected.items() if name not in ("loss", "metrics", "predictions"))
        assert found["predictions"].images == expected["predictions"].images
        assert (found["predictions"].predicted == expected["predictions"].predicted).all()
        assert found["loss"] == pytest.approx(expected["loss"])
    arguments = ["--weights", config.weights, "--data.path", config.data.path, "--data.size", "16", "--output", str(tmp_path)]
    hard = ["--layer.tables", "standard:10", "--layer.rounding", "hard", "--device", "cpu"]
    assert main(["evaluate", *arguments, *hard]) == 0
    printed = capsys.readouterr().out
    assert f"{config.weights} (cifar_resnet8, jpeg-dl, seed 0, rounding hard) test accuracy" in " ".join(printed.split())
    assert "of 8 images" in printed
    assert main(["evaluate", *arguments]) == 1
    assert "layer.tables sensitivity needs training images or another run" in capsys.readouterr().err


def test_weights_of_another_class_order(config, tmp_path):
    """Weights that ImageFolder's order was trained with, on classes that this package orders otherwise."""
    names = [str(i) for i in range(1, 13)]
    _images(tmp_path / "numbers", names, (("train", 1), ("test", 2)))
    data = replace(config.data, path=str(tmp_path / "numbers"))
    natural = build_backbone("cifar_resnet8", 12, 3, 16).state_dict()
    rows = [names.index(name) for name in sorted(names)]
    imagefolders = {name: value[rows] if value.shape[:1] == (12,) else value for name, value in natural.items()}
    found = {}
    for order, state in ((None, natural), ("natural", natural), ("sorted", imagefolders), (None, imagefolders)):
        safetensors.torch.save_file({name: value.contiguous() for name, value in state.items()}, config.weights)
        changed = replace(config, data=replace(data, class_order=order))
        with warnings.catch_warnings(record=True) as recorded:
            warnings.simplefilter("always")
            found[order, state is natural] = evaluate_run(changed, "plain", 0)["loss"]
        said = [str(warning.message) for warning in recorded if "ImageFolder" in str(warning.message)]
        assert len(said) == (order is None)
        assert all("taken to be 1, 2, 3, 4, ...;" in text and "1, 10, 11, 12, ..." in text for text in said)
    assert found[None, True] == found["natural", True] == pytest.approx(found["sorted", False], rel=1e-6)
    assert found[None, False] != pytest.approx(found["natural", True], rel=1e-3)


@pytest.mark.parametrize("arm", ["plain", "jpeg-dl"])
def test_a_runs_class_order_is_recorded_and_obeyed(config, tmp_path, arm):
    names = ["1", "2", "10"]
    _images(tmp_path / "numbers", names, (("train", 2), ("test", 2)))
    _weights(tmp_path / "weights.safetensors", 3)
    data = replace(config.data, path=str(tmp_path / "numbers"), class_order="sorted")
    config = replace(config, data=data, training=replace(config.training, train="layer", epochs=1))
    result = train_arm(config, arm, 0)
    folder = config.run_folder(arm, 0)
    assert folder.data()["classes"] == open_run(folder).classes == ["1", "10", "2"]
    assert folder.config().data.class_order == "sorted"
    found = evaluate_run(CompareConfig(output=config.output, name=config.name), arm, 0)
    assert (found["loss"], found["other_images"]) == (pytest.approx(result["loss"], rel=1e-6), None)
    other = replace(config, data=replace(data, class_order="natural"))
    with pytest.raises(UsageError, match=r"other settings \(data.class_order was 'sorted', now None\)"):
        train_arm(other, arm, 0)
    named = replace(other, weights=str(folder.model_file), name="named")
    with pytest.raises(UsageError, match="classes in another order, 1, 10, 2, and the data have 1, 2, 10: give .*, sorted$"):
        train_arm(named, "plain", 0)
    _images(tmp_path / "others", ["cat", "dog", "owl"], (("train", 2), ("test", 2)))
    others = replace(named, data=replace(data, path=str(tmp_path / "others")), name="others")  # three of another kind
    with pytest.raises(UsageError, match="know other classes than these data.*'1'"):
        train_arm(others, "plain", 0)
    with pytest.raises(UsageError, match="know other classes than these data.*'1'"):
        evaluate_run(others, "plain", 0)
    with pytest.warns(UserWarning, match="know other classes than these data.*'1'"):
        train_arm(replace(others, training=replace(others.training, train="both")), "plain", 0)


def test_a_subset_of_imagenet_is_evaluated_on_its_rows(config, tmp_path):
    config.weights = _weights(tmp_path / "whole.safetensors", classes=1000)
    found = evaluate_run(config, "plain", 0)
    state = safetensors.torch.load_file(config.weights)
    state |= {name: state[name][:2] for name in ("fc.weight", "fc.bias")}
    safetensors.torch.save_file(state, tmp_path / "weights.safetensors")
    two = evaluate_run(replace(config, weights=str(tmp_path / "weights.safetensors")), "plain", 0)
    assert found["loss"] == pytest.approx(two["loss"])
    (tmp_path / "set" / "test" / CLASSES[0]).rename(tmp_path / "set" / "test" / "cat")
    with (
        pytest.warns(UserWarning, match="is for 1000 classes"),
        pytest.raises(UsageError, match="the weights'.*2"),
    ):
        evaluate_run(config, "plain", 0)


def test_a_finished_run_that_began_with_the_weights_comes_first(config, tmp_path):
    before = evaluate_run(config, "plain", 0)
    assert before["model"] == config.weights
    result = train_arm(config, "plain", 0)
    after = evaluate_run(config, "plain", 0)
    assert (after["model"], after["loss"]) == (str(config.run_folder("plain", 0).model_file), result["loss"])
    other = _weights(tmp_path / "other.safetensors")
    assert evaluate_run(replace(config, weights=other), "plain", 0)["model"] == other


# -------------------------------------------------------------------------------------------------------------- real weights


def test_a_real_network_sees_what_timm_would_show_it(shared, tmp_path):
    """The first images of the ImageNet sample, one a class, by the command's path and by timm's own."""
    weights, images = shared / "models" / "tf_efficientnet_lite0.safetensors", shared / "data" / "imagenet1000" / "images.tar"
    if not (weights.is_file() and images.is_file()):
        pytest.skip("no pretrained network in ../shared")
    config = RunConfig(backbone="tf_efficientnet_lite0", weights=str(weights), data=DataConfig(path=str(images), limit=6))
    data = Data(config.data, test_only=True)
    assert len(data.classes) == 1000
    backbone, head = starting_backbone(config, data.classes, seed=0)
    assert head == "own"
    model = timm.create_model("tf_efficientnet_lite0", checkpoint_path=str(weights)).eval()
    transform = create_transform(**resolve_data_config(pretrained_cfg=model.pretrained_cfg))
    ours = torch.stack([data.test[i][0] for i in range(6)])
    theirs = torch.stack([transform(data.test._source.read(i).convert("RGB")) for i in range(6)])
    assert torch.allclose((ours - 0.5) / 0.5, theirs, atol=1e-6)
    with torch.inference_mode():
        logits = backbone.eval()((ours - 0.5) / 0.5)
        assert torch.allclose(logits, model(theirs), atol=1e-4)
    assert (logits.argmax(1) == torch.tensor(data.test.targets)).sum() >= 5
