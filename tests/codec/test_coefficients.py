"""Levels out of JPEG files and back, against Pillow's pixels and the functions' own levels."""

import io
import os

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from jpegdl import JpegLayer
from jpegdl import functional as F
from jpegdl.codec import Coefficients, coefficients, read_coefficients, write_coefficients
from jpegdl.errors import UsageError
from jpegdl.tables import standard_tables

pytest.importorskip("jpeglib")

SAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")
SIZES = ((1, 1), (8, 8), (17, 9), (33, 40), (24, 50))


def encoded(height=33, width=40, *, grey=False, **options):
    pixels = data.astronaut()[60 : 60 + height, 180 : 180 + width]
    file = io.BytesIO()
    Image.fromarray(pixels[..., 1] if grey else pixels).save(file, "JPEG", **options)
    return file.getvalue()


def decoded(content):
    return np.array(Image.open(io.BytesIO(content)))


def read(content):
    return read_coefficients(io.BytesIO(content))


def written(given, **options):
    file = io.BytesIO()
    write_coefficients(file, given, **options)
    return file.getvalue()


def check_same(one, other):
    assert (one.size, one.subsampling, one.exif, one.icc) == (other.size, other.subsampling, other.exif, other.icc)
    assert torch.equal(one.tables, other.tables)
    assert len(one.levels) == len(other.levels)
    assert all(torch.equal(a, b) for a, b in zip(one.levels, other.levels, strict=True))


def check_round_trip(content):
    found = read(content)
    for optimize in (True, False):
        again = written(found, optimize=optimize)
        assert np.array_equal(decoded(again), decoded(content))
        check_same(read(again), found)
    return found


def exact_pixels(found):
    pixels = F.decode_levels(found.levels, found.luma, found.chroma, found.size, found.subsampling)[0]
    return pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}, {"optimize": True}])
def test_files_come_back_bit_for_bit_and_decode_exactly(options):
    for height, width in SIZES:
        for subsampling in SAMPLINGS:
            content = encoded(height, width, quality=70, subsampling=subsampling, **options)
            found = check_round_trip(content)
            assert (found.size, found.subsampling, found.orientation) == ((height, width), subsampling, 1)
            assert np.array_equal(exact_pixels(found), decoded(content))
        found = check_round_trip(encoded(height, width, grey=True, quality=30, **options))
        assert len(found.levels) == len(found.tables) == 1
        assert np.array_equal(exact_pixels(found), decoded(encoded(height, width, grey=True, quality=30)))


def test_levels_are_those_of_the_functions():
    pixels = torch.from_numpy(data.astronaut()[60:93, 180:220]).permute(2, 0, 1)[None]
    for subsampling in SAMPLINGS:
        luma, chroma = standard_tables(60)
        found = read(encoded(quality=60, subsampling=subsampling))
        levels = F.encode_levels(pixels, luma, chroma, subsampling)
        check_same(found, Coefficients(levels, torch.stack((luma, chroma, chroma)).int(), (33, 40), subsampling))


def test_planes_are_what_layers_and_functions_take():
    found = read(encoded(quality=80, subsampling="4:4:4"))
    luma, chroma = found.planes
    z = torch.cat((luma, chroma), 1)
    assert z.shape == (1, 3, 5, 5, 8, 8)
    image = torch.from_numpy(decoded(encoded(quality=80, subsampling="4:4:4"))).permute(2, 0, 1)[None] / 255
    for images in (F.planes_to_images(luma, chroma, found.size, "4:4:4"), JpegLayer().to_images(z, found.size)):
        assert (images.clamp(0, 1) - image).abs().max() < 3 / 255
    rounded = JpegLayer(found.luma.float(), found.chroma.float(), bits=None, rounding="hard").alter(z)
    torch.testing.assert_close(rounded, z)  # they are multiples of the steps
    assert read(encoded(grey=True)).planes[1] is None


def test_levels_of_any_integer_dtype_are_decoded():
    found = read(encoded(quality=90, subsampling="4:2:0"))
    tables, size = (found.luma, found.chroma), found.size
    wanted = F.decode_levels(found.levels, *tables, size, "4:2:0")
    narrow = tuple(levels.to(torch.int16) for levels in found.levels)
    assert torch.equal(F.decode_levels(narrow, *(table.to(torch.uint8) for table in tables), size, "4:2:0"), wanted)
    with pytest.raises(TypeError, match="integer"):
        F.decode_levels(tuple(levels.float() for levels in found.levels), *tables, size, "4:2:0")


@pytest.mark.parametrize(
    ("made", "said", "size"),
    [("4:4:4", "4:2:0", (33, 40)), ("4:2:0", "4:4:4", (33, 40)), ("4:2:2", "4:2:0", (33, 40)), ("4:2:0", "4:2:0", (48, 40))],
)
def test_levels_of_another_sampling_or_size_are_refused(made, said, size):
    """They would be other images: a quarter of the chroma, enlarged, or less than the size that was asked for."""
    found = read(encoded(quality=90, subsampling=made))
    assert found.size == (33, 40)
    with pytest.raises(UsageError, match=r"must be of shape \(N, "):
        F.decode_levels(found.levels, found.luma, found.chroma, size, said)
    with pytest.raises(UsageError, match=r"must be of shape \(N, "):
        F.planes_to_images(*found.planes, size, said)
    if said != made:
        with pytest.raises(UsageError, match=f"planes of {said} images"):
            F.scan_bits(found.levels, said)
    with pytest.raises(UsageError, match="2 tensors"):
        F.decode_levels(found.levels[:2], found.luma, found.chroma, found.size, made)
    with pytest.raises(UsageError, match="got 2 tensors"):
        F.scan_bits(found.levels[:2], made)
    with pytest.raises(TypeError, match="integer dtype"):
        F.scan_bits(tuple(levels + 0.9 for levels in found.levels), made)
    y, cb, cr = found.levels
    with pytest.raises(UsageError, match="same images"):  # one image's chroma would do for two
        F.decode_levels((y.repeat(2, 1, 1, 1, 1), cb, cr), found.luma, found.chroma, found.size, made)


def test_planes_of_narrow_integers_are_whole():
    wide = Coefficients((torch.full((1, 1, 1, 8, 8), 900),), torch.full((1, 8, 8), 200), (8, 8))
    narrow = Coefficients((wide.levels[0].to(torch.int16),), wide.tables.to(torch.uint8), (8, 8))
    assert torch.equal(narrow.planes[0], wide.planes[0])


def test_440_comes_back_too():
    """Pillow does not write it: the levels of 4:2:2, block by block on its side."""
    content = encoded(33, 40, quality=70, subsampling="4:2:2")
    found = read(content)
    turned = Coefficients(tuple(k.transpose(1, 2).mT.contiguous() for k in found.levels), found.tables.mT, (40, 33), "4:4:0")
    file = written(turned)
    check_same(read(file), turned)
    assert np.abs(decoded(file).transpose(1, 0, 2).astype(int) - decoded(content)).max() < 12


def test_each_component_may_have_a_table_of_its_own():
    tables = torch.stack((torch.full((8, 8), 3), torch.full((8, 8), 5), torch.arange(1, 65).view(8, 8)))
    levels = tuple(torch.randint(-3, 4, (1, 1, 1, 8, 8)) for _ in range(3))
    found = check_round_trip(written(Coefficients(levels, tables, (8, 8))))
    assert torch.equal(found.tables, tables.int())
    with pytest.raises(UsageError, match="Cb and Cr"):
        _ = found.chroma
    shared = Coefficients(levels, tables[:1].expand(3, 8, 8), (8, 8))
    assert torch.equal(check_round_trip(written(shared)).tables, shared.tables.int())


def test_notes_of_cameras_and_profiles_stay(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(quality=70, exif=exif, icc_profile=b"p" * 70000, comment=b"gone")
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    found = read_coefficients(path)
    assert found.orientation == 6
    write_coefficients(tmp_path / "again.jpg", found)
    with Image.open(tmp_path / "again.jpg") as image:
        assert image.getexif()[0x0112] == 6
        assert image.info["icc_profile"] == b"p" * 70000
    check_same(read_coefficients(tmp_path / "again.jpg"), found)
    assert {file.name for file in tmp_path.iterdir()} == {"photo.jpg", "again.jpg"}


def test_an_exif_block_that_cannot_be_read_turns_nothing():
    assert read(encoded(quality=70, exif=b"Exif\0\0garbage!")).orientation == 1


def test_an_orientation_that_xmp_alone_says_is_found(tmp_path):
    """Which is not written: the EXIF block says it."""
    found = read(encoded(quality=70, xmp=b'<x tiff:Orientation="8"/>'))
    assert found.orientation == 8
    write_coefficients(tmp_path / "again.jpg", found)
    assert read_coefficients(tmp_path / "again.jpg").orientation == 8


def test_any_number_of_segments_is_passed_over():
    content = encoded(quality=70)
    many = content[:2] + b"\xff\xe5\x00\x04ab" * 300 + b"\xff\xfe\x00\x05abc" * 100 + b"\xff" * 7 + content[2:]
    check_same(read(many), read(content))


def test_what_holds_no_levels_is_refused_by_name(tmp_path):
    cmyk, png = io.BytesIO(), io.BytesIO()
    Image.new("CMYK", (9, 9)).save(cmyk, "JPEG")
    Image.new("RGB", (9, 9)).save(png, "PNG")
    arithmetic = encoded().replace(b"\xff\xc0", b"\xff\xc9", 1)
    odd = bytearray(encoded(subsampling="4:2:0"))
    odd[odd.index(b"\xff\xc0") + 11] = 0x41  # Y is sampled 4x1: 4:1:1
    wrong = {
        "cmyk": (cmyk.getvalue(), "holds CMYK"),
        "png": (png.getvalue(), "PNG file"),
        "text": (b"no image at all", "not an image"),
        "empty": (b"", "empty"),
        "rgb": (encoded(keep_rgb=True), "holds RGB"),
        "arithmetic": (arithmetic, "arithmetic"),
        "411": (bytes(odd), "4x1"),
    }
    for name, (content, message) in wrong.items():
        path = tmp_path / f"{name}.jpg"
        path.write_bytes(content)
        with pytest.raises(UsageError, match=message) as caught:
            read_coefficients(path)
        assert str(path) in str(caught.value)
    with pytest.raises(FileNotFoundError):
        read_coefficients(tmp_path / "none.jpg")


@pytest.mark.parametrize("progressive", [False, True])
def test_no_truncated_or_damaged_file_is_read(tmp_path, progressive, capfd):
    content = encoded(quality=70, progressive=progressive)
    scan = content.index(b"\xff\xda")
    path = tmp_path / "cut.jpg"
    for length in (1, 3, scan // 2, scan + 1, scan + 5, (scan + len(content)) // 2, len(content) - 3):
        path.write_bytes(content[:length])
        with pytest.raises(UsageError, match=r"cut\.jpg"):
            read_coefficients(path)
    with pytest.raises(UsageError, match="damaged"):
        read(content[: len(content) - 40] + b"\xff\xd9")
    assert capfd.readouterr().err == ""  # libjpeg's own words are in the error
    assert [file.name for file in tmp_path.iterdir()] == ["cut.jpg"]


def test_a_damaged_scan_leaves_nothing_behind(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    content = bytearray(encoded(quality=70, progressive=True))
    codes = content.index(b"\xff\xc4", content.index(b"\xff\xda"))  # of a later scan
    content[codes + 5 : codes + 21] = b"\xff" * 16
    with pytest.raises(UsageError, match="damaged"):
        read(bytes(content))
    assert not any(tmp_path.iterdir())
    assert capfd.readouterr().err == ""


def test_what_others_write_meanwhile_is_no_objection(capfd):
    with coefficients._objections() as said:
        os.write(2, b"epoch 3\nCorrupt JPEG data: bad Huffman code\nCorrupt JPEG data: bad Huffman code\n")
    assert said == ["Corrupt JPEG data: bad Huffman code"]
    assert capfd.readouterr().err == "epoch 3\n"


LEVELS = tuple(torch.zeros(1, 2, 2, 8, 8, dtype=torch.int32) for _ in range(3))
TABLES = torch.ones(3, 8, 8, dtype=torch.int32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subsampling": "4:1:1"}, "subsampling must be one of 4:4:4"),
        ({"subsampling": "4:2:0"}, "levels of Cb"),
        ({"levels": LEVELS[:2]}, "got 2 tensors"),
        ({"levels": tuple(k.float() for k in LEVELS)}, "levels must be whole numbers"),
        ({"tables": TABLES.float()}, "tables must be whole numbers"),
        ({"tables": 0 * TABLES}, "steps from 1 to 32767, got 0"),
        ({"tables": TABLES[:1]}, "tables"),
        ({"size": (9, 17)}, "levels of Y"),
        ({"size": (0, 16)}, r"\(0, 16\)"),
        ({"size": (16.0, 16)}, "16.0"),
    ],
)
def test_parts_that_do_not_belong_together_are_refused(change, message):
    with pytest.raises(UsageError, match=message):
        Coefficients(**{"levels": LEVELS, "tables": TABLES, "size": (16, 16), **change})


def test_what_no_file_holds_is_refused_and_nothing_is_written(tmp_path):
    several = Coefficients(tuple(k.repeat(2, 1, 1, 1, 1) for k in LEVELS), TABLES, (16, 16))
    large = tuple(k.clone() for k in LEVELS)
    large[1][0, 0, 1, 3, 3] = -70000
    for given, message in ((several, "one image"), (Coefficients(large, TABLES, (16, 16)), "too large")):
        with pytest.raises(UsageError, match=message):
            write_coefficients(tmp_path / "x.jpg", given)
    with pytest.raises(OSError, match="nowhere"):
        write_coefficients(tmp_path / "nowhere" / "x.jpg", Coefficients(LEVELS, TABLES, (16, 16)))
    assert not any(tmp_path.iterdir())
    with pytest.raises(UsageError, match="binary"):
        read_coefficients(io.StringIO("text"))
