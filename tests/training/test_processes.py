"""Two processes with half the batch each train what one does with all of it."""

import json
import os

import numpy as np
import pytest
import safetensors.torch
import torch
from lightning.pytorch.utilities import rank_zero_only
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from commands import start
from jpegdl.comparison import CompareConfig, train_arm
from jpegdl.data import DataConfig
from jpegdl.errors import UsageError
from jpegdl.layer import LayerConfig
from jpegdl.processes import room_for_images
from jpegdl.runs import OptimizerConfig, TrainingConfig


def _train(folder, processes):
    """Plain, then the layer with sensitivity tables; 39 test images, so that the second of two processes lacks one."""
    config = CompareConfig(
        backbone="test_vit",  # without BatchNorm, whose statistics are each process's own
        data=DataConfig(name="made-up", limit=39, size=16, batch_size=16 // processes),
        layer=LayerConfig(images=21, bits=4),
        device="cpu",
        training=TrainingConfig(
            epochs=2,
            devices=processes,
            optimizer=OptimizerConfig(),
            layer_optimizer=OptimizerConfig(lr=5.0, weight_decay=0.0),
            label_smoothing=0.1,
            clip=1.0,
            ema=0.5,
        ),
        output=str(folder),
    )
    for arm in ("plain", "jpeg-dl"):
        train_arm(config, arm, 0)


def test_two_processes_train_what_one_does(tmp_path):
    _train(tmp_path / "one", 1)
    log = tmp_path / "log"
    process = start(_launch, log, tmp_path / "two", daemon=False)
    process.join(300)
    process.kill()
    assert process.exitcode == 0, log.read_text(encoding="utf-8")
    for arm in ("plain", "jpeg-dl"):
        one, two = (tmp_path / name / "run" / arm / "0" for name in ("one", "two"))
        results = [json.loads((folder / "result.json").read_text(encoding="utf-8")) for folder in (one, two)]
        assert results[0]["accuracy"] == results[1]["accuracy"] > 0
        assert results[0]["loss"] == pytest.approx(results[1]["loss"], rel=1e-5)
        states = [safetensors.torch.load_file(folder / "model.safetensors") for folder in (one, two)]
        for name, weight in states[0].items():
            torch.testing.assert_close(states[1][name], weight, rtol=1e-4, atol=1e-6)
    tables = [json.loads((folder / "tables.json").read_text(encoding="utf-8")) for folder in (one, two)]
    for name in ("luma", "chroma"):
        for when in ("before", "after"):
            np.testing.assert_allclose(tables[0][when][name], tables[1][when][name], rtol=1e-5)
        assert np.abs(np.array(tables[0]["after"][name]) / tables[0]["before"][name] - 1).max() > 1e-3  # it did train
    assert np.max(results[0]["saturation"]) > 0
    one, two = (np.rint(np.array(result["saturation"]) * 39 * 4) for result in results)  # coefficients: 4 blocks of 39 images
    # Of 30,000. Steps are equal but for rounding, so that a coefficient may lie on the cap.
    assert np.abs(one - two).sum() <= 2


def _launch(log, folder):
    """What ``torchrun --standalone --nproc_per_node=2`` does, with forks in place of processes that import everything."""
    with log.open("w", encoding="utf-8") as stream:
        os.dup2(stream.fileno(), 2)
    torch.set_num_threads(1)
    one_node = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=2, rdzv_backend="c10d", rdzv_endpoint="localhost:0", run_id="test",
        max_restarts=0, start_method="fork",
    )  # fmt: skip
    elastic_launch(one_node, _train_there)(folder)


def _train_there(folder):
    rank_zero_only.rank = int(os.environ["RANK"])  # which Lightning looks up while it is imported
    _train(folder, 2)


@pytest.mark.parametrize(
    "said",
    [
        "unable to allocate shared memory(shm) for file </torch_31144_800882394_0>: Success (0)",
        "unable to write to file </torch_1_2_3>: No space left on device (28)",
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of shared "
        "memory.",
    ],
)
def test_too_small_a_shared_memory_says_the_way_out(said):
    with (
        pytest.raises(UsageError, match=r"docker run --shm-size 2g\),.*--data.workers 0"),
        room_for_images(),
    ):
        raise RuntimeError(said)
    with pytest.raises(RuntimeError, match="something else"), room_for_images():
        raise RuntimeError("something else")
