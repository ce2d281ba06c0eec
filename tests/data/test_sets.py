"""Every named set, from miniatures in the official layouts that are made here."""

import io
import json
import re
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torchvision import datasets
from torchvision.transforms import v2

from jpegdl.data import Data, DataConfig
from jpegdl.data.sources.fine_grained import extract
from jpegdl.data.sources.registry import register_set, set_names
from jpegdl.errors import DataWarning, UsageError


def _picture(seed):
    """An image whose color tells its seed."""
    color = np.random.default_rng(seed).integers(0, 256, 3, dtype=np.uint8)
    return Image.fromarray(np.broadcast_to(color, (30 + seed % 3, 34, 3)).copy())


def _save(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    _picture(seed).save(path, quality=100, subsampling=0)


def _is(image, seed):
    expected = v2.functional.pil_to_tensor(_picture(seed))[:, 0, 0] / 255
    return bool((image - expected[:, None, None]).abs().max() < 0.02)


def _data(name, path, **options):
    return Data(DataConfig(**{"name": name, "path": str(path), "size": 16, "resize": 20} | options))


def _tar(archive, folder, *names, compression=""):
    with tarfile.open(archive, f"w:{compression}") as tar:
        for name in names:
            tar.add(folder / name, name)


# ------------------------------------------------------------------------------------------------- CUB-200-2011, Stanford Dogs


@pytest.fixture
def cub(tmp_path):
    """2 birds, 3 training and 2 test images in mixed order."""
    root = tmp_path / "CUB_200_2011"
    birds = ["001.Black_footed_Albatross", "002.Laysan_Albatross"]
    rows = [(1, 0, 1), (2, 0, 0), (3, 0, 1), (4, 1, 0), (5, 1, 1)]  # number, bird, training
    for number, bird, _ in rows:
        _save(root / "images" / birds[bird] / f"Bird_{number:04d}.jpg", number)
    lines = {
        "images.txt": [f"{number} {birds[bird]}/Bird_{number:04d}.jpg" for number, bird, _ in rows],
        "image_class_labels.txt": [f"{number} {bird + 1}" for number, bird, _ in rows],
        "train_test_split.txt": [f"{number} {train}" for number, _, train in rows],
    }
    for name, text in lines.items():
        (root / name).write_text("\n".join(text) + "\n", encoding="utf-8")
    return tmp_path


def _check_cub(data):
    assert data.classes == ["Black footed Albatross", "Laysan Albatross"]
    assert (data.train.targets, data.test.targets) == ([0, 0, 1], [0, 1])
    assert [_is(data.train[i][0], number) for i, number in enumerate((1, 3, 5))] == [True] * 3
    assert [_is(data.test[i][0], number) for i, number in enumerate((2, 4))] == [True] * 2


def test_cub200(cub):
    _check_cub(_data("cub200", cub))
    _check_cub(_data("cub200", cub / "CUB_200_2011"))


def test_cub200_as_its_archive(cub):
    (cub / "attributes.txt").write_text("beside the folder, as in the archive", encoding="utf-8")
    _tar(cub / "CUB_200_2011.tgz", cub, "CUB_200_2011", "attributes.txt", compression="gz")
    shutil.rmtree(cub / "CUB_200_2011")
    _check_cub(_data("cub200", cub))
    (cub / "CUB_200_2011.tgz").write_bytes(b"gone")  # is not opened again
    _check_cub(_data("cub200", cub))
    assert sorted(path.name for path in cub.iterdir()) == ["CUB_200_2011", "CUB_200_2011.tgz", "attributes.txt"]


@pytest.fixture
def dogs(tmp_path):
    """2 breeds, 2 training and 1 test image each."""
    breeds = ["n02085620-Chihuahua", "n02085782-Japanese_spaniel"]
    for part, numbers in (("train", (1, 2)), ("test", (3,))):
        rows = [(breed, number) for breed in (0, 1) for number in numbers]
        files = [f"{breeds[breed]}/dog_{10 * breed + number}.jpg" for breed, number in rows]
        for file, (breed, number) in zip(files, rows, strict=True):
            _save(tmp_path / "Images" / file, 10 * breed + number)
        content = {
            "file_list": np.array([[file] for file in files], dtype=object),
            "labels": np.array([[breed + 1] for breed, _ in rows]),
        }
        (tmp_path / "lists").mkdir(exist_ok=True)
        savemat(tmp_path / "lists" / f"{part}_list.mat", content)
    return tmp_path


def _check_dogs(data):
    assert data.classes == ["Chihuahua", "Japanese_spaniel"]
    assert (data.train.targets, data.test.targets) == ([0, 0, 1, 1], [0, 1])
    assert [_is(data.train[i][0], number) for i, number in enumerate((1, 2, 11, 12))] == [True] * 4
    assert [_is(data.test[i][0], number) for i, number in enumerate((3, 13))] == [True] * 2


def test_dogs(dogs):
    _check_dogs(_data("dogs", dogs))
    for file in (dogs / "lists").iterdir():
        file.rename(dogs / file.name)
    (dogs / "lists").rmdir()
    _check_dogs(_data("dogs", dogs))


def test_dogs_as_their_archives(dogs):
    _tar(dogs / "images.tar", dogs, "Images")
    _tar(dogs / "lists.tar", dogs / "lists", "train_list.mat", "test_list.mat")
    shutil.rmtree(dogs / "Images")
    shutil.rmtree(dogs / "lists")
    _check_dogs(_data("dogs", dogs))
    assert sorted(path.name for path in dogs.iterdir()) == ["Images", "images.tar", "lists", "lists.tar"]


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        (
            "cub200",
            lambda root: shutil.rmtree(root / "CUB_200_2011"),
            "CUB_200_2011/images is not there: cub200 expects images, ",
        ),
        ("cub200", lambda root: (root / "CUB_200_2011/images.txt").unlink(), "CUB_200_2011/images.txt is not there"),
        (
            "cub200",
            lambda root: (root / "CUB_200_2011/images.txt").write_text("1\n", encoding="utf-8"),
            "images.txt is damaged",
        ),
        (
            "cub200",
            lambda root: (root / "CUB_200_2011/train_test_split.txt").write_text("1 1\n", encoding="utf-8"),
            "do not fit images.txt at '2'",
        ),
        ("cub200", lambda root: (root / "CUB_200_2011/images.txt").write_text("", encoding="utf-8"), "name no training images"),
        ("cub200", lambda root: next(root.rglob("*1.jpg")).unlink(), "Bird_0001.jpg cannot be decoded"),
        (
            "dogs",
            lambda root: (root / "lists/test_list.mat").unlink(),
            "lists/test_list.mat is not there: dogs expects Images/",
        ),
        ("dogs", lambda root: (root / "lists/test_list.mat").write_bytes(b"no"), "test_list.mat is damaged"),
        ("dogs", lambda root: shutil.rmtree(root / "Images"), "Images is not there"),
    ],
)
def test_wrong_layouts_name_the_file(request, name, damage, message):
    root = request.getfixturevalue({"cub200": "cub", "dogs": "dogs"}[name])
    damage(root)
    with pytest.raises(UsageError, match=message):
        _data(name, root).load()


@pytest.mark.parametrize("name", ["cub200", "dogs", "imagenet", "wds/"])
def test_sets_on_disk_need_their_folder(name, tmp_path):
    with pytest.raises(UsageError, match=f"{name} needs data.path: the folder that holds "):
        Data(DataConfig(name=name))
    with pytest.raises(UsageError, match="is not a folder; expected the folder that holds "):
        _data(name, tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"no tar", None])
def test_archives_are_unpacked_whole_or_not_at_all(cub, content):
    archive = cub / "CUB_200_2011.tgz"
    _tar(archive, cub, "CUB_200_2011", compression="gz")
    shutil.rmtree(cub / "CUB_200_2011")
    archive.write_bytes(archive.read_bytes()[:-40] if content is None else content)
    with pytest.raises(UsageError, match=r"CUB_200_2011.tgz cannot be unpacked into"):
        _data("cub200", cub)
    assert [path.name for path in cub.iterdir()] == ["CUB_200_2011.tgz"]


def test_an_archive_that_goes_on_after_a_damaged_header_is_refused(cub):
    archive = cub / "CUB_200_2011.tar"
    _tar(archive, cub, "CUB_200_2011")
    shutil.rmtree(cub / "CUB_200_2011")
    with tarfile.open(archive) as tar:
        last = tar.getmembers()[-1].offset
    content = bytearray(archive.read_bytes())
    content[last + 148 : last + 156] = b"damaged!"  # its checksum
    archive.write_bytes(content)
    with pytest.raises(UsageError, match=r"CUB_200_2011.tar goes on after its end mark"):
        _data("cub200", cub)
    assert [path.name for path in cub.iterdir()] == [archive.name]


def test_archives_write_nowhere_else(tmp_path):
    with tarfile.open(tmp_path / "bad.tar", "w") as tar:
        inside = tarfile.TarInfo("inside")
        inside.type = tarfile.DIRTYPE
        tar.addfile(inside)
        member = tarfile.TarInfo("../../../escaped.txt")
        member.size = 2
        tar.addfile(member, io.BytesIO(b"hi"))
    (tmp_path / "inner").mkdir()
    with pytest.raises(UsageError, match="cannot be unpacked"):
        extract(tmp_path / "bad.tar", tmp_path / "inner" / "bad")
    assert not list(tmp_path.rglob("escaped.txt"))
    assert not list((tmp_path / "inner").iterdir())


def test_an_archive_that_another_process_unpacked_meanwhile(cub):
    _tar(cub / "CUB_200_2011.tgz", cub, "CUB_200_2011", compression="gz")
    extract(cub / "CUB_200_2011.tgz", cub / "CUB_200_2011")  # which is there
    _check_cub(_data("cub200", cub))
    assert sorted(path.name for path in cub.iterdir()) == ["CUB_200_2011", "CUB_200_2011.tgz"]


def test_archives_may_be_unpacked_by_several_at_a_time(cub):
    _tar(cub / "CUB_200_2011.tgz", cub, "CUB_200_2011", compression="gz")
    shutil.rmtree(cub / "CUB_200_2011")
    with ThreadPoolExecutor(4) as pool:
        for data in pool.map(lambda _: _data("cub200", cub), range(4)):
            _check_cub(data)
    assert sorted(path.name for path in cub.iterdir()) == ["CUB_200_2011", "CUB_200_2011.tgz"]


# ----------------------------------------------------------------------------------------------------------- torchvision's


def _flowers(root, monkeypatch):
    base = root / "flowers-102"
    for i in range(1, 9):
        _save(base / "jpg" / f"image_{i:05d}.jpg", i)
    savemat(base / "imagelabels.mat", {"labels": np.array([1, 2, 102, 1, 2, 102, 1, 2])})
    savemat(base / "setid.mat", {"trnid": np.array([8, 1, 3]), "valid": np.array([2, 4]), "tstid": np.array([5, 6, 7])})
    files = {key: (name, None) for key, (name, _) in datasets.Flowers102._file_dict.items()}  # no checksums
    monkeypatch.setattr(datasets.Flowers102, "_file_dict", files)


def test_flowers102_as_published(tmp_path, monkeypatch):
    _flowers(tmp_path, monkeypatch)
    data = _data("flowers102", tmp_path)
    assert len(data.classes) == 102
    assert (data.train.targets, data.test.targets) == ([1, 0, 101], [1, 0])
    assert _is(data.train[0][0], 8)
    assert _is(data.test[1][0], 4)


def test_flowers102_official(tmp_path, monkeypatch):
    _flowers(tmp_path, monkeypatch)
    data = _data("flowers102-official", tmp_path)
    assert (data.train.targets, data.test.targets) == ([1, 0, 101, 1, 0], [1, 101, 0])
    assert _is(data.train[3][0], 2)
    assert _is(data.test[0][0], 5)


def test_pets(tmp_path):
    base = tmp_path / "oxford-iiit-pet"
    (base / "annotations").mkdir(parents=True)
    for part, pets in (
        ("trainval", [("Abyssinian", 1), ("great_pyrenees", 2)]),
        ("test", [("great_pyrenees", 2), ("Abyssinian", 1)]),
    ):
        lines = [f"{name}_{n}{part} {label} 1 1" for n, (name, label) in enumerate(pets)]
        (base / "annotations" / f"{part}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        for n, (name, _) in enumerate(pets):
            _save(base / "images" / f"{name}_{n}{part}.jpg", 10 * n + (part == "test"))
    data = _data("pets", tmp_path)
    assert data.classes == ["Abyssinian", "Great Pyrenees"]
    assert (data.train.targets, data.test.targets) == ([0, 1], [1, 0])
    assert _is(data.train[1][0], 10)
    assert _is(data.test[1][0], 11)


def test_food101(tmp_path):
    base = tmp_path / "food-101"
    (base / "meta").mkdir(parents=True)
    for split, offset in (("train", 0), ("test", 50)):
        entries = {food: [f"{food}/{offset + i}" for i in range(2)] for food in ("apple_pie", "waffles")}
        (base / "meta" / f"{split}.json").write_text(json.dumps(entries), encoding="utf-8")
        for n, file in enumerate([*entries["apple_pie"], *entries["waffles"]]):
            _save(base / "images" / f"{file}.jpg", offset + n)
    data = _data("food101", tmp_path)
    assert data.classes == ["apple_pie", "waffles"]
    assert data.train.targets == data.test.targets == [0, 0, 1, 1]
    assert _is(data.train[2][0], 2)
    assert _is(data.test[3][0], 53)


def test_dtd_is_partition_1_with_training_and_validation_against_test(tmp_path):
    base = tmp_path / "dtd" / "dtd"
    (base / "labels").mkdir(parents=True)
    for n, split in enumerate(("train1", "val1", "test1", "train2", "val2", "test2")):
        files = [f"{name}/{name}_{n}.jpg" for name in ("banded", "zigzagged")]
        (base / "labels" / f"{split}.txt").write_text("\n".join(files) + "\n", encoding="utf-8")
        for i, file in enumerate(files):
            _save(base / "images" / file, 10 * n + i)
    data = _data("dtd", tmp_path)
    assert data.classes == ["banded", "zigzagged"]
    assert (data.train.targets, data.test.targets) == ([0, 1, 0, 1], [0, 1])
    assert [_is(data.train[i][0], seed) for i, seed in enumerate((0, 1, 10, 11))] == [True] * 4
    assert _is(data.test[1][0], 21)


@pytest.mark.parametrize(
    ("name", "module"),
    [("flowers102", "flowers102"), ("pets", "oxford_iiit_pet"), ("food101", "food101"), ("dtd", "dtd"), ("cifar100", "cifar")],
)
def test_sets_that_are_not_there_without_a_network(tmp_path, monkeypatch, name, module):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr(f"torchvision.datasets.{module}.download_and_extract_archive", offline)
    with pytest.raises(UsageError, match=f"{name} is not in .* could not be downloaded .*no network.*--data.name folder"):
        _data(name, tmp_path / "new")
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]
    with pytest.raises(UsageError, match="is not a folder, and cannot be made: there is no folder .*nowhere$"):
        _data(name, tmp_path / "nowhere" / "new")
    assert not (tmp_path / "nowhere").exists()


# --------------------------------------------------------------------------------------------------------- ImageNet, shards

IDS = ("n01440764", "n01443537")


def _imagenet(root):
    for split, seed in (("train", 1), ("val", 5)):
        for n, name in enumerate(IDS):
            _save(root / split / name / f"{name}_{split}.JPEG", seed + n)


def _check_imagenet(data, classes=IDS):
    assert tuple(data.classes) == classes
    assert data.train.targets == data.test.targets == [0, 1]
    assert [_is(data.train[i][0], 1 + i) for i in (0, 1)] == [True] * 2
    assert [_is(data.test[i][0], 5 + i) for i in (0, 1)] == [True] * 2


def test_imagenet_as_folders(tmp_path):
    _imagenet(tmp_path)
    whole = _data("imagenet", tmp_path)
    _check_imagenet(whole)
    _save(tmp_path / "train" / IDS[0] / "another.JPEG", 9)
    _save(tmp_path / "train" / IDS[1] / "another.JPEG", 9)
    split = Data(DataConfig(name="imagenet", path=str(tmp_path / "train"), size=8, test_share=0.5))
    assert split.train.targets == split.test.targets == [0, 1]
    shutil.rmtree(tmp_path / "train")
    assert Data(whole.config, test_only=True).test.fingerprint == whole.test.fingerprint


@pytest.mark.parametrize("nested", [False, True])
def test_imagenet_as_a_tar_for_each_class(tmp_path, nested):
    _imagenet(tmp_path)
    for split in ("train", "val"):
        for name in IDS:
            _tar(tmp_path / split / f"{name}.tar", tmp_path / split / name, f"{name}_{split}.JPEG")
            shutil.rmtree(tmp_path / split / name)
        if nested:
            _tar(tmp_path / f"{split}.tar", tmp_path / split, *(f"{name}.tar" for name in IDS))
            shutil.rmtree(tmp_path / split)
    _check_imagenet(_data("imagenet", tmp_path))


def _shard(file, samples, json_labels=False):
    with tarfile.open(file, "w") as tar:
        for key, seed, label in samples:
            picture = io.BytesIO()
            _picture(seed).save(picture, "JPEG", quality=100, subsampling=0)
            side = ("json", json.dumps({"label": label})) if json_labels else ("cls", str(label))
            for ending, content in (("jpg", picture.getvalue()), (side[0], side[1].encode())):
                member = tarfile.TarInfo(f"{key}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize("json_labels", [False, True])
@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("imagenet", "imagenet1k-{}-0000.tar"),
        ("wds/imagenet", "imagenet1k-{}-0000.tar"),
        ("wds/", "{}/{}-0000.tar"),
    ],
)
def test_shards(tmp_path, name, pattern, json_labels):
    for split, synonym, seed in (("train", "train", 1), ("val", "validation", 5)):
        file = tmp_path / pattern.format(*[synonym] * pattern.count("{}"))
        file.parent.mkdir(exist_ok=True)
        _shard(file, [(f"{split}_0", seed, 0)], json_labels)
        _shard(file.with_name(file.name.replace("0000", "0001")), [(f"{split}_1", seed + 1, 1)], json_labels)
    _check_imagenet(_data(name, tmp_path), ("0", "1"))


def test_shards_keep_the_order_of_their_samples(tmp_path):
    for split in ("train", "test"):
        _shard(tmp_path / f"{split}-0.tar", [("c", 3, 2), ("a", 1, 0), ("b", 2, 1)])
    data = _data("wds/", tmp_path)
    assert data.train.targets == [2, 0, 1]
    assert [_is(data.train[i][0], seed) for i, seed in enumerate((3, 1, 2))] == [True] * 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda root: None, "no training shards in .*: expected tars with train or training in their names"),
        (lambda root: _shard(root / "train-0.tar", [("a", 1, 0)]), "no test shards in .*: expected tars with test or val"),
        (lambda root: (root / "train-0.tar").write_bytes(b"bad"), "shard .*train-0.tar cannot be read"),
        (lambda root: _shard(root / "train-0.tar", []), "no images in shard .*train-0.tar"),
        (
            lambda root: _shard(root / "train-0.tar", [("a", 1, "cat")]),
            "a.cls in shard .*train-0.tar must have a class index, .* got 'cat'",
        ),
        (lambda root: _tar(root / "train-0.tar", root, "a.jpg"), r"a.jpg in shard .*train-0.tar has .*\.cls"),
    ],
)
def test_wrong_shards(tmp_path, make, message):
    _save(tmp_path / "a.jpg", 0)
    make(tmp_path)
    with pytest.raises(UsageError, match=message):
        _data("wds/", tmp_path)


def test_imagenet_is_of_wordnet_ids(tmp_path):
    for split in ("train", "val"):
        for name in ("cat", IDS[0]):
            _save(tmp_path / split / name / "0.jpg", 0)
    with pytest.raises(UsageError, match="not WordNet.*n01440764 .'cat', for example"):
        _data("imagenet", tmp_path)


def test_imagenet_as_downloaded_is_pointed_to_its_unpacker(tmp_path):
    (tmp_path / "ILSVRC2012_img_val.tar").write_bytes(b"")
    with pytest.raises(UsageError, match="torchvision.datasets.ImageNet"):
        _data("imagenet", tmp_path)


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_tars_are_read_by_several_processes_and_threads(tmp_path, cache):
    for split in ("train", "test"):
        for label in ("ant", "bee"):
            for i in range(6):
                _save(tmp_path / split / label / f"{i}.jpg", i)
        _tar(tmp_path / f"{split}.tar", tmp_path / split, "ant", "bee")
        shutil.rmtree(tmp_path / split)
    data = _data("folder", tmp_path, cache=cache, workers=2)
    _ = data.test[3]  # a read before the loader processes start
    images = torch.cat([images for images, _ in data.val_dataloader()])
    assert [_is(images[i], i % 6) for i in range(12)] == [True] * 12


# ------------------------------------------------------------------------------------------- Hugging Face's, TensorFlow's


class _Reader:
    """What timm's readers of such sets look like."""

    splits = ("train", "test", "validation")
    test_labels = (-1, -1)  # as in ImageNet
    broken = None

    def __init__(self, name, root, split, download):
        if split == self.broken:
            raise OSError("no network")
        if split not in self.splits:
            raise ValueError(f"Unknown split {split}")
        count = {"train": 4, "test": 2, "validation": 3}[split]
        self.split, self.label_key, self.class_to_idx = split, "label", {"bee": 1, "ant": 0}
        self._labels = list(self.test_labels) if split == "test" else [i % 2 for i in range(count)]
        self.dataset = {"label": self._labels}

    def __getitem__(self, index):
        if not self.name.startswith("hfds"):
            raise TypeError("a stream has no places")
        file = io.BytesIO()
        _picture(index).save(file, "PNG")
        return file, self._labels[index]

    def __iter__(self):
        return ((_picture(i), label) for i, label in enumerate(self._labels))


@pytest.fixture
def reader(monkeypatch):
    monkeypatch.setattr("jpegdl.extras.installed", lambda name: True)

    def create(name, *arguments, **options):
        made = _Reader(name, *arguments, **options)
        made.name = name
        return made

    monkeypatch.setattr("timm.data.readers.reader_factory.create_reader", create)
    return _Reader


@pytest.mark.filterwarnings("ignore:.* is tested on its split")
@pytest.mark.parametrize("crop", ["random", "resized"])
def test_timms_reader_of_hugging_face_sets(reader, crop):
    data = _data("hfds/some/set", "cache", crop=crop)
    assert data.classes == ["ant", "bee"]
    assert (data.train.targets, data.test.targets) == ([0, 1, 0, 1], [0, 1, 0])  # not the split without classes
    assert [_is(data.train[i][0], i) for i in range(4)] == [True] * 4
    assert [_is(data.test[i][0], i) for i in range(3)] == [True] * 3


def test_timms_readers_without_a_test_split(reader, monkeypatch):
    monkeypatch.setattr(reader, "splits", ("train",))
    with pytest.raises(UsageError, match="hfds/set has no images to test on: tried the splits test, validation, val"):
        _data("hfds/set", "cache")
    monkeypatch.setattr(reader, "splits", ())
    with pytest.raises(UsageError, match="hfds/set, split 'train',.*.ValueError: Unknown split"):
        _data("hfds/set", "cache")


@pytest.mark.parametrize("labels", [[-1, -1], [None, None], [None, 1]])
def test_a_test_split_without_classes_is_passed_over_with_a_word(reader, monkeypatch, labels):
    name = "hfds/some/set"
    monkeypatch.setattr(reader, "test_labels", labels)
    some = r" for some images, such as test\[0\]" if 1 in labels else ""
    with pytest.warns(
        DataWarning, match=f"^{name} is tested on its split 'validation': its split 'test' has no classes{some}$"
    ):
        assert _data(name, "cache").test.targets == [0, 1, 0]
    monkeypatch.setattr(reader, "splits", ("train", "test"))
    with pytest.raises(UsageError, match=f"no images to test on.*its split 'test' has no classes{some}\\)"):
        _data(name, "cache")


def test_a_test_split_with_labels_that_are_none_is_refused(reader, monkeypatch):
    monkeypatch.setattr(reader, "test_labels", [0, 1.7])
    with pytest.raises(UsageError, match=r"test\[1\].*0, 1, ..., got 1.7"):
        _data("hfds/set", "cache")


def test_a_test_split_that_could_not_be_had_is_named(reader, monkeypatch):
    monkeypatch.setattr(reader, "broken", "test")
    with pytest.warns(DataWarning, match="'validation':.*'test',.*.OSError: no network"):
        _data("hfds/set", "cache")


def test_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setattr("jpegdl.extras.installed", lambda name: False)
    with pytest.raises(UsageError, match="data.name hfds/set needs datasets, which is not installed: pip install datasets$"):
        _data("hfds/set", "cache")


def test_a_hugging_face_set(tmp_path):
    pytest.importorskip("datasets")
    for split, count in (("train", 3), ("validation", 2)):
        for label in ("ant", "bee"):
            for i in range(count):
                _save(tmp_path / "set" / split / label / f"{i}.png", i)
    data = _data(f"hfds/{tmp_path / 'set'}", tmp_path / "cache")
    assert data.classes == ["ant", "bee"]
    assert (data.train.targets, data.test.targets) == ([0] * 3 + [1] * 3, [0] * 2 + [1] * 2)
    assert _is(data.train[5][0], 2)


def test_rows_of_a_hugging_face_set_without_an_image_or_a_class(tmp_path):
    datasets = pytest.importorskip("datasets")
    names = datasets.ClassLabel(names=["ant", "bee"])
    features = datasets.Features({"image": datasets.Image(), "label": names})

    def make(name, images, labels):
        for split in ("train", "test"):
            (tmp_path / name / "data").mkdir(parents=True, exist_ok=True)
            table = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
            table.to_parquet(tmp_path / name / "data" / f"{split}-00000-of-00001.parquet")
        return f"hfds/{tmp_path / name}"

    pictures = [_picture(i) for i in range(3)]
    data = _data(make("whole", pictures, [0, 1, 1]), tmp_path / "cache")
    assert (data.classes, data.train.targets) == (["ant", "bee"], [0, 1, 1])
    with pytest.raises(UsageError, match=r"train\[2\].*0, 1, ..., got None"):
        _data(make("classless", pictures, [0, 1, None]), tmp_path / "cache")
    name = make("imageless", [*pictures[:2], None], [0, 1, 1])
    with pytest.raises(UsageError, match=r"image train\[2\] cannot be decoded \(there is no image in this row\)"):
        _data(name, tmp_path / "cache").load()


def test_every_set_that_is_registered_is_explained():
    """Names in the help text are those that there are."""
    about = DataConfig.__doc__.partition("        name: ")[2].partition("        path: ")[0]
    for name in set_names():
        assert re.search(rf"\b{name.removesuffix('/')}\b", about), name


def test_a_set_of_a_name_that_is_taken_is_refused():
    with pytest.raises(ValueError, match="there is a set 'photos' already"):
        register_set("photos")(lambda config: None)
