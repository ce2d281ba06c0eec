"""Class indices from shards, tables and objects: one check, which names the image; and which files of a shard are a sample."""

import io
import json
import tarfile
from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from jpegdl.data import Data, DataConfig
from jpegdl.data.sources.labels import class_index
from jpegdl.errors import DataWarning, UsageError


def _png(value):
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (value, value, value)).save(stream, "PNG")
    return stream.getvalue()


def _shard(file, *entries):
    """A shard of (name, content): a number for an image, text for another file."""
    with tarfile.open(file, "w") as tar:
        for name, content in entries:
            held = _png(content) if isinstance(content, int) else content.encode()
            member = tarfile.TarInfo(name)
            member.size = len(held)
            tar.addfile(member, io.BytesIO(held))


GOOD = [("0.png", 1), ("0.cls", "0"), ("1.png", 2), ("1.cls", "1")]
OTHERS = [("0.png", 3), ("0.cls", "0"), ("1.png", 4), ("1.cls", "1")]  # for the test: other images


def _shards(root, train, test=OTHERS, **options):
    root.mkdir(exist_ok=True)
    _shard(root / "set-train-0000.tar", *train)
    _shard(root / "set-val-0000.tar", *test)
    return Data(DataConfig(**{"name": "wds/x", "path": str(root), "size": 8} | options))


# ------------------------------------------------------------------------------------------------------------------- shards


@pytest.mark.parametrize(
    ("label", "got"),
    [
        ({"label": [1, 0]}, r"\[1, 0\]"), ({"label": {"id": 1}}, r"{'id': 1}"), ({"label": 1.7}, "1.7"),
        ({"label": "cat"}, "'cat'"),
        ({"label": True}, "True"), ({"label": "1"}, "'1'"), ({"label": float("nan")}, "nan"), ({"label": []}, r"\[\]"),
    ],
)  # fmt: skip
def test_what_is_no_whole_number_is_named(tmp_path, label, got):
    with pytest.raises(UsageError, match=rf"^1.json in shard .*train-0000.tar must have a class index, 0, 1, ..., got {got}$"):
        _shards(tmp_path, [*GOOD[:3], ("1.json", json.dumps(label))])


@pytest.mark.parametrize("text", ["cat", "1.0", "1_0", "", "0 1", "0x1", "²"])
def test_what_is_no_number_is_named(tmp_path, text):
    with pytest.raises(UsageError, match=r"^1.cls in shard .*val-0000.tar must have a class index, 0, 1, ..., got '"):
        _shards(tmp_path, GOOD, [*OTHERS[:3], ("1.cls", text)])


def test_whole_numbers_in_other_dress_are_taken(tmp_path):
    data = _shards(tmp_path, [("0.png", 1), ("0.CLS", " 0\r\n"), ("1.PNG", 2), ("1.json", '{"label": 1.0}')])
    assert data.train.targets == [0, 1]


@pytest.mark.parametrize("part", ["train", "val"])
def test_minus_one_is_no_class(tmp_path, part):
    """Half of a test set without classes was an accuracy over the other half."""
    wrong = [("0.png", 5), ("0.cls", "0"), ("1.png", 6), ("1.cls", "-1")]
    with pytest.raises(UsageError, match=rf"{part}-0000.tar/1.png: class index -1 is out of range: .*leave such images out"):
        _shards(tmp_path, *((wrong, OTHERS) if part == "train" else (GOOD, wrong)))


def test_a_test_class_without_a_training_image_is_refused(tmp_path):
    wrong = [*OTHERS[:2], ("1.png", 6), ("1.cls", "5")]
    with pytest.raises(UsageError, match=r"test has images of class 5, 5, and train has none \(.*val-0000.tar/1.png\)$"):
        _shards(tmp_path, GOOD, wrong)


def test_classes_without_images_are_said(tmp_path):
    one = [("0.png", 1), ("0.cls", "1"), ("1.png", 2), ("1.cls", "3")]
    other = [("0.png", 3), ("0.cls", "1")]
    with pytest.warns(DataWarning, match="of 4 classes") as said:
        assert len(_shards(tmp_path, one, other).classes) == 4
    assert [str(warning.message).rpartition(": ")[0].rpartition(": ")[2] for warning in said] == [
        "2 of 4 classes have no training image",
        "1 of 4 classes has no test image",
    ]
    with pytest.raises(UsageError, match=r"1.png: class index 1000000000 is out of range"):
        _shards(tmp_path, [*GOOD[:3], ("1.cls", "1000000000")])


def test_a_limit_that_leaves_a_tested_class_untrained_is_refused(tmp_path):
    test = [("1.png", 3), ("1.cls", "1"), ("2.png", 4), ("2.cls", "2")]
    train = [*GOOD, ("2.png", 5), ("2.cls", "2")]
    with pytest.warns(DataWarning, match="1 of 3 classes has no test image: 0"):
        assert len(_shards(tmp_path, train, test).test) == 2
    with (
        pytest.warns(DataWarning, match="has no test image"),
        pytest.raises(UsageError, match="^data.limit 2 of .*: test has images of class 2, 2, and train has none"),
    ):
        _shards(tmp_path, train, test, limit=2)


def test_names_with_dots_and_other_suffixes_are_samples(tmp_path):
    train = [
        *GOOD, ("img.v2.png", 7), ("img.v2.cls", "1"), ("a/x.7.jpg", 8), ("a/x.7.json", '{"label": 0}'),
        ("2.bmp", 9), ("2.cls", "0"), ("3.gif", 10), ("3.cls", "1"), ("4.tif", 11), ("4.cls", "1"),
    ]  # fmt: skip
    data = _shards(tmp_path, train)
    assert data.train.targets == [0, 1, 1, 0, 0, 1, 1]
    assert [round(255 * float(data.train[i][0][0, 0, 0])) for i in range(7)] == [1, 2, 7, 8, 9, 10, 11]


def test_other_pictures_of_a_sample_are_passed_over_with_a_word(tmp_path):
    train = [*GOOD, ("1.seg.png", 7), ("1.txt", "a bee"), ("2.cls", "0"), ("._0.png", 8)]
    with pytest.warns(DataWarning, match="passed over 3 files: 1 .cls.*1 .seg.png, 1 .txt in"):
        data = _shards(tmp_path, train)
    assert data.train.targets == [0, 1]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([*GOOD, ("1.png", 9), ("1.cls", "0")], "1.png is in .*train-0000.tar twice: take one of the two out"),
        ([*GOOD, ("1.jpg", 9)], "1.png and 1.jpg in shard .*train-0000.tar are two images of one sample"),
        ([*GOOD, ("1.json", '{"label": 0}')], "1.cls and 1.json in shard .* give one image two classes, 1 and 0"),
        ([*GOOD, ("2.left.png", 9), ("2.cls", "0")], r"2.left.png in shard .*\.cls"),
        ([*GOOD[:3], ("1.json", "[1]")], "1.json in shard .* cannot be read: .* object"),
        ([*GOOD[:3], ("1.json", "{")], "1.json in shard .* cannot be read: Expecting"),
    ],
)
def test_samples_that_are_not_clear_are_refused(tmp_path, entries, message):
    with pytest.raises(UsageError, match=message):
        _shards(tmp_path, entries)


# ------------------------------------------------------------------------------------------------------------- tables, objects


class _Reader:
    """What timm's readers of Hugging Face sets look like."""

    labels: ClassVar = {"train": [0, 1, 0, 1], "test": [0, -1, 1], "validation": [-1, -1]}

    def __init__(self, name, root, split, download):
        if split not in self.labels:
            raise ValueError(f"Unknown split {split}")
        self.split, self.label_key, self.class_to_idx = split, "label", {"ant": 0, "bee": 1}
        self.dataset = {"label": self.labels[split]}

    def __getitem__(self, index):
        return io.BytesIO(_png(index + 10 * len(self.split))), self.labels[self.split][index]


@pytest.fixture
def reader(monkeypatch):
    monkeypatch.setattr("jpegdl.extras.installed", lambda name: True)
    monkeypatch.setattr("timm.data.readers.reader_factory.create_reader", _Reader)
    return _Reader


def _table():
    return Data(DataConfig(name="hfds/set", path="cache", size=8))


def test_a_split_that_is_labelled_in_part_is_not_tested_on(reader, monkeypatch):
    with pytest.raises(UsageError, match="'test' has no classes for some images.*'validation' has no classes"):
        _table()
    monkeypatch.setattr(reader, "labels", {"train": [0, 1], "test": [0, -1]})
    with pytest.raises(UsageError, match="no images to test on"):
        _table()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, -1], r"train\[2\]: class index -1 is out of range"),
        ([0, 1, 2], r"train\[2\]: class index 2 is out of range: 2 classes are named, 0 to 1"),
        ([0, 1.7], r"train\[1\] must have a class index, 0, 1, ..., got 1.7"),
        ([0, None], r"train\[1\] must have a class index, 0, 1, ..., got None"),
        ([[0], [1]], r"train\[0\] must have a class index, 0, 1, ..., got \[0\]"),
        ([0, 0], r"test has images of class 1, bee, and train has none \(test\[1\]\)"),
    ],
)
def test_labels_of_tables_are_checked(reader, monkeypatch, labels, message):
    monkeypatch.setattr(reader, "labels", {"train": labels, "test": [0, 1]})
    with pytest.raises(UsageError, match=message):
        _table()


def test_tables_are_known_by_their_bytes(reader, monkeypatch):
    monkeypatch.setattr(reader, "labels", {"train": [0, 1], "test": [0, 1]})
    found = _table().fingerprint
    assert found["train"]["digest"] == found["test"]["digest"]
    assert found["train"]["content"] != found["test"]["content"]
    assert "test_in_train" not in found


@pytest.mark.parametrize(
    ("label", "got"),
    [
        (torch.tensor([1]), r"tensor\(\[1\]\)"), (torch.tensor([[1]]), r"tensor\(\[\[1\]\]\)"),
        (torch.tensor(True), r"tensor\(True\)"), (np.bool_(True), r".*True.*"), (np.array(True), r"array\(True\)"),
        (np.array([1]), r"array\(\[1\]\)"), (torch.tensor(1.0), r"tensor\(1.\)"), (np.float64(1), ".*1.0.*"), (True, "True"),
        (None, "None"),
    ],
)  # fmt: skip
def test_what_passes_for_an_index_and_is_none(label, got):
    """A target of one element would make batches of (N, 1); a truth value is of a task without classes."""
    with pytest.raises(UsageError, match=rf"^train\[7\] must have a class index, 0, 1, ..., got {got}$"):
        class_index(label, "train[7]")


def test_whole_numbers_of_any_library_are_indices():
    for value in (1, np.int64(1), np.uint8(1), np.array(1), torch.tensor(1), torch.tensor(1, dtype=torch.uint8)):
        assert class_index(value, "train[7]") == 1


class Own:
    """Images of their own grey levels, with any labels."""

    def __init__(self, labels, first):
        self.labels, self.first = labels, first

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return Image.fromarray(np.full((8, 8, 3), self.first + index, np.uint8)), self.labels[index]


def test_kept_labels_of_one_element_are_none_either():
    with pytest.raises(UsageError, match=r"train\[0\].*0, 1, ..., got tensor\(\[0\]\)"):
        Data(DataConfig(name="object", size=8), sets=(Own(torch.tensor([[0], [1]]), 0), Own([0, 1], 9)))


@pytest.mark.parametrize(
    ("tested", "said"),
    [
        ([0, 2], "class 2, cow, and train has none: only a network that knows it"),
        ([2, 3], "class 2, cow, and train has none, nor of 1 other: only a network that knows them"),
        ([2, 3, 4], "class 2, cow, and train has none, nor of 2 others: only a network that knows them"),
    ],
)
def test_classes_that_the_test_alone_has(tested, said):
    names = ["ant", "bee", "cow", "dog", "eel"]
    with pytest.warns(DataWarning) as warned:
        Data(DataConfig(name="object", size=8), sets=(Own([0, 1], 0), Own(tested, 9), names))
    assert f"test has images of {said} can be right" in str(warned[0].message)


def test_own_sets_say_which_classes_have_no_images():
    sets = Own([0, 1], 0), Own([0], 9), ["ant", "bee", "cow"]
    with pytest.warns(DataWarning, match="1 of 3 classes has no .* image: ") as said:
        Data(DataConfig(name="object", size=8), sets=sets)
    assert [str(warning.message).rpartition("has no ")[2] for warning in said] == ["training image: cow", "test image: bee"]
    with pytest.raises(UsageError, match=r"train\[1\]: class index 3.*3.*0 to 2"):
        Data(DataConfig(name="object", size=8), sets=(Own([0, 3], 0), *sets[1:]))
