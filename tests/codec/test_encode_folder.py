import errno
import io
import itertools
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import filelock
import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, PngImagePlugin

from commands import start
from jpegdl.codec import CompressConfig, Encoder, compress_folder
from jpegdl.codec import encode_folder as module
from jpegdl.codec.config import MANIFEST
from jpegdl.codec.encode_folder import SOURCES
from jpegdl.codec.folder_walk import walk
from jpegdl.codec.out_folder import LOCK, alone_in
from jpegdl.data import photograph
from jpegdl.data.pixels import orientation_note
from jpegdl.errors import UsageError
from jpegdl.tables import standard_tables, write_tables
from odd import chunk, png

RGB = Image.fromarray(photograph("chelsea")).convert("RGB").resize((64, 48))
STANDARD = CompressConfig(tables="standard:75", threads=2)


@pytest.fixture
def source(tmp_path):
    folder = tmp_path / "in"
    (folder / "cats" / "small").mkdir(parents=True)
    RGB.save(folder / "cats" / "a.png")
    RGB.rotate(180).save(folder / "cats" / "small" / "b.bmp")
    RGB.save(folder / "c.jpg", quality=95)
    return folder


def files_in(folder):
    files = [path for path in folder.rglob("*") if path.is_file() and path.name not in (LOCK, SOURCES)]
    return sorted(path.relative_to(folder).as_posix() for path in files)


def bad_of(found):
    return {entry["file"]: entry["why"] for entry in found["bad"]}


def test_a_tree_of_images(source, tmp_path):
    standings = []
    found = compress_folder(source, tmp_path / "out", STANDARD, standings.append)
    out = tmp_path / "out"
    assert files_in(out) == ["c.jpg", "cats/a.jpg", "cats/small/b.jpg", MANIFEST]
    assert (found["images"], found["written"], found["skipped"], found["bad"], found["others"]) == (3, 3, 0, [], 0)
    assert found["bytes"] == sum((out / name).stat().st_size for name in files_in(out) if name != MANIFEST)
    assert found["bits_per_pixel"] == 8 * found["bytes"] / (3 * 64 * 48)
    assert found["carried"] is None
    assert [(one.done, one.total, one.bad) for one in standings] == [(1, 3, None), (2, 3, None), (3, 3, None)]
    assert (out / "cats" / "a.jpg").read_bytes() == Encoder(*standard_tables(75)).encode(RGB)
    assert (out / "c.jpg").stat().st_mtime_ns == (source / "c.jpg").stat().st_mtime_ns


def test_it_goes_on_and_does_again_only_what_has_changed(source, tmp_path):
    out = tmp_path / "out"
    compress_folder(source, out, STANDARD)
    before = {name: (out / name).read_bytes() for name in files_in(out)}
    (out / "c.jpg").unlink()
    stray = out / "cats" / ".writing-1.a.jpg"
    stray.write_text("half", encoding="utf-8")
    os.utime(stray, (1, 1))  # nobody writes for that long
    found = compress_folder(source, out, STANDARD)
    assert (found["written"], found["skipped"], found["images"]) == (1, 2, 3)
    assert {name: (out / name).read_bytes() for name in files_in(out)} == before
    assert not stray.exists()
    RGB.rotate(90).save(source / "cats" / "a.png")
    os.utime(source / "cats" / "a.png", ns=(1, 1))
    found = compress_folder(source, out, STANDARD)
    assert (found["written"], found["skipped"]) == (1, 2)
    assert (out / "cats" / "a.jpg").read_bytes() != before["cats/a.jpg"]


def test_what_a_file_was_made_of_is_noted_once_it_is_there(source, tmp_path, monkeypatch):
    """A process that is killed in between makes it again; else a file of before would be taken for what it made."""
    out, noted = tmp_path / "out", []
    keep = module._Sources.keep

    def look(self, name, source):
        noted.append((out / name.lstrip("/")).stat().st_size == source.size)
        keep(self, name, source)

    monkeypatch.setattr(module._Sources, "keep", look)
    compress_folder(source, out, STANDARD)
    assert noted == [True] * 3


def test_other_images_of_the_same_time_stamp_are_made_anew(source, tmp_path):
    """As archives give it, and reproducible builds: 1980 for all."""
    images = [source / "cats" / "a.png", source / "cats" / "small" / "b.bmp", source / "c.jpg"]

    def dated():
        for file in images:
            os.utime(file, (315532800, 315532800))

    out = tmp_path / "out"
    dated()
    compress_folder(source, out, STANDARD)
    RGB.resize((40, 30)).save(images[0])
    RGB.transpose(Image.Transpose.FLIP_LEFT_RIGHT).rotate(180).save(images[1])  # of the same size in bytes, too
    dated()
    found = compress_folder(source, out, STANDARD)
    assert (found["written"], found["skipped"]) == (2, 1)
    assert Image.open(out / "cats/a.jpg").size == (40, 30)
    fresh = compress_folder(source, tmp_path / "fresh", STANDARD)
    assert fresh["written"] == 3
    for name in files_in(out):
        assert name == MANIFEST or (out / name).read_bytes() == (tmp_path / "fresh" / name).read_bytes()
    # Images that were copied, or only looked at again, are as they were.
    for file in images:
        shutil.copy2(file, tmp_path / "copy")
        shutil.move(tmp_path / "copy", file)
    assert compress_folder(source, out, STANDARD)["skipped"] == 3
    # What a version without the journal made is made again, once; half a line in it is no obstacle.
    journal = (out / SOURCES).read_bytes()
    (out / SOURCES).unlink()
    assert compress_folder(source, out, STANDARD)["written"] == 3
    (out / SOURCES).write_bytes(journal + b'\n["cats/a.jpg", [1, 2')
    assert compress_folder(source, out, STANDARD)["skipped"] == 3
    (out / "c.jpg").write_bytes((out / "cats/a.jpg").read_bytes())
    dated()
    os.utime(out / "c.jpg", (315532800, 315532800))
    assert compress_folder(source, out, STANDARD)["written"] == 1


def test_an_empty_file_as_a_power_cut_leaves_is_made_again(source, tmp_path):
    out = tmp_path / "out"
    compress_folder(source, out, STANDARD)
    stamp = (out / "c.jpg").stat()
    (out / "c.jpg").write_bytes(b"")
    os.utime(out / "c.jpg", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert compress_folder(source, out, STANDARD)["written"] == 1
    assert (out / "c.jpg").stat().st_size == stamp.st_size


def test_files_whose_image_is_gone_are_counted(source, tmp_path):
    out = tmp_path / "out"
    assert compress_folder(source, out, STANDARD)["stale"] == 0
    (source / "c.jpg").rename(source / "d.jpg")
    (source / "cats" / "a.png").unlink()
    found = compress_folder(source, out, STANDARD)
    assert (found["written"], found["stale"]) == (1, 2)  # in cats no image is left
    (source / "cats" / "a.txt").write_text("of the image that was there", encoding="utf-8")
    shutil.copy(source / "d.jpg", source / "cats" / "z.jpg")
    assert compress_folder(source, out, STANDARD)["stale"] == 2
    assert (out / "c.jpg").is_file()
    shutil.rmtree(source / "cats")  # a class
    assert compress_folder(source, out, STANDARD)["stale"] == 4
    (out / "c.jpg").unlink()
    assert compress_folder(source, out, STANDARD)["stale"] == 3


def test_a_source_without_images_leaves_the_target_as_good_as_new(source, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no images"):
        compress_folder(tmp_path / "empty", tmp_path / "out", STANDARD)
    assert compress_folder(source, tmp_path / "out", STANDARD)["written"] == 3


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"tables": "standard:76"}, "tables"),
        ({"subsampling": "4:2:0"}, "subsampling"),
        ({"optimize": False}, "optimize"),
        ({"progressive": True}, "progressive"),
    ],
)
def test_other_settings_are_not_mixed(source, tmp_path, other, named):
    compress_folder(source, tmp_path / "out", STANDARD)
    with pytest.raises(UsageError, match=rf"other settings \({named}\)"):
        compress_folder(source, tmp_path / "out", CompressConfig(**{"tables": "standard:75", **other}))


def test_a_manifest_with_a_setting_that_was_dropped_is_that_of_its_default(source, tmp_path):
    compress_folder(source, tmp_path / "out", STANDARD)
    file = tmp_path / "out" / MANIFEST
    content = json.loads(file.read_text(encoding="utf-8"))
    content["settings"]["drop_alpha"] = False  # as earlier versions wrote it
    file.write_text(json.dumps(content), encoding="utf-8")
    assert compress_folder(source, tmp_path / "out", STANDARD)["skipped"] == 3
    content["settings"]["drop_alpha"] = True
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UsageError, match=r"other settings \(drop_alpha\)"):
        compress_folder(source, tmp_path / "out", STANDARD)


def test_another_source_or_a_folder_of_something_else_is_refused(source, tmp_path):
    compress_folder(source, tmp_path / "out", STANDARD)
    shutil.copytree(source, tmp_path / "in2")
    with pytest.raises(UsageError, match=r"/in, not from .*/in2; .* have only moved"):
        compress_folder(tmp_path / "in2", tmp_path / "out", STANDARD)
    (tmp_path / "out" / MANIFEST).write_text("{", encoding="utf-8")
    with pytest.raises(UsageError, match="is damaged"):
        compress_folder(source, tmp_path / "out", STANDARD)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "c.jpg").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="is not empty"):
        compress_folder(source, tmp_path / "mine", STANDARD)
    assert (tmp_path / "mine" / "c.jpg").read_text(encoding="utf-8") == "mine"


def test_the_cap_counts_as_a_setting_of_exact_files(source, tmp_path):
    pytest.importorskip("jpeglib")
    tables = dict(zip(("luma", "chroma"), standard_tables(75), strict=True))
    out, file = tmp_path / "out", tmp_path / "tables.json"
    write_tables(file, tables, bits=4)
    config = CompressConfig(tables=str(file), exact=True)
    found = compress_folder(source, out, config)
    assert found["carried"]["faithful"]
    assert found["carried"]["held_back"] > 0
    write_tables(file, tables, bits=5)
    with pytest.raises(UsageError, match=r"other settings \(limits\)"):
        compress_folder(source, out, config)


def test_it_says_what_is_lost(source, tmp_path):
    fine = torch.full((8, 8), 0.02)
    write_tables(tmp_path / "t.json", {"luma": fine, "chroma": fine}, bits=8)
    found = compress_folder(source, tmp_path / "out", CompressConfig(tables=str(tmp_path / "t.json")))
    assert not found["carried"]["faithful"]
    assert found["carried"]["words"].startswith("The files do not stand for the layer: ")
    assert found["tables"]["luma"] == [[1] * 8] * 8


# -------------------------------------------------------------------------------------------------------- kinds of image


def _pixels(image):
    return np.asarray(image).astype(int)


def test_modes(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    grey = RGB.convert("L")
    grey.save(source / "grey.png")
    Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(source / "sixteen.png")
    RGB.quantize(64).save(source / "palette.png")
    RGB.convert("CMYK").save(source / "cmyk.tif")
    grey.point(lambda v: 255 * (v > 128)).convert("1").save(source / "one.png")
    opaque = RGB.copy()
    opaque.putalpha(255)
    opaque.save(source / "opaque.png")
    RGB.save(source / "web.webp", lossless=True)
    RGB.save(source / "camera.mpo", quality=98, subsampling=0, save_all=True, append_images=[RGB.rotate(90)])
    found = compress_folder(source, out, CompressConfig(tables="standard:98"))
    assert found["bad"] == []
    for name, like in {
        "grey": grey,
        "sixteen": grey,
        "palette": RGB.quantize(64).convert("RGB"),
        "cmyk": RGB.convert("CMYK").convert("RGB"),
        "one": grey.point(lambda v: 255 * (v > 128)),
        "opaque": RGB,
        "web": RGB,
        "camera": RGB,
    }.items():
        with Image.open(out / f"{name}.jpg") as image:
            assert image.mode == like.mode, name
            assert np.abs(_pixels(image) - _pixels(like)).mean() < 1.5, name


def test_what_no_file_can_hold_is_refused_by_name(source, tmp_path):
    frames = [RGB.rotate(angle).quantize(32) for angle in (0, 90)]
    frames[0].save(source / "moving.gif", save_all=True, append_images=frames[1:])
    Image.fromarray(np.zeros((8, 8), np.float32)).save(source / "float.tif")
    clear = RGB.copy()
    clear.putalpha(RGB.convert("L"))
    clear.save(source / "clear.png")
    holed = RGB.quantize(32)
    holed.save(source / "holed.png", transparency=holed.getpixel((0, 0)))
    found = compress_folder(source, tmp_path / "out", STANDARD)
    assert found["written"] == 3
    assert {name: why.split(",")[0] for name, why in bad_of(found).items()} == {
        "moving.gif": "has 2 pictures (GIF)",
        "float.tif": "floating-point pixels have no fixed range to scale to 0..255: save it with 8 or 16 bits",
        "clear.png": "is transparent",
        "holed.png": "is transparent",
    }


@pytest.mark.parametrize("samples", [1, 3], ids=["grey", "colour"])
def test_a_value_of_16_bits_that_stands_for_transparency(tmp_path, samples):
    """Pillow brings such pixels to 8 bits without it."""
    (tmp_path / "in").mkdir()
    pixels = np.full((8, 8 * samples), 0x1234, ">u2")
    pixels[3, 3 * samples : 4 * samples] = 0x5678
    data = b"".join(b"\0" + row.tobytes() for row in pixels)
    for name, key in (("used", 0x5678), ("unused", 0x9ABC)):
        parts = chunk(b"tRNS", key.to_bytes(2, "big") * samples)
        (tmp_path / "in" / f"{name}.png").write_bytes(png(8, 8, parts, data, bits=16, kind=2 if samples == 3 else 0))
    found = compress_folder(tmp_path / "in", tmp_path / "out", STANDARD)
    assert found["written"] == 1
    assert "transparent" in bad_of(found)["used.png"]


@pytest.mark.parametrize("settings", [{}, {"exact": True}], ids=["pillow", "exact"])
def test_what_is_too_long_for_a_file_costs_no_other_image(source, tmp_path, settings):
    if settings:
        pytest.importorskip("jpeglib")
    exif = Image.Exif()
    exif[0x927C] = b"x" * 66000  # a maker note, of which a PNG has room
    RGB.save(source / "a.png", exif=exif)
    Image.new("L", (65600, 1)).save(source / "b.png")
    RGB.save(source / "d.png", icc_profile=b"\0" * 16 + b"RGB " + bytes(2**24))
    found = compress_folder(source, tmp_path / "out", CompressConfig(tables="standard:75", **settings))
    assert found["written"] == 3
    assert bad_of(found).keys() == {"a.png", "b.png", "d.png"}
    assert "EXIF" in bad_of(found)["a.png"]
    assert "colour profile" in bad_of(found)["d.png"]


def test_orientation_and_profile_stay(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name in ("a.jpg", "b.png", "c.webp"):
        RGB.save(source / name, exif=exif, icc_profile=profile)
    RGB.save(source / "d.tif", exif=exif, icc_profile=profile)
    RGB.convert("L").save(source / "e.png", icc_profile=profile)  # of another space than the pixels
    for options in ({}, {"exact": True}):
        if options:
            pytest.importorskip("jpeglib")
            out = tmp_path / "exact"
        assert compress_folder(source, out, CompressConfig(tables="standard:75", **options))["bad"] == []
        for name in "abc":
            with Image.open(out / f"{name}.jpg") as image:
                assert image.getexif()[0x0112] == 6, name
                assert image.getexif()[0x010F] == "a camera", name
                assert image.info["icc_profile"] == profile, name
                assert image.size == RGB.size
        with Image.open(out / "d.jpg") as image:
            assert (image.size, dict(image.getexif())) == (RGB.size, {0x0112: 6})  # the pixels as data sets read them
            assert np.abs(np.asarray(image, np.int16) - np.asarray(RGB, np.int16)).mean() < 8
            assert image.info["icc_profile"] == profile
        assert "icc_profile" not in Image.open(out / "e.jpg").info


XMP = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>"""


def test_an_orientation_that_xmp_alone_says_stays(tmp_path):
    """Images are read with it, and files have no XMP."""
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    camera = Image.Exif()
    camera[0x010F] = "a camera"
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", XMP.decode())
    RGB.save(source / "a.jpg", xmp=XMP)
    RGB.save(source / "b.png", pnginfo=text)
    RGB.save(source / "c.webp", xmp=XMP, exif=camera)
    assert compress_folder(source, out, CompressConfig(tables="standard:75"))["bad"] == []
    for file in sorted(source.iterdir()):
        with Image.open(file) as before, Image.open(out / f"{file.stem}.jpg") as after:
            assert orientation_note(before) == orientation_note(after) == 6
            assert after.size == RGB.size
    with Image.open(out / "c.jpg") as image:
        assert image.getexif()[0x010F] == "a camera"


# --------------------------------------------------------------------------------------------------------- bad and evil


def test_bad_files_are_named_and_all_others_done(source, tmp_path, monkeypatch):
    whole = (source / "c.jpg").read_bytes()
    (source / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (source / "empty.png").touch()
    (source / "text.png").write_text("no image", encoding="utf-8")
    (source / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic")
    (source / "paper.pdf").write_bytes(b"%PDF-1.7")
    (source / "notes.txt").write_text("notes", encoding="utf-8")
    (source / ".hidden.png").write_text("no image", encoding="utf-8")
    (source / "nowhere.png").symlink_to(tmp_path / "nothing")
    os.mkfifo(source / "pipe.png")
    shutil.copy(source / "c.jpg", source / ("c" * 253))
    (source / "bomb.png").write_bytes(png(40000, 20000, data=b""))
    lines = []
    found = compress_folder(source, tmp_path / "out", STANDARD, lambda standing: lines.append(standing.bad))
    assert found["written"] == 3
    assert (found["others"], found["others_in_words"]) == (2, "2 files: 1 .pdf, 1 .txt")  # notes and paper
    bad = bad_of(found)
    assert "too long" in bad.pop("c" * 253)
    assert bad.keys() == {"cut.jpg", "empty.png", "text.png", "nowhere.png", "pipe.png", "bomb.png", "phone.heic"}
    assert "does not read .heic" in bad["phone.heic"]
    assert "truncated" in bad["cut.jpg"]
    assert bad["bomb.png"] == "it has 800 megapixels, and at most 537 are read: make it smaller"
    assert all("\n" not in why for why in bad.values())
    assert sorted(line for line in lines if line and "too long" not in line) == sorted(
        f"{source / name}: {why}" for name, why in bad.items()
    )
    assert "cut.jpg" not in files_in(tmp_path / "out")


def test_whatever_a_reader_raises_is_of_that_file_alone(source, tmp_path, monkeypatch):
    """Some damaged TIFF files end in a TypeError in Pillow's reader."""
    real = Image.open

    def opening(stream, *rest, **options):
        if stream.name.endswith("a.png"):
            raise TypeError("Missing\ndimensions")
        return real(stream, *rest, **options)

    monkeypatch.setattr(Image, "open", opening)
    found = compress_folder(source, tmp_path / "out", STANDARD)
    assert found["written"] == 2
    assert bad_of(found) == {"cats/a.png": "the file is truncated or damaged (TypeError: Missing dimensions)"}


def test_names_that_collide_are_refused_and_nothing_is_lost(source, tmp_path):
    for name in ("x.png", "x.bmp", "y.png"):
        RGB.save(source / name)
    (source / "y.jpg").mkdir()
    RGB.save(source / "y.jpg" / "z.png")
    found = compress_folder(source, tmp_path / "out", STANDARD)
    bad = bad_of(found)
    assert bad.keys() == {"x.png", "x.bmp", "y.png"}
    assert "x.jpg, and so would x.bmp" in bad["x.png"]
    assert found["written"] == 4
    assert (tmp_path / "out" / "y.jpg" / "z.jpg").is_file()


def test_links(source, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    RGB.save(elsewhere / "d.png")
    (source / "more").symlink_to(elsewhere)
    (source / "one.png").symlink_to(elsewhere / "d.png")
    (source / "cats" / "loop").symlink_to(source)
    (elsewhere / "back").symlink_to(elsewhere)
    out = tmp_path / "out"
    found = compress_folder(source, out, STANDARD)
    assert files_in(out) == ["c.jpg", "cats/a.jpg", "cats/small/b.jpg", MANIFEST, "more/d.jpg", "one.jpg"]
    assert bad_of(found).keys() == {"cats/loop/", "more/back/"}


def test_a_link_that_leads_nowhere_is_of_that_file_alone(source, tmp_path):
    (source / "self.png").symlink_to("self.png")
    (source / "there").symlink_to("back")
    (source / "back").symlink_to("there")
    (source / "gone.png").symlink_to("nothing.png")
    found = compress_folder(source, tmp_path / "out", STANDARD)
    assert (found["written"], bad_of(found).keys()) == (3, {"self.png", "there", "back", "gone.png"})


def test_names_that_are_one_on_the_disk_that_is_written_to_are_refused(source):
    """As on disks of Windows and Macs."""
    (source / "Cats").mkdir()
    (source / "Cats" / "d.png").write_bytes((source / "cats" / "a.png").read_bytes())
    for name in ("E.png", "e.bmp", "caf\u00e9.png", "cafe\u0301.bmp"):
        (source / name).write_bytes(b"")
    refused = {one_case: [e.inner for e in walk(source, source / "out", one_case=one_case) if e.refused] for one_case in (0, 1)}
    assert refused[0] == []
    assert sorted(refused[1]) == sorted(["Cats/", "cats/", "E.png", "e.bmp", "caf\u00e9.png", "cafe\u0301.bmp"])


def test_the_input_is_never_written_to(source, tmp_path):
    for target in (source, source / "out", tmp_path):
        with pytest.raises(UsageError, match="overlap"):
            compress_folder(source, target, STANDARD)
    (tmp_path / "alias").symlink_to(source)
    with pytest.raises(UsageError, match="overlap"):
        compress_folder(tmp_path / "alias", source / "out", STANDARD)
    before = {name: (source / name).read_bytes() for name in files_in(source)}
    out = tmp_path / "out"
    compress_folder(source, out, STANDARD)
    # Folders and files of the target that lead back into the source.
    shutil.rmtree(out / "cats")
    (out / "cats").symlink_to(source / "cats")
    (out / "c.jpg").unlink()
    os.link(source / "c.jpg", out / "c.jpg")
    os.utime(out / "c.jpg", ns=(1, 1))
    RGB.rotate(90).save(out / "d.jpg")
    (source / "d.jpg").symlink_to(out / "d.jpg")
    (source / "into").symlink_to(out)
    inside = (out / "d.jpg").read_bytes()
    found = compress_folder(source, out, STANDARD)
    bad = bad_of(found)
    assert bad.keys() == {"cats/a.png", "cats/small/b.bmp", "d.jpg", "into/"}
    assert "is a link" in bad["cats/a.png"]
    assert (out / "d.jpg").read_bytes() == inside
    for name, content in before.items():
        assert (source / name).read_bytes() == content


def test_a_full_disk_stops_it_with_nothing_half_written(source, tmp_path, monkeypatch):
    for i in range(20):
        RGB.save(source / f"{i}.png")
    real, written = Path.write_bytes, itertools.count()

    def write(self, content):
        if next(written) == 21:
            real(self, content[:100])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, content)

    monkeypatch.setattr(Path, "write_bytes", write)
    out = tmp_path / "out"
    with pytest.raises(UsageError, match=r"No space left.*same command") as caught:
        compress_folder(source, out, STANDARD)
    assert "\n" not in str(caught.value)
    assert not list(out.rglob(".writing*"))
    for name in files_in(out):
        if name != MANIFEST:
            Image.open(out / name).load()
    monkeypatch.undo()
    found = compress_folder(source, out, STANDARD)
    assert found["written"] + found["skipped"] == 23
    assert found["skipped"] >= 20


def _die_after_five(source, out):
    def die(standing):
        if standing.done >= 5:
            os.kill(os.getpid(), signal.SIGKILL)

    compress_folder(source, out, CompressConfig(tables="standard:90", threads=2), die)


def test_a_kill_in_the_middle_leaves_whole_files(tmp_path):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for i in range(60):
        RGB.resize((640, 480)).save(source / f"{i}.bmp")
    process = start(_die_after_five, source, out)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    there = [name for name in files_in(out) if name.endswith(".jpg") and not name.startswith(".")]
    assert 5 <= len(there) < 60
    for name in there:
        Image.open(out / name).load()
    found = compress_folder(source, out, CompressConfig(tables="standard:90"))
    # A file is noted once it is in its place: where the kill fell between the two, it is made again, one a thread at most.
    assert len(there) - 2 <= found["skipped"] <= len(there)
    assert found["written"] == 60 - found["skipped"]
    assert len(files_in(out)) == 61
    assert len({(out / name).read_bytes() for name in files_in(out) if name.endswith(".jpg")}) == 1
    assert compress_folder(source, out, CompressConfig(tables="standard:90"))["skipped"] == 60


def test_a_kill_before_anything_was_written_is_no_obstacle(source, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f".writing-1.{MANIFEST}").write_text("{", encoding="utf-8")
    assert compress_folder(source, tmp_path / "out", STANDARD)["written"] == 3


def test_a_folder_that_cannot_be_written_to_is_named(source, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "out" / LOCK))

    monkeypatch.setattr(filelock.FileLock, "acquire", fail)
    with pytest.raises(UsageError, match="Permission denied: nothing more can be written"):
        compress_folder(source, tmp_path / "out", STANDARD)


def test_two_at_once_are_refused(source, tmp_path):
    out = tmp_path / "out"
    with alone_in(out), pytest.raises(UsageError, match="by another process"):
        compress_folder(source, out, STANDARD)
    compress_folder(source, out, STANDARD)


def test_no_more_images_are_under_way_than_the_threads_can_take(tmp_path, monkeypatch):
    source = tmp_path / "in"
    source.mkdir()
    for i in range(30):
        RGB.save(source / f"{i}.png")
    submitted, finished, most = [], [], []
    real = module._Work._one
    lock = threading.Lock()

    class Pool(module.ThreadPoolExecutor):
        def submit(self, *args):
            submitted.append(1)
            most.append(len(submitted) - len(finished))
            return super().submit(*args)

    def one(self, *args):
        time.sleep(0.002)
        done = real(self, *args)
        with lock:
            finished.append(1)
        return done

    monkeypatch.setattr(module, "ThreadPoolExecutor", Pool)
    monkeypatch.setattr(module._Work, "_one", one)
    assert compress_folder(source, tmp_path / "out", STANDARD)["written"] == 30
    assert max(most) <= 2 * module.WINDOW


# -------------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (CompressConfig(), "got neither"),
        (CompressConfig(model="a", tables="b"), "got both"),
        (CompressConfig(tables="standard:75", exact=True, progressive=True), "exact and progressive"),
        (CompressConfig(tables="standard:75", threads=0), "threads must be at least 1"),
        (CompressConfig(tables="standard:0"), "from 1 to 100"),
        (CompressConfig(tables="nowhere.json"), "no table file"),
        (CompressConfig(model="nowhere"), "no run in nowhere"),
    ],
)
def test_settings_that_cannot_be(source, tmp_path, config, message):
    with pytest.raises(UsageError, match=message):
        compress_folder(source, tmp_path / "out", config)
    assert not (tmp_path / "out").exists()


def test_folders_that_cannot_be(source, tmp_path):
    with pytest.raises(UsageError, match="no folder"):
        compress_folder(tmp_path / "nowhere", tmp_path / "out", STANDARD)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        compress_folder(source, tmp_path / "file", STANDARD)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no images in"):
        compress_folder(tmp_path / "empty", tmp_path / "out", STANDARD)


def test_the_manifest_says_where_the_tables_come_from(source, tmp_path):
    compress_folder(source, tmp_path / "out", STANDARD)
    content = json.loads((tmp_path / "out" / MANIFEST).read_text(encoding="utf-8"))
    assert content["from"] == "standard:75"
    assert content["settings"]["tables"]["luma"][0][0] == 8


def test_steps_beyond_the_largest_entry_become_that_and_it_is_said(tmp_path):
    (tmp_path / "in").mkdir()
    RGB.save(tmp_path / "in" / "a.png")
    coarse = torch.full((8, 8), 400.0)
    write_tables(tmp_path / "t.txt", {"luma": coarse, "chroma": coarse})
    found = compress_folder(tmp_path / "in", tmp_path / "out", CompressConfig(tables=str(tmp_path / "t.txt")))
    with Image.open(io.BytesIO((tmp_path / "out" / "a.jpg").read_bytes())) as image:
        assert image.quantization[1] == [255] * 64
    assert "128 of 128 steps are beyond the largest entry" in found["carried"]["words"]


def test_a_note_beside_an_image_does_not_take_its_name(tmp_path):
    (tmp_path / "in").mkdir()
    RGB.save(tmp_path / "in" / "a.png")
    for name in ("a.txt", "a.tar", "b.txt", "b.dat"):
        (tmp_path / "in" / name).write_text("no image", encoding="utf-8")
    RGB.save(tmp_path / "in" / "a.raw", format="png")  # an image that no suffix tells
    found = compress_folder(tmp_path / "in", tmp_path / "out", STANDARD)
    assert (found["written"], found["others"]) == (1, 4)
    assert [entry["file"] for entry in found["bad"]] == ["a.raw"]
    assert "would become a.jpg" in found["bad"][0]["why"]
    again = compress_folder(tmp_path / "in", tmp_path / "out", STANDARD)
    assert (again["skipped"], again["others"], len(again["bad"])) == (1, 4, 1)


def test_archives_are_called_so(source, tmp_path):
    (tmp_path / "packed").mkdir()
    for name in ("a.tar", "b.tar.gz", "c.zip"):
        archive = tmp_path / "packed" / name
        archive.write_bytes(b"no image")
        with pytest.raises(UsageError, match=f"{name} is an archive: unpack it"):
            compress_folder(archive, tmp_path / "out", STANDARD)
    with pytest.raises(UsageError, match="no images in .*packed, 3 files: 1 .tar, 1 .tar.gz, 1 .zip$"):
        compress_folder(tmp_path / "packed", tmp_path / "out", STANDARD)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no images in .*empty, which holds no file$"):
        compress_folder(tmp_path / "empty", tmp_path / "out", STANDARD)
