"""Class folders and tars: what is a class, in which order, and fingerprints that do not depend on where a set is kept."""

import io
import os
import re
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image
from timm.data.readers.reader_factory import create_reader
from timm.data.readers.reader_image_in_tar import ReaderImageInTar

from jpegdl.data import Data, DataConfig
from jpegdl.data.sources import open_sets
from jpegdl.data.sources.base import TEST, TRAIN
from jpegdl.data.sources.shards import find_shards
from jpegdl.errors import DataWarning, UsageError


def _save(*files):
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((9, 9, 3), len(file.name), dtype=np.uint8)).save(file)


def _set(root, *names):
    """The same images for training and test."""
    _save(*(root / split / name for split in ("train", "test") for name in names))
    return root


def _tar(archive, folder, prefix=""):
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w") as tar:
        for path in sorted(folder.rglob("*"), reverse=True):  # not in the order of names
            tar.add(path, prefix + str(path.relative_to(folder)), recursive=False)


def _data(root, **options):
    return Data(DataConfig(**{"name": "folder", "path": str(root), "size": 8, "cache": "none"} | options))


def _keys(root):
    train, _, classes, _ = open_sets(DataConfig(path=str(root)))
    return [(train.key(i), classes[target]) for i, target in enumerate(train.targets)]


# -------------------------------------------------------------------------------------------------------------- what a class is


def _years(root):
    return _set(root, "cat/2019/a.png", "cat/2020/b.png", "cat/c.png", "dog/2019/x/d.png")


YEARS = [("cat/2019/a.png", "cat"), ("cat/2020/b.png", "cat"), ("cat/c.png", "cat"), ("dog/2019/x/d.png", "dog")]


def test_the_class_is_the_first_folder(tmp_path):
    assert _keys(_years(tmp_path)) == YEARS


@pytest.mark.parametrize("prefix", ["", "./", "{split}/", "./{split}/"])
def test_the_class_is_the_first_folder_in_tars(tmp_path, prefix):
    _years(tmp_path / "folders")
    for split in ("train", "test"):
        _tar(tmp_path / f"{split}.tar", tmp_path / "folders" / split, prefix.format(split=split))
    assert _keys(tmp_path) == YEARS


@pytest.mark.parametrize("prefix", ["", "{name}/"])
@pytest.mark.parametrize("nested", [False, True])
def test_the_class_is_the_tar_where_each_has_one(tmp_path, nested, prefix):
    _years(tmp_path / "folders")
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / "folders" / split / name
            _tar(tmp_path / split / f"{name}.tar", folder, prefix.format(name=name))
        if nested:
            _tar(tmp_path / f"{split}.tar", tmp_path / split)
            shutil.rmtree(tmp_path / split)
    assert _keys(tmp_path) == YEARS
    assert [_data(tmp_path).test[i][0][0, 0, 0] for i in range(4)] == pytest.approx([5 / 255] * 4)


def test_tars_that_share_class_folders_are_refused(tmp_path):
    _set(tmp_path / "folders", "cat/a.png", "dog/b.png")
    for split in ("train", "test"):
        for part in ("part1", "part2"):
            _tar(tmp_path / split / f"{part}.tar", tmp_path / "folders" / split)
    with pytest.raises(UsageError, match="part1.tar.*train"):
        _data(tmp_path)


@pytest.mark.parametrize("tarred", [False, True])
def test_images_in_no_class_folder_are_refused(tmp_path, tarred):
    _set(tmp_path, "cat/a.png", "dog/b.png", "loose.png")
    root, name = tmp_path, "train"
    if tarred:
        root, name = tmp_path / "tars", "train.tar"
        for split in ("train", "test"):
            _tar(root / f"{split}.tar", tmp_path / split)
    with pytest.raises(UsageError, match=rf"{name}/loose.png is in no class folder; expected {name}/CLASS/loose.png: move it"):
        _data(root)


@pytest.mark.parametrize("tarred", [False, True])
def test_hidden_files_and_folders_are_no_classes_and_no_images(tmp_path, tarred):
    hidden = [".ipynb_checkpoints/a.png", "__MACOSX/cat/a.png", "cat/._a.png", "cat/.trash/b.png", "._loose.png"]
    _set(tmp_path, "cat/a.png", "dog/b.png", *hidden)
    root = tmp_path
    if tarred:
        root = tmp_path / "tars"
        for split in ("train", "test"):
            _tar(root / f"{split}.tar", tmp_path / split)
    assert _keys(root) == [("cat/a.png", "cat"), ("dog/b.png", "dog")]


def test_a_hidden_folder_beside_tars_hides_none_of_them(tmp_path):
    _set(tmp_path / "folders", "cat/a.png", "dog/b.png")
    for split in ("train", "test"):
        (tmp_path / split / ".cache").mkdir(parents=True)
        for name in ("cat", "dog"):
            _tar(tmp_path / split / f"{name}.tar", tmp_path / "folders" / split / name)
    assert _data(tmp_path).classes == ["cat", "dog"]


@pytest.mark.parametrize("tarred", [False, True])
def test_a_class_folder_without_an_image_is_left_out_with_a_word(tmp_path, tarred):
    _set(tmp_path, "cat/a.png", "dog/b.png")
    (tmp_path / "train" / "eel" / "2019").mkdir(parents=True)
    (tmp_path / "train" / "eel" / "notes.txt").write_text("no image", encoding="utf-8")
    root = tmp_path
    if tarred:
        root = tmp_path / "tars"
        for split in ("train", "test"):
            _tar(root / f"{split}.tar", tmp_path / split)
    with pytest.warns(UserWarning, match="class folders in .* that hold no image are left out: 'eel'$"):
        assert _data(root).classes == ["cat", "dog"]


@pytest.mark.parametrize(("split", "said"), [("train", "training"), ("test", "test")])
def test_a_class_without_images_in_one_part_is_refused(tmp_path, split, said):
    _set(tmp_path, "cat/a.png", "dog/b.png", "eel/c.png")
    (tmp_path / split / "eel" / "c.png").unlink()
    with pytest.raises(UsageError, match=f"have different classes: eel has no {said} image$"):
        _data(tmp_path)


def test_folders_that_may_not_be_read_are_not_passed_over(tmp_path, monkeypatch):
    _set(tmp_path, "cat/a.png", "dog/b.png", "eel/c.png")

    real = os.scandir

    def scandir(path):
        if str(path).endswith("eel"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr("os.scandir", scandir)
    with pytest.raises(UsageError, match="train.*Permission denied: '.*eel'"):
        _data(tmp_path)


@pytest.mark.parametrize("ending", ["webp", "bmp", "tif", "ppm", "JPEG"])
def test_endings(tmp_path, ending):
    _set(tmp_path, f"cat/a.{ending}", f"dog/b.{ending}")
    assert len(_data(tmp_path).train) == 2


# ------------------------------------------------------------------------------------------------------------------------ order


NAMES = ("10", "2", "1", "b", "A", "a1b", "a1b2", "c 2", "c 10", "c", "n02085620")


def test_folders_are_in_the_order_of_timms_reader(tmp_path):
    files = [f"{name}/{file}.png" for name in NAMES for file in ("10", "9", "x_2", "x_10", "Y")]
    _set(tmp_path, *files)
    reader = create_reader("", str(tmp_path / "train"))
    train, _, classes, _ = open_sets(DataConfig(path=str(tmp_path)))
    assert classes == list(reader.class_to_idx)
    assert [(str(tmp_path / "train" / train.key(i)), target) for i, target in enumerate(train.targets)] == reader.samples


def test_shared_tars_are_in_the_order_of_timms_reader(shared):
    root = shared / "data" / "dtd10"
    reader = ReaderImageInTar(str(root / "train.tar"))
    train, _, classes, _ = open_sets(DataConfig(path=str(root)))
    assert classes == list(reader.class_name_to_idx)
    assert [train.key(i) for i in range(800)] == [member.name for member, _, _ in reader.samples]
    assert list(train.targets) == reader.targets.tolist()


# ------------------------------------------------------------------------------------------------------------------ fingerprint


@pytest.fixture
def pets(tmp_path):
    return _set(tmp_path / "pets", *(f"{name}/{i}.png" for name in ("cat", "dog", "eel") for i in (1, 2, 10)))


def test_a_fingerprint_says_what_is_in_use(pets):
    found = _data(pets).fingerprint
    assert found == _data(pets).fingerprint
    assert (found["name"], found["classes"]) == ("folder", ["cat", "dog", "eel"])
    assert (found["train"]["images"], len(found["train"]["digest"])) == (9, 16)
    assert found["train"] == found["test"]  # of the same names and classes
    limited = _data(pets, limit=6).fingerprint
    assert limited["train"]["images"] == 6
    assert limited["train"]["digest"] != found["train"]["digest"]


def test_a_set_that_moves_or_is_tarred_keeps_its_fingerprint(pets, tmp_path):
    found = _data(pets).fingerprint
    for split in ("train", "test"):
        _tar(tmp_path / "tars" / f"{split}.tar", pets / split)
        for name in ("cat", "dog", "eel"):
            _tar(tmp_path / "many" / split / f"{name}.tar", pets / split / name)
    pets.rename(tmp_path / "elsewhere")
    for root in ("elsewhere", "tars", "many"):
        assert _data(tmp_path / root).fingerprint == found, root


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "dog" / "2.png").unlink(),
        lambda root: _save(root / "dog" / "3.png"),
        lambda root: (root / "dog" / "2.png").rename(root / "cat" / "3.png"),
        lambda root: (root / "dog" / "2.png").rename(root / "dog" / "3.png"),
    ],
)
def test_another_set_has_another_fingerprint(pets, change):
    before = _data(pets).fingerprint
    change(pets / "train")
    after = _data(pets).fingerprint
    assert after["train"]["digest"] != before["train"]["digest"]
    assert after["test"] == before["test"]


def test_fingerprints_decode_nothing(pets, monkeypatch):
    data = _data(pets)
    monkeypatch.setattr("PIL.Image.open", None)
    assert data.fingerprint["train"]["images"] == 9


@pytest.mark.filterwarnings("ignore:left out 1 of")
def test_decoding_changes_no_fingerprint(pets):
    whole, file = _data(pets).fingerprint, pets / "train" / "dog" / "2.png"
    file.write_bytes(bytes(file.stat().st_size))  # as long, and no image
    data = _data(pets, cache="memory", skip_corrupt=True)
    data.load()
    assert len(data.train) == whole["train"]["images"] - 1
    assert data.fingerprint == _data(pets).fingerprint
    assert data.fingerprint["train"]["digest"] == whole["train"]["digest"]  # that of names and sizes
    assert data.fingerprint["train"]["content"] != whole["train"]["content"]


@pytest.mark.parametrize("options", [{"name": "photos"}, {"name": "made-up"}])
def test_embedded_sets_have_fingerprints(options, few_photos):
    first, again, fewer = (Data(DataConfig(limit=limit, **options)).fingerprint for limit in (None, None, 20))
    assert first == again
    assert first["train"] != fewer["train"]
    assert first["train"]["digest"] != first["test"]["digest"]


def test_shards_have_the_fingerprint_of_their_samples(tmp_path):
    def shard(file, samples):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(file, "w") as tar:
            for key, label in samples:
                for ending, content in (("jpg", b"?"), ("cls", str(label).encode())):
                    member = tarfile.TarInfo(f"{key}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))

    found = []
    for place, label in (("here", 1), ("there", 1), ("other", 0)):
        for split in ("train", "test"):
            shard(tmp_path / place / f"{split}-0.tar", [("a", 0), ("b", label), ("c", 1)])
        found.append(_data(tmp_path / place, name="wds/").fingerprint)
    assert found[0] == found[1]
    assert found[0]["train"]["digest"] != found[2]["train"]["digest"]


def test_which_of_two_places_is_read_is_said(tmp_path, recwarn):
    for split in ("train", "test", "validation"):
        for level, name in ((60, "a"), (160, "b")):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8), (level, len(split), 0)).save(tmp_path / split / name / "1.png")
    (tmp_path / "training").symlink_to(tmp_path / "train")  # the same place
    with tarfile.open(tmp_path / "train.tar", "w") as tar:
        tar.add(tmp_path / "train", "train")
    (tmp_path / "test.tar.gz").write_bytes(b"\x1f\x8b")
    expected = [
        f"the training images in {tmp_path} are read from train/, and not from train.tar",
        f"the test images in {tmp_path} are read from test/, and not from test.tar.gz",
    ]
    Data(DataConfig(path=str(tmp_path), size=8))
    assert [str(warning.message) for warning in recwarn.list] == expected
    with pytest.warns(DataWarning) as said:
        Data(DataConfig(path=str(tmp_path), size=8), test_only=True)
    assert [str(warning.message) for warning in said] == expected[1:]


def test_a_folder_of_the_same_classes_that_is_not_read_is_said(tmp_path, recwarn):
    for name in ("train/a/1.png", "train/b/2.png", "test/a/3.png", "test/b/4.png", "valid/a/5.png", "notes/figure.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (len(name), 0, ord(name[-5]))).save(tmp_path / name)
    _data(tmp_path)
    (said,) = [str(warning.message) for warning in recwarn]
    assert "valid/" in said
    assert "notes" not in said


def test_shards_are_found_however_deep(tmp_path):
    for name in ("train/a/b/1.tar", "train/a/0.tar", "train/2.tar", "other/train/.hidden/3.tar"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "train" / "a" / "again").symlink_to(tmp_path / "train")  # a circle
    found = [file.relative_to(tmp_path).as_posix() for file in find_shards(tmp_path, "training", TRAIN)]
    assert found == ["train/2.tar", "train/a/0.tar", "train/a/b/1.tar"]


def test_shards_that_are_not_read_are_said(tmp_path):
    for name in ("test-0", "test-1", "val-0"):
        (tmp_path / f"{name}.tar").touch()
    said = f"the test images in {tmp_path} are read from test-0.tar and 1 more, and not from val-0.tar"
    with pytest.warns(DataWarning, match=f"^{re.escape(said)}$"):
        assert [file.name for file in find_shards(tmp_path, "test", TEST)] == ["test-0.tar", "test-1.tar"]
