"""What a comparison says before it trains."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from factory import code_module, fake_run, small_comparison
from jpegdl.cli import main
from jpegdl.comparison import compare, header, jobs
from jpegdl.data import Data, DataConfig
from jpegdl.runs import RunConfig, TrainingConfig, open_run
from jpegdl.training import evaluate


@pytest.mark.parametrize("seconds", [0.2, 50, 130, 4000, 90000, 1e6])
def test_lines_fit_and_say_what_is_trained(tmp_path, monkeypatch, seconds):
    monkeypatch.setattr(header, "_step_seconds", lambda run, *_: 0.5 if run.training.channels_last else 1.0)
    monkeypatch.setattr(header, "_run_seconds", lambda *_: seconds)
    monkeypatch.setattr(header, "has_bfloat16", lambda _: True)
    config = small_comparison(tmp_path, seeds=2)
    config = replace(config, data=replace(config.data, holdout=0.25))
    text = header.header(config, Data(config.data), [(seed, arm) for seed in (0, 1) for arm in ("plain", "jpeg-dl")])
    assert max(map(len, text.splitlines())) <= 80
    whole = " ".join(text.split())
    for said in (
        "3 classes (chance 33.3 %)",
        "18 training images, 6 validation images",
        "12 test images",
        "16 x 16 pixels",
        "2 epochs of",
    ):
        assert said in whole
    assert "cifar_resnet8" in whole
    assert "two trainings" in whole
    assert ("precision auto takes x0.50" in whole) == (4 * seconds > 120)
    assert "steps in all" not in whole  # which of made-up images means nothing


def test_few_steps_are_not_taken_without_a_word(tmp_path, monkeypatch):
    monkeypatch.setattr(header, "_time_rows", lambda *_: {})
    config = small_comparison(tmp_path, data=DataConfig(limit=36, size=16, resize=20, batch_size=8), epochs=49, arms=["plain"])
    assert "196 steps in all" in " ".join(header.header(config, Data(config.data), [(0, "plain")]).split())
    config.training.epochs = 50
    assert "in all" not in header.header(config, Data(config.data), [(0, "plain")])


def test_several_processes_share_an_epoch_out(tmp_path):
    config = small_comparison(tmp_path)
    config.training.devices = 2
    text = " ".join(header.header(config, Data(config.data), [(0, "plain")]).split())
    assert "2 epochs of 1 step of 16 images" in text  # 24, in batches of 8 for each of the two


def test_the_last_run_has_the_threads_of_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(jobs, "count_cores", lambda: 4)
    monkeypatch.setattr(header, "_time_rows", lambda *_: {})
    config = small_comparison(tmp_path, arms=["plain"], seeds=2, jobs=2)
    fake_run(config.folder, "plain", 0)
    text = header.header(config, Data(config.data), [(0, "plain"), (1, "plain")])
    assert "1 run at a time, 2 threads each" in " ".join(text.split())


def test_a_model_of_ones_own_is_not_called_pretrained(tmp_path, monkeypatch):
    code = "from jpegdl.backbones import cifar_resnet8 as make\n"
    module = code_module(tmp_path, monkeypatch, "ones_own_network", code)
    config = small_comparison(tmp_path, backbone=f"{module}:make")
    assert "pretrained" not in header.header(config, Data(config.data), [(0, "plain")])


def test_the_time_counts_what_steps_wait_for(tmp_path, monkeypatch):
    monkeypatch.setattr(header, "count_cores", lambda: 4)
    config = small_comparison(tmp_path, epochs=10, test_every=10)
    run, data = config.run, Data(config.data)  # 24 images in batches of 8, 3 steps an epoch, and 12 for the test
    assert header._run_seconds(run, data, 1.0, 0.0) == pytest.approx(30.5)
    assert header._run_seconds(run, data, 1.0, 0.25) == pytest.approx(30 * (1 + 8 * 0.25) + 0.5)
    run = replace(run, data=replace(run.data, workers=9))
    assert header._run_seconds(run, data, 1.0, 0.25) == pytest.approx(30.5)  # four load 8 images in half a second
    assert header._run_seconds(run, data, 1.0, 1.0) == pytest.approx(30 * 2 + 0.5)
    monkeypatch.setattr(header, "_step_seconds", lambda *_: 0.001)
    monkeypatch.setattr(type(data.train), "seconds", lambda self: 0.002)
    assert "16 ms more to wait for images" in " ".join(header.header(config, data, [(0, "plain")]).split())


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_an_images_seconds_are_those_of_every_epoch(monkeypatch, cache):
    images, clock = Data(DataConfig(name="made-up", size=8, limit=20, cache=cache)).train, [0.0]

    def decode(self, index):
        clock[0] += 2.0
        return decoded(self, index)

    decoded = type(images)._decode
    monkeypatch.setattr(type(images), "_decode", decode)
    monkeypatch.setattr("jpegdl.data.images.time", SimpleNamespace(perf_counter=lambda: clock[0]))
    assert images.seconds() == (2.0 if cache == "none" else 0.0)


def test_a_comparison_says_it_once_and_not_when_nothing_is_left(tmp_path, no_figures):
    said = []
    config = small_comparison(tmp_path, arms=["plain"], epochs=1)
    compare(config, announce=said.append)
    compare(config, announce=said.append)
    assert len(said) == 1
    assert "a step, measured" in said[0]


def test_photographs_are_not_trained_on_at_32_pixels_without_a_word(tmp_path):
    def sizes(backbone, **data):
        found = RunConfig(backbone=backbone, data=DataConfig(**data)).data
        return found.size, found.resize

    assert sizes("resnet10t", path="x") == (176, 201)
    assert sizes("torchvision/resnet18", name="dtd") == (224, 256)
    assert sizes("resnet10t", path="x", size=64) == (64, None)
    assert sizes("resnet10t", name="cifar10") == sizes("resnet10t") == sizes("cifar_resnet8", path="x") == (32, None)
    from PIL import Image

    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("RGB", (200, 100), (len(part) * 9, len(name), 0)).save(tmp_path / part / name / "1.png")
    config = small_comparison(tmp_path / "runs", data=DataConfig(path=str(tmp_path)))
    assert "short side is 100" in header._images_line(config, Data(config.data))


def test_channels_last_trains(tmp_path, no_figures):
    config = small_comparison(tmp_path, arms=["plain"], epochs=1)
    accuracies = []
    for name, last in (("first", False), ("last", True)):
        training = replace(config.training, channels_last=last)
        done = compare(replace(config, name=name, training=training))
        accuracies.append(done.results[0].loss)
    assert accuracies[1] == pytest.approx(accuracies[0], rel=1e-3)
    opened = open_run(done.results[0].folder)
    evaluate(opened.model, Data(opened.config.data), opened.config)  # as it was tested after training
    assert opened.model.backbone.layer1[0].conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert TrainingConfig().channels_last is False


def test_no_more_loaders_than_cores(monkeypatch):
    monkeypatch.setattr("jpegdl.data.loaders.count_cores", lambda: 1)
    loader = Data(DataConfig(name="made-up", size=8, workers=5)).train_dataloader()
    assert loader.num_workers == 1


def test_the_command_says_it_beside_its_output(tmp_path, capfd, no_figures):
    arguments = ["--data.name", "made-up", "--data.size", "16", "--data.limit", "20", "--training.epochs", "1", "--seeds", "1"]
    assert main(["compare", "mine", *arguments, "--arms", "plain", "--output", str(tmp_path), "--device", "cpu"]) == 0
    out, err = capfd.readouterr()
    assert "a step, measured" in err
    assert "a step, measured" not in out
