"""What is listed of folders, tars and shards: links, odd names and suffixes, compressed archives, and what is passed over."""

import bz2
import gzip
import io
import lzma
import os
import shutil
import subprocess
import tarfile
import unicodedata
import zipfile

import numpy as np
import pytest
from PIL import Image, features

from jpegdl import classifier
from jpegdl.codec import CompressConfig, compress_folder
from jpegdl.data import Data, DataConfig
from jpegdl.data.sources import open_sets
from jpegdl.data.sources.listing import IMAGES, passed_in_words
from jpegdl.errors import DataWarning, UsageError

PARTS = ("train", "test")


def _png(value):
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (value % 256, value // 256, 7)).save(stream, "PNG")
    return stream.getvalue()


def _set(root, names=("ant", "bee"), count=2):
    value = 0
    for part in PARTS:
        for name in names:
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                value += 1
                (root / part / name / f"{i}.png").write_bytes(_png(value))
    return root


def _add(tar, name, content=None, link=None, kind=tarfile.SYMTYPE):
    member = tarfile.TarInfo(name)
    if link is None:
        member.size = len(content)
    else:
        member.type, member.linkname = kind, link
    tar.addfile(member, None if link is not None else io.BytesIO(content))


def _tars(root, *entries):
    """A train.tar and a test.tar of entries (name, content) or (name, None, link[, kind])."""
    for part in PARTS:
        with tarfile.open(root / f"{part}.tar", "w") as tar:
            for entry in entries:
                _add(tar, *entry)
    return root


def _list(root, **options):
    """The keys of the training images with their classes, after each is read."""
    train, _, classes, _ = open_sets(DataConfig(**{"name": "folder", "path": str(root)} | options))
    for index in range(len(train.targets)):
        train.read(index).load()
    return [(train.key(index), classes[target]) for index, target in enumerate(train.targets)]


def _pixel(root, key):
    """The first pixel of the training image of that key, as :func:`_png` was told it."""
    train, *_ = open_sets(DataConfig(path=str(root)))
    red, green, _ = train.read([train.key(i) for i in range(len(train.targets))].index(key)).convert("RGB").getpixel((0, 0))
    return red + 256 * green


# ---------------------------------------------------------------------------------------------------------- links in folders


@pytest.mark.parametrize("place", ["ant/up", "again", "ant/deep/er/up"])
@pytest.mark.parametrize("target", ["root", "part", "itself", "above"])
def test_links_in_circles_are_cut_with_a_word(tmp_path, place, target):
    root = _set(tmp_path / "set")
    expected = _list(root)
    for part in PARTS:
        link = root / part / place
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to({"root": root, "part": root / part, "itself": link.parent, "above": tmp_path}[target])
    with pytest.warns(UserWarning, match=f"not followed: .*train/{place}, a link to a folder that it is in"):
        assert _list(root) == expected


def test_links_to_one_another_end(tmp_path):
    root = _set(tmp_path)
    for part in PARTS:
        (root / part / "ant" / "x").symlink_to("../bee")
        (root / part / "bee" / "x").symlink_to("../ant")
    with pytest.warns(UserWarning, match=r"not followed: .*, links to a folder that they are in"):
        found = _list(root)
    assert found == [
        ("ant/0.png", "ant"), ("ant/1.png", "ant"), ("ant/x/0.png", "ant"), ("ant/x/1.png", "ant"),
        ("bee/0.png", "bee"), ("bee/1.png", "bee"), ("bee/x/0.png", "bee"), ("bee/x/1.png", "bee"),
    ]  # fmt: skip


def test_links_elsewhere_are_followed(tmp_path, recwarn):
    _set(tmp_path / "store", ("ant", "bee"))
    for part in PARTS:
        (tmp_path / "set" / part).mkdir(parents=True)
        (tmp_path / "set" / part / "ant").symlink_to(tmp_path / "store" / part / "ant")
        shutil.copytree(tmp_path / "store" / part / "bee", tmp_path / "set" / part / "bee")
        (tmp_path / "set" / part / "bee" / "2.png").symlink_to(tmp_path / "store" / part / "ant" / "0.png")
    assert [key for key, _ in _list(tmp_path / "set")] == ["ant/0.png", "ant/1.png", "bee/0.png", "bee/1.png", "bee/2.png"]
    assert not recwarn.list


def test_a_broken_link_is_an_image_that_is_missed(tmp_path):
    root = _set(tmp_path)
    (root / "train" / "ant" / "2.png").symlink_to("gone.png")
    with pytest.raises(UsageError, match=r"ant/2.png cannot be decoded .No such file"):
        Data(DataConfig(path=str(root), size=8)).load()


def test_predict_and_compress_follow_links_as_training_does(tmp_path):
    root = _set(tmp_path / "set")
    (root / "train" / "ant" / "more").symlink_to("../../test/ant")
    (root / "train" / "ant" / "up").symlink_to("..")
    with pytest.warns(UserWarning, match="not followed: .*train/ant/up, a link to a folder that it is in"):
        found = classifier.find_photos([root / "train"])
    assert [str(path.relative_to(root / "train")) for path in found] == [
        "ant/0.png", "ant/1.png", "ant/more/0.png", "ant/more/1.png", "bee/0.png", "bee/1.png",
    ]  # fmt: skip
    result = compress_folder(root / "train", tmp_path / "out", CompressConfig(tables="standard:75"))
    assert (result["written"], [bad["why"] for bad in result["bad"]]) == (6, ["is a link to a folder that it is in"])


def test_a_pipe_is_no_image(tmp_path):
    root = _set(tmp_path)
    os.mkfifo(root / "train" / "ant" / "2.png")
    with pytest.warns(UserWarning, match="passed over 1 file: 1 .png"):
        assert len(_list(root)) == 4


# -------------------------------------------------------------------------------------------------------------- links in tars


def test_links_in_tars_are_followed(tmp_path):
    entries = []
    for value, name in enumerate(("ant", "bee")):
        entries += [
            (f"{name}/0.png", _png(value + 1)),
            (f"{name}/1.png", None, f"{name}/0.png", tarfile.LNKTYPE),
            (f"{name}/2.png", None, "0.png"),
            (f"{name}/3.png", None, "2.png"),
            (f"{name}/4.png", None, f"../.store/{name}.png"),
            (f".store/{name}.png", _png(value + 3)),
        ]
    root = _tars(tmp_path, *entries)
    assert [key for key, _ in _list(root)] == [f"{name}/{i}.png" for name in ("ant", "bee") for i in range(5)]
    assert [_pixel(root, f"bee/{i}.png") for i in range(5)] == [2, 2, 2, 2, 4]


def test_a_tar_holds_what_its_folder_holds(tmp_path):
    root = _set(tmp_path / "set")
    for part in PARTS:
        os.link(root / part / "ant" / "0.png", root / part / "bee" / "2.png")
        (root / part / "bee" / "3.png").symlink_to("0.png")
        (root / part / "cow").symlink_to("bee")
    (tmp_path / "tars").mkdir()
    for part in PARTS:
        subprocess.run(["tar", "-C", root / part, "-cf", tmp_path / "tars" / f"{part}.tar", "."], check=True)
    assert Data(DataConfig(path=str(tmp_path / "tars"))).fingerprint == Data(DataConfig(path=str(root))).fingerprint
    assert len(_list(root)) == 10


def test_links_to_folders_in_tars(tmp_path):
    root = _tars(
        tmp_path,
        ("ant/0.png", _png(1)),
        ("ant/more", None, "../.store/ant"),
        ("ant/up", None, ".."),
        (".store/ant/1.png", _png(2)),
        (".store/ant/back", None, "../../ant"),
        ("bee", None, ".store/ant"),
    )
    with pytest.warns(UserWarning, match="not followed: .*ant/more/back, .*ant/up, .*bee/back/more and 1 more, links"):
        found = _list(root)
    assert found == [("ant/0.png", "ant"), ("ant/more/1.png", "ant"), ("bee/1.png", "bee"), ("bee/back/0.png", "bee")]


def test_files_below_the_name_of_a_file_or_a_link_in_a_tar_are_not_lost(tmp_path):
    """As ``tar -r`` leaves them where a file or a link has become a folder."""
    root = _tars(
        tmp_path,
        ("ant/0.png", _png(1)),
        ("ant/more", None, "../bee"),
        ("ant/more/1.png", _png(2)),
        ("ant/old.png", _png(3)),
        ("ant/old.png/2.png", _png(4)),
        ("bee/0.png", _png(5)),
    )
    assert [key for key, name in _list(root) if name == "ant"] == [
        "ant/0.png", "ant/more/0.png", "ant/more/1.png", "ant/old.png", "ant/old.png/2.png",
    ]  # fmt: skip


@pytest.mark.parametrize("link", ["../gone.png", "/data/0.png", "../../0.png", "1.png"])
@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_that_lead_out_of_a_tar_are_refused(tmp_path, link, kind):
    root = _tars(tmp_path, ("ant/0.png", _png(1)), ("ant/1.png", None, link, kind), ("bee/0.png", _png(2)))
    with pytest.raises(UsageError, match="ant/1.png in.*train.tar.*"):
        _list(root)


def test_of_two_entries_of_one_name_the_last_counts(tmp_path):
    root = _tars(tmp_path, ("ant/0.png", _png(1)), ("bee/0.png", _png(2)), ("ant/0.png", _png(3)))
    assert _list(root) == [("ant/0.png", "ant"), ("bee/0.png", "bee")]
    assert _pixel(root, "ant/0.png") == 3


def test_two_tars_in_one_file_are_refused(tmp_path):
    root = _tars(tmp_path, ("ant/0.png", _png(1)), ("bee/0.png", _png(2)))
    first = (root / "train.tar").read_bytes()
    (root / "train.tar").write_bytes(first + (root / "test.tar").read_bytes())
    with pytest.raises(UsageError, match=r"train.tar .*after its end.*two"):
        _list(root)
    damaged = bytearray(first)
    damaged[1024 + 150] ^= 1  # the check sum of the second entry
    (root / "train.tar").write_bytes(damaged)
    with pytest.raises(UsageError, match=r"train.tar .*after its end.*damaged"):
        _list(root)


def test_a_tar_that_stops_between_two_images_is_said(tmp_path):
    root = _tars(tmp_path, ("ant/0.png", _png(1)), ("bee/0.png", _png(2)), ("bee/1.png", _png(3)))
    content = (root / "train.tar").read_bytes()
    (root / "train.tar").write_bytes(content[: 4 * 512])
    with pytest.warns(UserWarning, match=r"train.tar .*no end mark.*cut off"):
        assert len(_list(root)) == 2


def test_broken_links_that_may_be_folders_are_counted(tmp_path):
    root = _set(tmp_path)
    (root / "train" / "cow").symlink_to("/nowhere/cow")
    with pytest.warns(UserWarning, match="passed over 1 file: 1 broken link in"):
        assert len(_list(root)) == 4


def test_an_empty_tar_of_a_class_is_said(tmp_path):
    root = _set(tmp_path)
    for part in PARTS:
        for name in ("ant", "bee", "cow"):
            with tarfile.open(root / part / f"{name}.tar", "w") as tar:
                if name != "cow":
                    tar.add(root / part / name, ".")
            shutil.rmtree(root / part / name, ignore_errors=True)
    with pytest.warns(UserWarning, match="class folders in.*'cow'"):
        assert len(_list(root)) == 4


# -------------------------------------------------------------------------------------------------------------- compressed tars


def _zipped(content):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as file:
        file.writestr("a", content)
    return stream.getvalue()


KINDS = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress, "zip": _zipped}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["{}.tar", "{}.tar.gz", "{}.tgz", "{}.TAR.XZ", "{}.zip", "{}/ant.tar", "{}/ant.tar.gz"])
def test_compressed_tars_are_named(tmp_path, kind, name):
    root = _set(tmp_path)
    for part in PARTS:
        shutil.rmtree(root / part)
        if "/" in name:
            (root / part).mkdir()
            with tarfile.open(root / part / "bee.tar", "w") as tar:
                _add(tar, "0.png", _png(1))
        (root / name.format(part)).write_bytes(KINDS[kind](b"content"))
    for test_only in (False, True):
        with pytest.raises(UsageError, match=rf"{name.format('(train|test)')} is compressed with {kind}: .* first"):
            Data(DataConfig(path=str(root)), test_only=test_only)


def test_compressed_tars_in_tars_are_named(tmp_path):
    root = _tars(tmp_path, ("ant.tar", gzip.compress(b"tar")), ("bee/0.png", _png(1)))
    with pytest.raises(UsageError, match=r"train.tar/ant.tar .*gzip.*gunzip"):
        _list(root)
    _tars(tmp_path, ("ant.tar.gz", gzip.compress(b"tar")), ("bee/0.png", _png(1)), ("cow/0.png", _png(1)))
    with pytest.raises(UsageError, match=r"train.tar/ant.tar.gz .*compressed.*unpack"):
        _list(root)


@pytest.mark.parametrize("name", ["set-{}-0001.tar.gz", "set-{}-0001.tgz", "set-{}-0001.tar"])
def test_compressed_shards_are_named(tmp_path, name):
    for part in PARTS:
        with tarfile.open(tmp_path / f"set-{part}-0000.tar", "w") as tar:
            for i in range(2):
                _add(tar, f"{i}.png", _png(i))
                _add(tar, f"{i}.cls", str(i).encode())
        with tarfile.open(tmp_path / name.format(part), "w:gz") as tar:
            _add(tar, "2.png", _png(2))
    with pytest.raises(UsageError, match=rf"{name.format('train')} is compressed with gzip: gunzip it first"):
        _list(tmp_path, name="wds/x")


def test_an_archive_as_the_path_is_named(tmp_path):
    (tmp_path / "set.zip").write_bytes(_zipped(b""))
    with pytest.raises(UsageError, match="data.path.*set.zip"):
        _list(tmp_path / "set.zip")


# -------------------------------------------------------------------------------------------------- suffixes, passed-over files


def test_what_pillow_reads_is_read(tmp_path, recwarn):
    root = _set(tmp_path)
    image = Image.fromarray(np.full((8, 8, 3), 90, np.uint8))
    kinds = {"gif": "GIF", "GIF": "GIF", "jfif": "JPEG", "jpe": "JPEG", "apng": "PNG", "pbm": "PPM", "pnm": "PPM"}
    kinds |= {"jp2": "JPEG2000"} if features.check("jpg_2000") else {}
    kinds |= {"avif": "AVIF"} if ".avif" in IMAGES else {}
    for ending, kind in kinds.items():
        image.convert("1" if ending == "pbm" else "RGB").save(root / "train" / "ant" / f"{ending}_.{ending}", kind)
    assert len(_list(root)) == 4 + len(kinds)
    assert not recwarn.list
    assert len(classifier.find_photos([root / "train"])) == 4 + len(kinds)


def test_what_is_passed_over_is_said_in_one_line_and_recorded(tmp_path):
    root = _set(tmp_path)
    others = ["ant/a.heic", "ant/b.HEIC", "bee/c.tar.gz", "labels.txt", "bee/README"]
    for name in [*others, "ant/.DS_Store", "ant/Thumbs.db", "ant/desktop.ini"]:
        (root / "train" / name).write_bytes(b"?")
    (root / "test" / "ant" / "d.heic").write_bytes(b"?")
    with pytest.warns(DataWarning, match="passed over") as said:
        data = Data(DataConfig(path=str(root)))
    words = f"passed over 6 files: 3 .heic, 1 .tar.gz, 1 .txt, 1 no suffix in {root}"
    assert [str(warning.message) for warning in said] == [words]
    assert data.fingerprint["passed_over"] == {".heic": 3, ".tar.gz": 1, ".txt": 1, "no suffix": 1}
    with pytest.warns(UserWarning, match="passed over 5 files: 2 .heic, 1 .tar.gz, 1 .txt, 1"):
        assert len(classifier.find_photos([root / "train"])) == 4
    (tmp_path / "tars").mkdir()
    for part in PARTS:
        with tarfile.open(tmp_path / "tars" / f"{part}.tar", "w") as tar:
            tar.add(root / part, part)
    with pytest.warns(UserWarning, match="passed over 6 files: 3 .heic, 1 .tar.gz, 1 .txt, 1"):
        assert Data(DataConfig(path=str(tmp_path / "tars"))).fingerprint == data.fingerprint


def test_words():
    assert passed_in_words({".txt": 1, ".heic": 2}) == "3 files: 2 .heic, 1 .txt"
    assert passed_in_words({".txt": 1}) == "1 file: 1 .txt"


# --------------------------------------------------------------------------------------------------------------- Unicode forms


NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))


@pytest.mark.parametrize("tarred", [False, True])
def test_the_two_unicode_forms_of_a_name_are_one_class(tmp_path, tarred):
    root = _set(tmp_path / "set", (NFC, "bee", "cow"))
    expected = Data(DataConfig(path=str(root)))
    content = expected.fingerprint["test"]["content"]
    (root / "test" / NFC).rename(root / "test" / NFD)
    if tarred:
        for part in PARTS:
            with tarfile.open(tmp_path / f"{part}.tar", "w") as tar:
                tar.add(root / part, part)
        root = tmp_path
    data = Data(DataConfig(path=str(root)))
    assert data.classes == expected.classes == ["bee", NFC, "cow"]
    assert data.test.targets == expected.test.targets
    assert data.fingerprint["test"]["content"] == content
    assert Data(DataConfig(path=str(root)), test_only=True).classes == ["bee", NFC, "cow"]


@pytest.mark.parametrize("test_only", [False, True])
def test_two_folders_of_one_name_in_two_unicode_forms_are_refused(tmp_path, test_only):
    root = _set(tmp_path, (NFC, NFD, "bee"))
    with pytest.raises(UsageError, match=f"two folders in .* are named '{NFC}', and differ in the Unicode form"):
        Data(DataConfig(path=str(root)), test_only=test_only)


# ------------------------------------------------------------------------------------------------------------------ class order


def test_classes_in_the_order_of_torchvisions_imagefolder(tmp_path):
    from torchvision.datasets import ImageFolder

    root = _set(tmp_path, ("1", "2", "10", "Zebra", "apple", "Mule"), 1)
    natural, ordered = (Data(DataConfig(path=str(root), class_order=order)) for order in (None, "sorted"))
    assert natural.classes == ["1", "2", "10", "apple", "Mule", "Zebra"]
    assert ordered.classes == ImageFolder(root / "train").classes == ["1", "10", "2", "Mule", "Zebra", "apple"]
    names = [natural.classes[target] for target in natural.test.targets]
    assert [ordered.classes[target] for target in ordered.test.targets] == names
    only = Data(DataConfig(path=str(root), class_order="sorted"), test_only=True)
    assert (only.classes, only.test.targets) == (ordered.classes, ordered.test.targets)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_order": "abc", "path": "x"}, "data.class_order must be one of natural, sorted.* got 'abc'"),
        ({"class_order": "sorted"}, "data.class_order is for folder and imagenet only, got sorted with photos"),
    ],
)
def test_bad_class_orders(options, message):
    with pytest.raises(UsageError, match=message):
        Data(DataConfig(**options))
