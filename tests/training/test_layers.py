"""Every kind of layer in training, and tests with entries that are no images."""

import csv
import json

import lightning
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from factory import run, small_config, weights
from jpegdl import JpegLayer, prepend
from jpegdl.backbones.build import build_backbone
from jpegdl.data import IGNORED, Data
from jpegdl.layer import LAYER_KINDS, PrependedModel
from jpegdl.runs import TrainingConfig
from jpegdl.tables import standard_tables
from jpegdl.training import JointTraining

pytestmark = pytest.mark.usefixtures("few_photos")

#: Of each kind that trains something: how many numbers, names of its tables, whether it has a level cap, steps for each plane.
PLAIN = ("luma", "chroma", "alpha_luma", "alpha_chroma")
KINDS = {
    "jpeg": (128, PLAIN, True, True),
    "zero-dc": (128, PLAIN, True, True),
    "subsampled": (128, PLAIN, True, True),
    "regions": (512, PLAIN, True, False),
    "cascade": (256, [f"{i}.{name}" for i in (0, 1) for name in PLAIN], True, False),
    "log": (128, ("luma", "chroma"), False, False),
    "tanh": (128, ("luma", "chroma"), False, False),
    "gain": (128, ("luma", "chroma"), False, False),
}
NOTHING = (0, (), False, False)  # of a kind that trains nothing


@pytest.mark.parametrize("kind", LAYER_KINDS)
def test_every_kind_of_layer_trains_and_is_recorded(tmp_path, kind):
    result = run(small_config(epochs=1, kind=kind, region=8), tmp_path)
    numbers, names, cap, planes = KINDS.get(kind, NOTHING)
    assert result["layer_parameters"] == numbers
    assert (result["saturation"] is not None) == cap
    assert (tmp_path / "layer.npz").exists() == planes
    (row,) = csv.DictReader((tmp_path / "metrics.csv").open(encoding="utf-8"))
    assert ("saturation_dc_luma" in row) == cap
    assert ("step_dc_luma" in row) == planes
    if not names:
        assert not (tmp_path / "tables.json").exists()
        return
    tables = json.loads((tmp_path / "tables.json").read_text(encoding="utf-8"))
    assert set(tables["before"]) == set(tables["after"]) == set(names)
    state = weights(tmp_path)
    for name in names:
        if "alpha" not in name:
            assert tables["before"][name] != tables["after"][name]
            assert np.array_equal(np.float32(tables["after"][name]), state[f"layer.{name}"].numpy())


def test_a_trained_hardness_is_recorded_beside_the_alpha_that_follows_from_it(tmp_path):
    run(small_config(epochs=1, hardness=0.7, trainable_alpha=True), tmp_path)
    after = {
        name: np.array(table)
        for name, table in json.loads((tmp_path / "tables.json").read_text(encoding="utf-8"))["after"].items()
    }
    np.testing.assert_allclose(after["alpha_luma"], after["hardness_luma"] / after["luma"] ** 2, rtol=1e-6)


@pytest.mark.parametrize("kind", ["jpeg", "cascade", "gain"])
def test_a_frozen_layer_stays_as_it_is_and_costs_no_image_gradient(tmp_path, monkeypatch, kind):
    wanted, optimizers = [], []
    forward = PrependedModel.forward

    def spy(self, images):
        hook = self.backbone.register_forward_pre_hook(lambda _, inputs: wanted.append(inputs[0].requires_grad))
        logits = forward(self, images)
        hook.remove()
        return logits

    monkeypatch.setattr(PrependedModel, "forward", spy)
    monkeypatch.setattr(JointTraining, "on_train_start", lambda self: optimizers.extend(self.trainer.optimizers))
    result = run(small_config(epochs=1, kind=kind, train=False), tmp_path)
    assert not any(wanted)
    assert len(optimizers) == 1
    assert result["layer_parameters"] == 0
    tables = json.loads((tmp_path / "tables.json").read_text(encoding="utf-8"))
    assert tables["before"] == tables["after"]


def test_entries_that_are_no_images_are_no_part_of_a_test():
    data = Data(small_config().data)
    images, target = (torch.cat(parts) for parts in zip(*data.val_dataloader(), strict=True))
    layer = JpegLayer(*(table / 20 for table in standard_tables(75)))  # fine enough to be at its cap here and there
    module = JointTraining(prepend(build_backbone("cifar_resnet8", 18, 0, 16), layer), TrainingConfig(), 18, 0)

    def tested(batches):
        trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
        (metrics,) = trainer.validate(module, DataLoader(batches, batch_size=None), verbose=False)
        return metrics, module.test_saturation

    none = torch.full((5,), IGNORED)
    filled = [
        (torch.cat((images[:30], torch.ones(5, 3, 16, 16))), torch.cat((target[:30], none))),
        (torch.ones(5, 3, 16, 16), none),
        (images[30:], target[30:]),
    ]
    (expected, expected_saturation), (metrics, saturation) = tested([(images, target)]), tested(filled)
    assert metrics["test_accuracy"] == expected["test_accuracy"]
    assert metrics["test_loss"] == pytest.approx(expected["test_loss"], rel=1e-6)
    torch.testing.assert_close(saturation, expected_saturation)
    assert saturation.max() > 0
