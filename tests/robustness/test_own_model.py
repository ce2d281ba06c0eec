"""An attack on a model that no run trained, with preprocessing in front of it."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torch import nn

from factory import made_up_config, make_run
from jpegdl.cli import main
from jpegdl.data import DataConfig
from jpegdl.errors import UsageError
from jpegdl.robustness import AttackConfig, attack_model, attack_run
from jpegdl.robustness.attack_batch import answers

DATA = DataConfig(name="own_network:images", size=8)
CONFIG = AttackConfig(
    eps=[16.0], attacks=["pgd"], gradients=["own", "identity"], images=12, corruptions=[], jpeg=[], device="cpu"
)


class _Mean(nn.Module):
    """Two logits from the mean of the red channel: dark or light."""

    def forward(self, images):
        red = 40 * (images[:, 0].mean((1, 2)) - 0.5)
        return torch.stack([-red, red], dim=1)


def _images():
    """Dark and light ones, which a change of 16/255 of all pixels makes the other; the same for training and test."""
    return [(Image.new("RGB", (8, 8), (level + shift, 0, 0)), i) for i, level in enumerate((117, 133)) for shift in range(6)]


class _Rounded(nn.Module):
    """To 64 levels: a gradient of 0 everywhere."""

    def forward(self, images):
        return (images.detach() * 63).round() / 63


class _Noisy(nn.Module):
    def forward(self, images):
        return images + 0.1 * torch.randn_like(images)


class _NumPy(nn.Module):
    """Fails where a gradient is asked for, and only there."""

    def forward(self, images):
        return torch.from_numpy(images.numpy())


class _Detached(_Mean):
    def forward(self, images):
        return super().forward(images).detach()


class _Smaller(nn.Module):
    def forward(self, images):
        return images[..., ::2, ::2]


@pytest.fixture
def own(monkeypatch):
    module = type(sys)("own_network")
    module.plain, module.front = _Mean, lambda: (_Rounded(), _Mean())
    module.smaller = lambda num_classes: (_Smaller(), _Mean())
    module.images = lambda: (_images(), _images(), ["dark", "light"])
    module.random = lambda: (_Noisy(), _Mean())
    module.without = _Detached
    module.softmax = lambda: nn.Sequential(_Mean(), nn.Softmax(1))
    module.numpy = lambda: (_NumPy(), _Mean())
    module.bad, module.three = lambda: 3, lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    monkeypatch.setitem(sys.modules, "own_network", module)


def test_a_masked_gradient_shows(own, tmp_path):
    plain = attack_model("own_network:plain", DATA, CONFIG, folder=tmp_path)
    front = attack_model("own_network:front", DATA, CONFIG, folder=tmp_path)
    accuracy = {trial["gradient"]: trial["accuracy"] for trial in front["levels"][0]["trials"]}
    assert front["clean"]["accuracy"] == plain["clean"]["accuracy"] == 1
    assert (accuracy["identity"], accuracy["own"]) == (0, 1)
    assert front["levels"][0]["accuracy"] == accuracy["identity"]
    assert front["masking"]["check"]
    assert {trial["gradient"] for trial in plain["levels"][0]["trials"]} == {"own"}
    kept = json.loads((tmp_path / "own_network-front" / "0" / "attack.json").read_text(encoding="utf-8"))
    assert kept["arm"] == "own_network:front"
    assert kept["levels"] == front["levels"]


def test_preprocessing_that_changes_the_size_has_its_own_gradient_alone(own, tmp_path):
    found = attack_model("own_network:smaller", DATA, CONFIG, folder=tmp_path)
    assert [trial["gradient"] for trial in found["levels"][0]["trials"]] == ["own"]
    assert "not of this layer" in found["left_out"]["gradient identity"]


def test_a_model_whose_answers_differ_is_asked_several_times(own, tmp_path):
    assert attack_model("own_network:plain", DATA, CONFIG, folder=tmp_path)["draws"] is None
    assert attack_model("own_network:random", DATA, replace(CONFIG, draws=3), folder=tmp_path)["draws"] == 3


def test_a_run_whose_layer_draws_at_random_is_asked_several_times_too(own, tmp_path):
    sys.modules["own_network"].Noisy = _Noisy
    for kind, draws in (("own_network:Noisy", 3), ("jpeg", None)):
        folder = make_run(tmp_path / kind.partition(":")[0], made_up_config(kind=kind), steps=0)
        assert attack_run(folder, replace(CONFIG, attacks=["fgsm"], draws=3))["draws"] == draws


def test_that_files_of_the_test_come_before_the_attack_is_said(tmp_path):
    config = made_up_config()
    config.data.jpeg_test = 30
    found = attack_run(make_run(tmp_path, config, steps=0), replace(CONFIG, attacks=["fgsm"]))
    assert "after that JPEG file" in found["left_out"]["data.jpeg_test 30"]


def test_a_network_without_a_gradient_has_one_of_0(own, tmp_path):
    found = attack_model("own_network:without", DATA, replace(CONFIG, attacks=["fgsm"]), folder=tmp_path)
    assert found["levels"][0]["accuracy"] == found["clean"]["accuracy"] == 1
    assert found["masking"]["flags"]


def test_nan_is_no_answer():
    class Broken(nn.Module):
        def forward(self, images):
            return torch.tensor([[torch.nan, 0.0], [1.0, 0.0]])

    assert answers(Broken(), torch.zeros(2, 3, 8, 8), torch.tensor([0, 0])).tolist() == [False, True]


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("bad", "torch.nn.Module"),
        ("three", r"logits \(2, 2\)"),
        ("nothing", "no 'nothing'"),
        ("softmax", "probabilities"),
        ("numpy", "own_network:numpy.*gradient"),
    ],
)
def test_what_is_no_model_of_the_data(own, tmp_path, name, named):
    with pytest.raises(UsageError, match=named):
        attack_model(f"own_network:{name}", DATA, CONFIG, folder=tmp_path)


def test_numbers_of_a_sigmoid_are_no_logits(own, tmp_path):
    sys.modules["own_network"].sigmoid = lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 10), nn.Sigmoid())
    with pytest.raises(UsageError, match="sigmoid"):
        attack_model("own_network:sigmoid", DataConfig(name="made-up", size=8), CONFIG, folder=tmp_path)


def test_from_the_command_line(own, tmp_path, capsys):
    few = ["--eps", "8", "--attacks", "fgsm", "--images", "4", "--corruptions", "[]", "--jpeg", "[]", "--device", "cpu"]
    place = ["--output", str(tmp_path), "--name", "mine"]
    front = ["attack", *place, "--model", "own_network:smaller", "--set", "made-up", *few]
    assert main(["attack", *place, "--model", "own_network:three", "--data.path", str(tmp_path), *few]) == 1
    assert "--size" in capsys.readouterr().err
    assert main([*front, "--size", "8"]) == 1  # made-up has ten classes
    assert "logits (2, 10)" in capsys.readouterr().err
    assert main([*front, "--size", "8", "--seeds", "2"]) == 1
    assert "--seeds counts for nothing" in capsys.readouterr().err
    assert main(["attack", *place, "--size", "8", *few]) == 1
    assert "without --model, --size counts for nothing" in capsys.readouterr().err
