import pytest
import torch

from factory import small_comparison
from jpegdl.comparison import compare
from jpegdl.errors import UsageError
from jpegdl.explain import ExplainConfig, explain_comparison
from jpegdl.robustness import AttackConfig, attack_comparison
from jpegdl.runs.device import compute_device, trainer_device


@pytest.fixture
def machine(monkeypatch):
    """Makes this a machine with so many of NVIDIA's GPUs, or with one of Apple's."""

    def make(cuda=0, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return make


@pytest.mark.parametrize(
    ("cuda", "mps", "names"),
    [
        (0, False, {"auto": "cpu", None: "cpu", "cpu": "cpu"}),
        (2, False, {"auto": "cuda", "gpu": "cuda", "cuda": "cuda", "cuda:0": "cuda:0", "cuda:1": "cuda:1", "cpu": "cpu"}),
        (0, True, {"auto": "cpu", "gpu": "mps", "mps": "mps", "cpu": "cpu"}),
    ],
)
def test_what_a_name_stands_for(machine, cuda, mps, names):
    machine(cuda, mps)
    assert {name: str(compute_device(name)) for name in names} == names
    assert trainer_device("auto", 1) == {"accelerator": names["auto"], "devices": 1}


def test_one_gpu_of_several(machine):
    machine(2)
    assert trainer_device("cuda", 2) == {"accelerator": "cuda", "devices": 2}
    assert trainer_device("cuda:1", 1) == {"accelerator": "cuda", "devices": [1]}
    with pytest.raises(UsageError, match="cuda:1 is one GPU, and training.devices asks for 2"):
        trainer_device("cuda:1", 2)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "gpu", "mps"])
def test_what_is_not_here(machine, name):
    machine()
    with pytest.raises(UsageError, match=f"device '{name}' cannot be used here, give auto or cpu"):
        compute_device(name)
    machine(1, mps=True)
    with pytest.raises(UsageError, match="'cuda:1' .* the last is cuda:0"):
        compute_device("cuda:1")


@pytest.mark.parametrize("name", ["", "GPU", "cuda:", "cuda:-1", "cpu:0", "mps:0", "gpu:1", "tpu", "cuda:1,2", "auto "])
def test_a_wrong_word_is_one_line_everywhere(tmp_path, name):
    config = small_comparison(tmp_path, device=name)
    found = []
    for call in (
        lambda: compare(config),
        lambda: attack_comparison(tmp_path, AttackConfig(device=name, attacks=["fgsm"], corruptions=[])),
        lambda: explain_comparison(tmp_path, ExplainConfig(device=name)),
    ):
        with pytest.raises(UsageError) as error:
            call()
        found.append(str(error.value))
    assert all(text.startswith("device must be auto, cpu, gpu, cuda, cuda:N") for text in found), found
    assert not any(tmp_path.iterdir())
