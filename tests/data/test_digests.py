"""Digests of contents: what they see, that they are the same wherever a set is kept, and their cache."""

import io
import json
import os
import shutil
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from jpegdl.data import Data, DataConfig, digests
from jpegdl.data.digests import Piece, bytes_digest, piece_digests
from jpegdl.runs.record import data_difference, same_images


def _fill(root, seed, names=("a", "b"), train=6, test=4, suffix="bmp"):
    """Random images of one size in bytes, with the same names in both parts."""
    random = np.random.default_rng(seed)
    for split, count in (("train", train), ("test", test)):
        for name in names:
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(root / split / name / f"{i}.{suffix}")
    return root


def _found(root, **options):
    return Data(DataConfig(**{"name": "folder", "path": str(root), "size": 8} | options)).fingerprint


def _tarred(root, folder):
    folder.mkdir()
    for split in ("train", "test"):
        with tarfile.open(folder / f"{split}.tar", "w") as tar:
            tar.add(root / split, split)
    return folder


# ------------------------------------------------------------------------------------------------------------ what they see


def test_replaced_pixels_and_swapped_labels_are_seen(tmp_path):
    first = _found(_fill(tmp_path, 0))
    other = _found(_fill(tmp_path, 1))
    assert first["train"]["digest"] == other["train"]["digest"]  # names and sizes alone
    assert data_difference(first, other) == "as many training images, but other ones, or of other classes"
    one, two = tmp_path / "test" / "a" / "0.bmp", tmp_path / "test" / "b" / "0.bmp"
    held = one.read_bytes(), two.read_bytes()
    one.write_bytes(held[1])
    two.write_bytes(held[0])
    swapped = _found(tmp_path)
    assert swapped["train"] == other["train"]
    assert data_difference(other, swapped) == "as many test images, but other ones, or of other classes"


def test_names_do_not_count_where_contents_and_order_are_the_same(tmp_path):
    first = _found(_fill(tmp_path, 0))
    (tmp_path / "train" / "a" / "5.bmp").rename(tmp_path / "train" / "a" / "6.bmp")
    found = _found(tmp_path)
    assert found["train"]["digest"] != first["train"]["digest"]
    assert data_difference(first, found) is None


def test_tars_and_other_places_have_the_same_contents(tmp_path):
    first = _found(_fill(tmp_path / "one", 0))
    assert _found(_tarred(tmp_path / "one", tmp_path / "tars")) == first
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert _found(tmp_path / "two") == first


def test_records_of_names_and_sizes_are_still_compared(tmp_path):
    now = _found(_fill(tmp_path, 0))
    old = json.loads(json.dumps(now))
    for part in ("train", "test"):
        del old[part]["content"]
    assert data_difference(old, now) is None
    old["test"]["digest"] = "0" * 16
    assert data_difference(old, now) == "as many test images, but other ones, or of other classes"
    assert same_images(old["train"], now["train"])
    assert not same_images(old["test"], now["test"])
    old["train"]["images"] -= 1
    assert data_difference(old, now) == (
        "11 training images then, 12 now; the version that recorded it passed over .gif, .jfif and others, and links in tars"
    )


def test_images_of_the_same_name_and_size_are_no_leak(tmp_path, recwarn):
    found = _found(_fill(tmp_path, 0, train=4))
    assert found["train"]["digest"] == found["test"]["digest"]
    assert "test_in_train" not in found
    assert not recwarn.list


def test_copies_under_other_names_are_a_leak_with_their_number(tmp_path):
    _fill(tmp_path, 0)
    for i in range(3):
        shutil.copy(tmp_path / "train" / "a" / f"{i}.bmp", tmp_path / "test" / "a" / f"copy{i}.bmp")
    with pytest.warns(UserWarning, match="^3 of 11 test images are training images"):
        assert _found(tmp_path)["test_in_train"] == 3
    _tarred(tmp_path, tmp_path / "tars")
    with pytest.warns(UserWarning, match="^3 of 11 test images"):
        assert _found(tmp_path / "tars")["test_in_train"] == 3


def test_test_images_that_are_looked_at_in_training_are_said(tmp_path):
    _fill(tmp_path, 0)
    shutil.copytree(tmp_path / "test", tmp_path / "validation")
    (tmp_path / "validation" / "a" / "0.bmp").unlink()
    with pytest.warns(UserWarning, match="^7 of 8 test images are held-out images"):
        assert _found(tmp_path)["test_in_validation"] == 7


def test_a_picture_under_two_classes_is_said_with_its_names(tmp_path, recwarn):
    """A copy, a link to a file, and a picture that comes twice under one class, which is no contradiction."""
    train = _fill(tmp_path, 0) / "train"
    shutil.copy(train / "a" / "0.bmp", train / "b" / "copy.bmp")
    (train / "b" / "link.bmp").symlink_to("../a/1.bmp")
    shutil.copy(train / "a" / "2.bmp", train / "a" / "again.bmp")
    found = _found(tmp_path)
    assert found["several_classes"] == {"train": 2}
    expected = (
        f"2 training pictures come under more than one class, as copies or links: {train}/a/0.bmp = {train}/b/copy.bmp; "
        f"{train}/a/1.bmp = {train}/b/link.bmp; at most one of the classes is right"
    )
    assert [str(warning.message) for warning in recwarn.list] == [expected]
    assert _found(_tarred(tmp_path, tmp_path / "tars"))["several_classes"] == {"train": 2}
    (tmp_path / "test" / "c").symlink_to(tmp_path / "test" / "a")  # a class that is a link to another
    (train / "c").symlink_to(train / "a")
    with pytest.warns(UserWarning, match="^4 test pictures come under .*0.bmp = .*0.bmp; .*2.bmp; and 1 more; at most one"):
        assert _found(tmp_path)["several_classes"] == {"train": 6, "test": 4}


def test_what_has_no_digest_is_no_picture_under_two_classes(tmp_path, recwarn):
    class Broken:
        def __len__(self):
            return 4

        def __getitem__(self, index):
            if index > 1:
                raise OSError("damaged")
            return Image.new("RGB", (4, 4), (index, 0, self.shade)), index % 2

        targets = (0, 1, 0, 1)

    sets = []
    for shade in (1, 2):
        one = Broken()
        one.shade = shade
        sets.append(one)
    assert "several_classes" not in Data(DataConfig(name="object", size=4), sets=tuple(sets)).fingerprint
    assert not recwarn.list


def test_sets_of_torchvision_are_known_by_their_pixels(tmp_path, monkeypatch):
    """Training and validation images of Flowers102 have the same labels in the same order, and are no leak."""

    class Flowers:
        shift = 0

        def __init__(self, root, split, download=False):
            self._labels = [label for label in range(102) for _ in range(2)]
            self.split = split

        def __len__(self):
            return len(self._labels)

        def __getitem__(self, index):
            return Image.new("RGB", (4, 4), (index, 99 + self.shift, 50 * (self.split == "val"))), self._labels[index]

    monkeypatch.setattr("torchvision.datasets.Flowers102", Flowers)
    found = _found(tmp_path, name="flowers102")
    assert found["train"]["digest"] == found["test"]["digest"]
    assert found["train"]["content"] != found["test"]["content"]
    assert "test_in_train" not in found
    monkeypatch.setattr(Flowers, "shift", 1)  # another copy of the set
    assert data_difference(found, _found(tmp_path, name="flowers102")) is not None


def test_embedded_photographs_share_no_patch(few_photos):
    found = Data(DataConfig()).fingerprint
    assert "test_in_train" not in found


def test_files_that_python_objects_keep_are_read(tmp_path):
    from torchvision.datasets import ImageFolder

    _fill(tmp_path, 0)
    sets = tuple(ImageFolder(tmp_path / split) for split in ("train", "test"))
    found = Data(DataConfig(name="object"), sets=sets).fingerprint
    assert found["train"]["content"] == _found(tmp_path)["train"]["content"]
    _fill(tmp_path, 1)
    assert data_difference(found, Data(DataConfig(name="object"), sets=sets).fingerprint) is not None


def test_what_cannot_be_read_has_no_digest(tmp_path):
    (tmp_path / "there.bin").write_bytes(b"there")
    pieces = [Piece(str(tmp_path / name)) for name in ("there.bin", "gone.bin")]
    assert piece_digests([*pieces, Piece(str(tmp_path / "there.bin"), 1, 3)]) == [
        bytes_digest(b"there"),
        "",
        bytes_digest(b"her"),
    ]


# ------------------------------------------------------------------------------------------------------------------- the cache


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A cache of the test's own, which takes files that were made just now."""
    monkeypatch.setattr(digests, "_RECENT", -1e9)
    monkeypatch.setattr(digests, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "digests"


def _reads(monkeypatch):
    """Which pieces are read from now on."""
    seen = []
    real = digests._of_stream
    monkeypatch.setattr(digests, "_of_stream", lambda stream, piece: (seen.append(piece), real(stream, piece))[1])
    return seen


def test_what_did_not_change_is_read_once(tmp_path, kept, monkeypatch):
    first = _found(_fill(tmp_path / "set", 0))
    tars = _tarred(tmp_path / "set", tmp_path / "tars")
    assert _found(tars) == first
    seen = _reads(monkeypatch)
    assert _found(tmp_path / "set") == _found(tars) == first
    assert not seen
    file = tmp_path / "set" / "train" / "a" / "3.bmp"
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # as long and as old as before
    assert data_difference(first, _found(tmp_path / "set")) == "as many training images, but other ones, or of other classes"
    assert [piece.path for piece in seen] == [str(file)]


def test_files_of_a_moment_ago_are_read_again(tmp_path, kept, monkeypatch):
    monkeypatch.setattr(digests, "_RECENT", 1e9)
    _found(_fill(tmp_path / "set", 0))
    assert not kept.exists()


def test_a_cache_that_cannot_be_read_or_written_changes_nothing(tmp_path, kept, monkeypatch):
    first = _found(_fill(tmp_path / "set", 0))
    for file in kept.iterdir():
        file.write_bytes(b'{"format": 1, "known": [')
    assert _found(tmp_path / "set") == first
    for file in kept.iterdir():
        file.write_text('{"format": 1, "known": {"0.bmp": 3}}', encoding="utf-8")
    assert _found(tmp_path / "set") == first
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    for place in (tmp_path / "file", None):
        monkeypatch.setattr(digests, "cache_folder", lambda place=place: place)
        assert _found(tmp_path / "set") == first


def test_several_may_write_at_once(tmp_path, kept, monkeypatch):
    pieces = []
    for i in range(60):
        (tmp_path / f"{i}.bin").write_bytes(bytes([i]))
        pieces.append(Piece(str(tmp_path / f"{i}.bin")))
    expected = [bytes_digest(bytes([i])) for i in range(60)]
    with ThreadPoolExecutor(8) as pool:
        assert all(found == expected for found in pool.map(piece_digests, [pieces] * 8))
    assert piece_digests(pieces) == expected
    assert [file.suffix for file in kept.iterdir()] == [".json"]


def test_the_cache_has_a_limit(tmp_path, kept, monkeypatch):
    for i in range(5):
        (tmp_path / str(i)).mkdir()
        (tmp_path / str(i) / "a.bin").write_bytes(bytes([i]))
        piece_digests([Piece(str(tmp_path / str(i) / "a.bin"))])
        for age, file in enumerate(sorted(kept.iterdir(), key=lambda file: file.stat().st_mtime_ns)):
            os.utime(file, (1000 + age, 1000 + age))
    size = max(file.stat().st_size for file in kept.iterdir())
    newest = sorted(kept.iterdir(), key=lambda file: file.stat().st_mtime)[-1]
    monkeypatch.setattr(digests, "CACHE_LIMIT", 3 * size)
    (tmp_path / "more.bin").write_bytes(b"more")
    piece_digests([Piece(str(tmp_path / "more.bin"))])
    assert len(list(kept.iterdir())) <= 3
    assert newest.exists()


def test_the_place_of_the_cache(tmp_path, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert digests.cache_folder() == tmp_path / "xdg" / "jpegdl"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which the standard says is to be ignored
    monkeypatch.setattr("sys.platform", "linux")
    assert digests.cache_folder() == tmp_path / "home" / ".cache" / "jpegdl"
    monkeypatch.setattr("sys.platform", "darwin")
    assert digests.cache_folder() == tmp_path / "home" / "Library" / "Caches" / "jpegdl"

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.home", homeless)
    assert digests.cache_folder() is None


def test_shards_have_the_contents_of_their_images(tmp_path):
    def shard(file, content):
        with tarfile.open(file, "w") as tar:
            for name, held in (("0.png", content), ("0.cls", b"0"), ("1.png", b"other"), ("1.cls", b"1")):
                member = tarfile.TarInfo(name)
                member.size = len(held)
                tar.addfile(member, io.BytesIO(held))

    found = []
    for content in (b"first", b"again"):
        for split in ("train", "test"):
            shard(tmp_path / f"{split}-0.tar", content)
        with pytest.warns(UserWarning, match="2 of 2 test images are training images too"):
            found.append(_found(tmp_path, name="wds/"))
    assert found[0]["train"]["digest"] == found[1]["train"]["digest"]
    assert data_difference(*found) == "as many training images, but other ones, or of other classes"
