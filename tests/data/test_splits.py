"""What is held out of the training images, and the test images of a set that has none."""

import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from jpegdl.data import Data, DataConfig
from jpegdl.data.checks import check_data
from jpegdl.errors import DataWarning, UsageError
from jpegdl.random import dealt, stratified
from jpegdl.runs.record import data_difference, first_difference

TARGETS = [0] * 10 + [1] * 7 + [2] * 2 + [3]


def _images(folder, count, start=0):
    folder.mkdir(parents=True)
    for number in range(start, start + count):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")


@pytest.fixture
def parts(tmp_path):
    """train/ with 10 and 5 images, test/ with 2 and 2."""
    for place, counts in {"train": (10, 5), "test": (2, 2)}.items():
        for name, count in zip("ab", counts, strict=True):
            _images(tmp_path / place / name, count, 100 * ord(name) + (50 if place == "test" else 0))
    return tmp_path


def _names(images):
    return [images.key(index) for index in range(len(images))]


def test_each_class_gives_its_share_and_keeps_an_image():
    held = stratified(TARGETS, 0.2, 0, "holdout")
    assert Counter(TARGETS[index] for index in held) == {0: 2, 1: 1, 2: 1}
    assert held == stratified(TARGETS, 0.2, 0, "holdout") == sorted(held)
    assert held != stratified(TARGETS, 0.2, 1, "holdout")
    assert held != stratified(TARGETS, 0.2, 0, "test")
    assert Counter(TARGETS[index] for index in stratified(TARGETS, 0.99, 0, "holdout")) == {0: 9, 1: 6, 2: 1}


def test_a_draw_is_the_same_everywhere():
    assert stratified([0, 1] * 10, 0.3, 5, "holdout") == [4, 5, 8, 10, 13, 17]


def test_folds_part_the_images_evenly():
    folds = [dealt(TARGETS, 3, fold, 0) for fold in range(3)]
    assert sorted(index for fold in folds for index in fold) == list(range(19))  # but for the only image of its class
    assert max(map(len, folds)) - min(map(len, folds)) <= 1
    for fold in folds:
        counts = Counter(TARGETS[index] for index in fold)
        assert counts[0] in (3, 4)
        assert counts[1] in (2, 3)


@pytest.mark.parametrize("packed", [False, True])
def test_held_out_of_class_folders_and_tars(parts, packed, tmp_path):
    config = DataConfig(path=str(parts), size=8, holdout=0.2)
    data = Data(config)
    assert [len(part) for part in data.parts.values()] == [12, 4, 3]
    assert Counter(data.validation.targets) == {0: 2, 1: 1}
    assert set(_names(data.train)) | set(_names(data.validation)) == set(_names(Data(replace(config, holdout=None)).train))
    assert not set(_names(data.train)) & set(_names(data.validation))
    if packed:
        for part in ("train", "test"):
            shutil.make_archive(str(tmp_path / "packed" / part), "tar", parts / part)
        assert Data(replace(config, path=str(tmp_path / "packed"))).fingerprint == data.fingerprint


def test_loaders_give_the_part_that_is_asked_for(parts):
    data = Data(DataConfig(path=str(parts), size=8, folds=5, fold=4))
    (looked_at,), (tested,) = data.val_dataloader(), data.test_dataloader()
    assert torch.equal(looked_at[1], torch.tensor([0, 0, 1]))
    assert torch.equal(tested[1], torch.tensor([0, 0, 1, 1]))
    assert len(Data(DataConfig(path=str(parts), size=8), test_only=True).train) == 0


@pytest.mark.parametrize("name", ["val", "validation"])
def test_a_folder_for_validation_beside_the_test(parts, name):
    _images(parts / name / "a", 3, 7)
    with pytest.warns(DataWarning, match="validation"):
        held_out = Data(DataConfig(path=str(parts), size=8, holdout=0.2))
    assert len(held_out.validation) == 3
    assert len(held_out.train) == 12
    with pytest.warns(DataWarning, match="no image for validation is of 'b'"):
        own = Data(DataConfig(path=str(parts), size=8))
    assert [len(part) for part in own.parts.values()] == [15, 4, 3]
    none = Data(DataConfig(path=str(parts), size=8, holdout=0.0))
    assert none.validation is None
    assert "data.holdout 0" in data_difference(none.fingerprint, own.fingerprint).replace("--", "")
    assert data_difference(own.fingerprint, own.fingerprint) is None
    shutil.rmtree(parts / "test")
    _images(parts / name / "b", 1, 9)
    assert [len(part) for part in Data(DataConfig(path=str(parts), size=8, limit=3)).parts.values()] == [3, 3]


@pytest.mark.parametrize("split", [{"holdout": 0.5}, {"folds": 2, "fold": 0}])
def test_a_class_that_nothing_can_be_held_out_of_is_named(parts, split):
    _images(parts / "train" / "c", 1)
    _images(parts / "test" / "c", 1, 900)
    with pytest.warns(DataWarning, match="held out of 'c'"):
        data = Data(DataConfig(path=str(parts), size=8, **split))
    assert set(data.validation.targets) == {0, 1}
    assert 2 in data.train.targets


def test_classes_of_the_validation_are_those_of_training(parts):
    _images(parts / "val" / "c", 2)
    with pytest.raises(UsageError, match="c has no training image"):
        Data(DataConfig(path=str(parts), size=8))


def test_a_folder_without_parts_is_offered_a_split(parts):
    whole = parts / "train"
    with pytest.raises(UsageError, match=r"data\.test-share 0\.2"):
        Data(DataConfig(path=str(whole), size=8))
    config = DataConfig(path=str(whole), size=8, test_share=0.2)
    data = Data(config)
    assert [len(part) for part in data.parts.values()] == [12, 3]
    again = Data(config, test_only=True)
    assert (len(again.train), again.test.fingerprint) == (0, data.test.fingerprint)
    both = Data(replace(config, holdout=0.25, limit=8))
    assert [len(part) for part in both.parts.values()] == [6, 3, 2]
    assert not set(_names(both.train)) & set(_names(both.validation)) & set(_names(both.test))
    with pytest.raises(UsageError, match="leave it out"):
        Data(replace(config, path=str(parts)))
    shutil.make_archive(str(parts / "whole"), "tar", whole)
    assert Data(replace(config, path=str(parts / "whole.tar"))).fingerprint == data.fingerprint
    shutil.rmtree(parts / "test")
    with pytest.raises(UsageError, match=r"data\.test-share 0\.2"):
        Data(replace(config, path=str(parts), test_share=None))
    assert Data(replace(config, path=str(parts))).fingerprint == data.fingerprint


class _Own(torch.utils.data.Dataset):
    def __init__(self, count, start=0):
        self.targets, self.start = [index % 2 for index in range(count)], start

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return Image.new("RGB", (8, 8), (self.start + index, 0, 0)), self.targets[index]


def test_python_objects():
    train, test, other = _Own(20), _Own(4, 100), _Own(6, 200)
    data = Data(DataConfig(name="object", size=8, holdout=0.2), sets=(train, test))
    assert [len(part) for part in data.parts.values()] == [16, 4, 4]
    data = Data(DataConfig(name="object", size=8), sets=(train, test, ["x", "y"], other))
    assert [len(part) for part in data.parts.values()] == [20, 4, 6]
    data = Data(DataConfig(name="object", size=8, test_share=0.2), sets=(train, None))
    assert [len(part) for part in data.parts.values()] == [16, 4]
    with pytest.raises(UsageError, match=r"data\.test-share"):
        Data(DataConfig(name="object", size=8), sets=(train, None))
    with pytest.raises(UsageError, match="validation are the same"):
        Data(DataConfig(name="object", size=8), sets=(train, test, None, test))
    other.targets[3] = 2
    with pytest.warns(UserWarning, match="validation are of 'z' too"):
        Data(DataConfig(name="object", size=8), sets=(train, test, ["x", "y", "z"], other))
    with pytest.raises(UsageError, match=r"data\.test_share 0\.2.*leave it out"):
        Data(DataConfig(name="object", size=8, test_share=0.2), sets=(train, test))


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"holdout": 0.2, "folds": 5, "fold": 0}, "data.folds 5"),
        ({"folds": 5}, "data.fold, 0 to 4"),
        ({"fold": 1}, "data.folds"),
        ({"folds": 5, "fold": 5}, "0 to 4"),
        ({"holdout": 1.0}, "data.holdout"),
        ({"holdout": float("nan")}, "data.holdout"),
        ({"test_share": 0.0}, "data.test_share"),
        ({"test_share": 0.2, "name": "cifar10"}, "cifar10"),
    ],
)
def test_splits_that_cannot_be(settings, named):
    with pytest.raises(UsageError, match=named.replace(".", r"\.")):
        check_data(DataConfig(**{"name": "made-up", **settings}))


def test_another_split_is_another_run():
    assert "holdout" in first_difference({"data": {"holdout": 0.2}}, {"data": {"holdout": 0.25}})
    assert "holdout" in first_difference({"data": {"holdout": None}}, {"data": {"holdout": 0.25}})
    assert first_difference({"data": {"holdout": None}}, {"data": {"holdout": 0.0}}) is None
    seeds = [Data(DataConfig(name="made-up", size=8, limit=40, holdout=0.5, split_seed=seed)).fingerprint for seed in (0, 1)]
    assert data_difference(*seeds)
