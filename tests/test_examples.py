import csv
import importlib
import itertools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import jpegdl.backbones  # noqa: F401  registers the CIFAR networks
from jpegdl import JpegLayer, prepend
from jpegdl.cli import main as command
from jpegdl.data import PHOTOGRAPHS

TWO_STEPS = ["--steps", "2", "--batch-size", "4"]


@pytest.fixture
def example(monkeypatch, few_photos):
    """Import an example by its name, to run on the CPU; whoever opens a connection fails."""

    def refuse(*_):
        raise AssertionError("an example went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "examples")
    return importlib.import_module


@pytest.fixture
def trainer(example, monkeypatch):
    """Import a script of examples/trainers; where its package is not installed, the test is skipped."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "examples" / "trainers")

    def script(name, package):
        pytest.importorskip(package)
        if package == "accelerate":
            from accelerate.state import AcceleratorState

            AcceleratorState._reset_state(reset_partial_state=True)  # one for the whole process otherwise
        return example(name).main

    return script


def check_trained(model, *tables):
    """The loss has reached these tables and the whole backbone, and the tables have moved from where they started, 1."""
    for name in tables:
        table = getattr(model.layer, name)
        assert table.grad.isfinite().all()
        assert (table.grad != 0).float().mean() > 0.9
        assert (table != 1).float().mean() > 0.9
    for name, parameter in model.backbone.named_parameters():
        assert parameter.grad is not None, name


def test_timm_models(example, capsys):
    cnn, transformer = example("timm_models").main(TWO_STEPS)
    check_trained(cnn, "luma")
    check_trained(transformer, "luma")
    assert cnn.mean.flatten().tolist() == pytest.approx(cnn.backbone.pretrained_cfg["mean"])
    assert transformer.mean.flatten().tolist() == [0.5, 0.5, 0.5]  # not ImageNet's
    printed = capsys.readouterr().out
    assert printed.count("step    2: loss") == printed.count("luma: steps moved") == printed.count("chroma: steps moved") == 2


def test_torchvision_model(example):
    model = example("torchvision_model").main(TWO_STEPS)
    check_trained(model, "luma")
    assert model(torch.rand(2, 3, 64, 64)).shape == (2, len(PHOTOGRAPHS))


def test_huggingface_from_scratch(example):
    model = example("huggingface").main(TWO_STEPS)
    check_trained(model, "luma")
    output = model(torch.rand(2, 3, 64, 64))
    assert output.logits.shape == (2, len(PHOTOGRAPHS))
    assert model.std.flatten().tolist() == [0.5, 0.5, 0.5]


def test_huggingface_checkpoint(example, tmp_path):
    """Size, normalisation and weights are the checkpoint's; its classifier gives way to one for the photographs."""
    # Here alone: to import it takes seconds.
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    config = ViTConfig(
        image_size=80,
        patch_size=16,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        num_labels=3,
    )
    ViTForImageClassification(config).save_pretrained(tmp_path)
    ViTImageProcessor(image_mean=(0.1, 0.2, 0.3), image_std=(0.4, 0.5, 0.6)).save_pretrained(tmp_path)
    model = example("huggingface").main([*TWO_STEPS, "--checkpoint", str(tmp_path)])
    check_trained(model, "luma")
    assert model.mean.flatten().tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert model.std.flatten().tolist() == pytest.approx([0.4, 0.5, 0.6])
    assert model(torch.rand(2, 3, 80, 80)).logits.shape == (2, len(PHOTOGRAPHS))


@pytest.mark.parametrize("noise", ["jpegdl", "straight", "uniform", "none"])
def test_watermark(example, noise):
    share = example("watermark").main(["--steps", "2", "--batch-size", "4", "--test", "8", "--noise", noise])
    assert 0.2 < share < 0.8  # of so little training, a guess
    watermark = example("watermark")
    images, bits = torch.rand(2, 3, 64, 64), torch.ones(2, watermark.BITS)
    marked = watermark.Encoder()(images, bits)
    assert 0 < (marked - images).abs().max() <= watermark.STRENGTH + 1e-6


def test_dct_input(example, tmp_path):
    pytest.importorskip("jpeglib")
    module = example("dct_input")
    network, share = module.main([*TWO_STEPS, "--files", "4"])
    assert 0 <= share <= 1
    assert network(torch.randn(2, 64, 8, 8), torch.randn(2, 128, 4, 4)).shape == (2, len(module.PHOTOGRAPHS))
    module.write_files(tmp_path, 2)
    files = module.JpegFiles(tmp_path / "test", train=False)
    luma, chroma, label = files[3]
    assert (len(files), label) == (4, 3)
    # The channels are the frequencies: DC is the mean of a block, here of the middle one.
    with Image.open(files.files[3][0]) as image:
        y = torch.from_numpy(np.array(image.convert("YCbCr")))[..., 0].float() - 128
    assert (luma[0] / 8 - y[16:80, 16:80].view(8, 8, 8, 8).mean((1, 3))).abs().max() < 2
    assert chroma.shape == (128, 4, 4)
    for name in module.main([*TWO_STEPS, "--data", str(tmp_path)])[0].state_dict():
        assert name in network.state_dict()
    first = sorted((tmp_path / "test" / "coffee").iterdir())[0]
    first.rename(first.with_suffix(".JPEG"))
    assert len(module.JpegFiles(tmp_path / "test", train=False)) == 4
    (tmp_path / "test" / "apple").mkdir()
    with pytest.raises(SystemExit, match="apple"):
        module.main([*TWO_STEPS, "--data", str(tmp_path)])


def test_predicted_tables(example):
    module = example("predicted_tables")
    losses = module.main([*TWO_STEPS, "--test", "4"])
    assert set(losses) == {"standard", "one pair", "predicted"}
    assert all(0 < loss < 1000 for loss in losses.values())
    chooser, images = module.TablePredictor(), torch.rand(3, 3, 64, 64)
    torch.nn.init.normal_(chooser.choose.weight, std=0.1)
    luma, chroma = chooser(images)
    assert luma.shape == chroma.shape == (3, 8, 8)
    assert not torch.equal(luma[0], luma[1])
    error, rate = module.cost(images, (luma, chroma))
    (error + module.LAMBDA * rate).sum().backward()
    assert all(parameter.grad.any() for parameter in chooser.parameters())


def test_segmentation(example):
    model = example("segmentation").main(TWO_STEPS)
    check_trained(model, "luma", "chroma")
    assert model.eval()(torch.rand(2, 3, 64, 64))["out"].shape == (2, 3, 64, 64)


def test_scenes_are_images_with_a_class_at_every_pixel(example):
    images, classes = next(example("segmentation").scenes(8))
    assert images.shape == (8, 3, 64, 64)
    assert images.min() >= 0
    assert images.max() <= 1
    assert classes.shape == (8, 64, 64)
    assert classes.unique().tolist() == [0, 1, 2]
    # A shape has one colour.
    square = images[0][:, classes[0] == 2]
    assert torch.equal(square.min(1).values, square.max(1).values)


def test_photographs_have_no_end_and_take_any_size(example):
    batches = example("joint_training").photographs(batch_size=60, size=96)  # one batch an epoch, of 72 patches
    seen = [next(batches) for _ in range(3)]
    assert all(images.shape == (60, 3, 96, 96) for images, _ in seen)
    assert not torch.equal(seen[0][1], seen[1][1])


def test_the_loss_goes_down(example):
    model = prepend(timm.create_model("cifar_resnet8", num_classes=4), JpegLayer())
    batch = torch.rand(8, 3, 32, 32), torch.arange(8) % 4
    losses = example("joint_training").train_jointly(
        model, itertools.repeat(batch), example("timm_models").cross_entropy, steps=30
    )
    assert len(losses) == 30
    assert losses[-1] < 0.6 * losses[0]


def test_own_data(example, tmp_path, monkeypatch):
    """As objects from Python, and by name from the command line: the same images."""
    module = example("own_data")
    few = module.Shapes(60, 0), module.Shapes(30, 1), module.CLASSES
    monkeypatch.setattr(module, "make", lambda: few)
    done = module.main(["--epochs", "1", "--seeds", "1", "--output", str(tmp_path)])
    assert [result.arm for result in done.results] == ["plain", "jpeg-dl"]
    settings = ["--data.name", "own_data:make", "--data.size", "32", "--data.resize", "36", "--training.epochs", "1"]
    assert command(["train", *settings, "--arm", "plain", "--name", "shapes", "--output", str(tmp_path)]) == 0
    by_name, as_objects = (
        json.loads((tmp_path / name / "plain" / "0" / "data.json").read_text(encoding="utf-8"))
        for name in ("shapes", "shapes-from-python")
    )
    assert (by_name["name"], as_objects["name"]) == ("own_data:make", "object")
    assert by_name["classes"] == ["circle", "square", "triangle"]
    assert all(by_name[part] == as_objects[part] for part in ("train", "test"))


def test_own_callbacks(example, tmp_path):
    module = example("own_callbacks")
    recipe = Path(module.__file__).with_suffix(".yaml")
    few = ["--training.epochs", "2", "--data.size", "16", "--data.resize", "20", "--jobs", "1", "--output", str(tmp_path)]
    assert command(["compare", "--config", str(recipe), *few]) == 0
    run = tmp_path / "own-callbacks" / "jpeg-dl" / "0"
    rows = list(csv.DictReader((run / "metrics.csv").open(encoding="utf-8")))
    moved = [float(row["steps_moved"]) for row in rows]
    assert 0 < moved[0] < moved[1]
    ledger = [json.loads(line) for line in (run / "ledger.jsonl").read_text(encoding="utf-8").splitlines()]
    shares = [float(row["val_accuracy"]) for row in rows]
    assert [entry["accuracy"] for entry in ledger] == pytest.approx(shares, rel=1e-6)  # Lightning's metrics are float32
    assert ledger[0]["arm"] == "jpeg-dl"
    assert (run / "csv" / "version_0" / "metrics.csv").is_file()
    assert "steps_moved" not in (tmp_path / "own-callbacks" / "plain" / "0" / "metrics.csv").read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------- in other people's trainers


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("timm_train", "timm"),
        ("transformers_trainer", "accelerate"),
        ("lightning_module", "lightning"),
        ("fastai_learner", "fastai"),
        ("accelerate_loop", "accelerate"),
    ],
)
def test_every_trainer_trains_the_tables_and_keeps_them_in_range(trainer, name, package):
    torch.manual_seed(0)
    model = trainer(name, package)(["--epochs", "1", "--steps", "2"])
    start = JpegLayer.from_quality(90)
    for table in ("luma", "chroma"):
        steps = getattr(model.layer, table).detach().cpu()
        assert ((steps >= 1e-5) & (steps <= 255)).all()
        assert (steps != getattr(start, table)).float().mean() > 0.9
    assert model(torch.rand(2, 3, 64, 64)) is not None


def test_lightnings_command_line_makes_the_layer_from_yaml(trainer):
    file = Path(__file__).parents[1] / "examples" / "trainers" / "lightning_cli.yaml"
    done = trainer("lightning_cli", "jsonargparse")(["fit", "--config", str(file), "--trainer.max_steps", "2"])
    layer = done.model.model.layer
    assert layer.bits is None
    assert (layer.luma != 2).any()
    assert done.trainer.global_step == 2


def test_optuna_searches_on_training_images_alone(trainer, monkeypatch):
    drawn = []
    images = [(0, 0)] * 16  # each with the seed of its augmentation
    monkeypatch.setattr("jpegdl.data.loaders.EpochSampler.__iter__", lambda self: drawn.append(self.epoch) or iter(images))
    study = trainer("optuna_search", "optuna")(["--trials", "2", "--epochs", "2", "--steps", "1"])
    assert set(study.best_params) == {"quality", "alpha", "layer_lr"}
    assert len(study.trials) == 2
    assert drawn == [0, 1, 0, 1]  # each epoch in another order


def test_class_folders_of_the_trainers_are_the_same_for_training_and_test(trainer, tmp_path):
    for place in ("train/a", "train/b", "train/c", "test/b", "test/c"):
        (tmp_path / place).mkdir(parents=True)
        Image.new("RGB", (64, 64)).save(tmp_path / place / "1.png")
    with pytest.raises(SystemExit, match="only one of train/ and test/ has .* a$"):
        trainer("lightning_module", "lightning")(["--data", str(tmp_path), "--steps", "1"])


def test_ray_searches_on_training_images_alone(tmp_path):
    """In a process of its own, as Ray starts others and talks to them; the same folder trains nothing again."""
    pytest.importorskip("ray")
    script = Path(__file__).parents[1] / "examples" / "trainers" / "ray_search.py"
    options = ["--trials", "2", "--epochs", "2", "--steps", "1", "--output", str(tmp_path / "ray")]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "RAY_USAGE_STATS_ENABLED": "0"}

    def printed():
        done = subprocess.run(
            [sys.executable, str(script), *options],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
        return done.stdout.splitlines()[-1]

    best = printed()
    assert best.startswith("{'quality'")
    results = list((tmp_path / "ray" / "layer").glob("*/result.json"))
    assert len(results) == 2
    lines = [json.loads(line) for file in results for line in file.read_text(encoding="utf-8").splitlines()]
    assert {line["images"] for line in lines} == {18}  # a fifth of each class of 108 training images, at least one of each
    written = {file: file.stat().st_mtime_ns for file in results}
    assert printed() == best
    assert {file: file.stat().st_mtime_ns for file in results} == written


@pytest.mark.parametrize("script", ["timm_train", "lightning_module"])
def test_class_folders_of_ones_own(trainer, tmp_path, script):
    for index in range(24):
        part, kind = ("train", "test")[index % 3 == 2], "ab"[index % 2]
        (tmp_path / part / kind).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (70, 66), (index * 9, 90, 200 * (index % 2))).save(tmp_path / part / kind / f"{index}.png")
    model = trainer(script, "timm")(["--data", str(tmp_path), "--epochs", "1"])
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 2)


def test_trainers_report_all_test_images(example, monkeypatch, capsys):
    """A folder's images come class by class, so those of the first batch would be of few classes."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "examples" / "trainers")
    always_0 = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2))
    always_0[2].load_state_dict({"weight": torch.zeros(2, 3), "bias": torch.tensor([1.0, 0.0])})
    test = torch.utils.data.TensorDataset(torch.rand(80, 3, 8, 8), torch.arange(80) // 64)
    example("photographs").report(prepend(always_0, JpegLayer()), test)
    assert capsys.readouterr().out.startswith("80.0% of 80 test images")
