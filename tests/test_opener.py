"""Image files as people have them: odd, turned, damaged, huge. One opener, with the same answer in every command."""

import io
import json
import re
import shutil
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin, features

from commands import one_error, run_command
from jpegdl.codec import CompressConfig, compress_folder
from jpegdl.data import Data, DataConfig, TestTransform
from jpegdl.data.pixels import eight_bits, middle, orientation_note, resized, to_rgb
from jpegdl.errors import DataWarning, UsageError
from jpegdl.opener import BadImage, NotAnImage, open_image
from odd import png

ODD = Path(__file__).parents[2] / "shared" / "review" / "odd-files"
Y, X = np.mgrid[:32, :48]
GRADIENT = np.stack([X * 5, Y * 7, 255 - (X + Y) * 3], -1).clip(0, 255).astype(np.uint8)
RGB = Image.fromarray(GRADIENT)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def note(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def tiff(pixels, bits, *, photometric=1, sample_format=1, order="<"):
    """A grey TIFF file of one strip; ``pixels`` are bytes, packed."""
    height, width = 1, len(pixels) * 8 // bits
    tags = [(256, 4, width), (257, 4, height), (258, 3, bits), (259, 3, 1), (262, 3, photometric), (273, 4, 8)]
    tags += [(277, 3, 1), (278, 4, height), (279, 4, len(pixels)), (339, 3, sample_format)]
    body = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", 8 + len(pixels)) + pixels
    body += struct.pack(order + "H", len(tags))
    for tag, kind, value in tags:
        body += struct.pack(order + "HHI", tag, kind, 1)
        body += struct.pack(order + "I", value) if kind == 4 else struct.pack(order + "HH", value, 0)
    return body + bytes(4)


def packed_12(values):
    pairs = zip(values[::2], values[1::2], strict=True)
    return b"".join(bytes((a >> 4, (a & 15) << 4 | b >> 8, b & 255)) for a, b in pairs)


def grey_of(content):
    return np.asarray(to_rgb(open_image(io.BytesIO(content))))[0, :, 0].tolist()


# ----------------------------------------------------------------------------------------------------------- odd grey values


def test_grey_of_any_number_of_bits_keeps_its_range():
    assert grey_of(tiff(packed_12([0, 2048, 4095, 16]), 12)) == [0, 128, 255, 1]
    sixteen = np.array([0, 32768, 65535, 257], np.uint16)
    assert grey_of(tiff(sixteen.tobytes(), 16)) == [0, 128, 255, 1]
    assert grey_of(tiff(sixteen.byteswap().tobytes(), 16, order=">")) == [0, 128, 255, 1]
    assert grey_of(tiff(bytes([0, 128, 255]), 8)) == [0, 128, 255]
    assert grey_of(tiff(bytes([0b00011011]), 2)) == [0, 85, 170, 255]


def test_white_is_zero_in_some_tiff_files():
    sixteen = np.array([0, 32768, 65535, 257], np.uint16)
    assert grey_of(tiff(sixteen.tobytes(), 16, photometric=0)) == [255, 127, 0, 254]
    assert grey_of(tiff(bytes([0, 128, 255]), 8, photometric=0)) == [255, 127, 0]


def test_16_bits_are_rounded_to_the_nearest_of_8():
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = np.rint(every / 257).astype(np.uint8)
    assert np.array_equal(np.asarray(eight_bits(Image.fromarray(every))), expected)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (tiff(np.array([-5, 5], np.int16).tobytes(), 16, sample_format=2), "signed 16-bit integer pixels have no fixed range"),
        (tiff(bytes([200, 5]), 8, sample_format=2), "signed 8-bit integer pixels have no fixed range"),
        (tiff(np.array([5, 9], np.uint32).tobytes(), 32), "32-bit integer pixels have no fixed range"),
        (tiff(np.array([0.5], np.float32).tobytes(), 32, sample_format=3), "floating-point pixels have no fixed range"),
        (tiff(bytes(5), 10), "^TIFF files of 10-bit pixels are not read: save it with 8 or 16 bits a sample, unsigned"),
        (tiff(bytes(7), 14), "^TIFF files of 14-bit pixels are not read: save it with 8 or 16 bits"),
        (tiff(bytes(7), 14, order=">"), "^TIFF files of 14-bit pixels are not read"),
        (tiff(bytes(2), 16, sample_format=3), "^TIFF files of 16-bit floating-point pixels are not read: save it with 8 or"),
        (tiff(bytes(3), 24, sample_format=2), "^TIFF files of 24-bit signed integer pixels are not read"),
        (tiff(bytes(8), 32, sample_format=5), "^TIFF files of 32-bit complex integer pixels are not read"),
        (tiff(bytes(5), 10)[:20], "begins as TIFF does, and is truncated, damaged or of a kind that Pillow does not read"),
    ],
)
def test_grey_without_a_range_is_refused_by_what_it_is(content, message):
    with pytest.raises(BadImage, match=message):
        grey_of(content)


def test_compress_writes_the_same_grey(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.tif").write_bytes(tiff(packed_12([0] * 16 + [4095] * 16), 12))
    compress_folder(tmp_path / "in", tmp_path / "out", CompressConfig(tables="standard:100"))
    grey = np.asarray(Image.open(tmp_path / "out" / "a.jpg"))[0]
    assert grey[:8].max() < 3
    assert grey[-8:].min() > 252


# -------------------------------------------------------------------------------------------------------------- orientation

TURNED = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
    "TIFF, compressed": {"compression": "tiff_lzw"},
}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", TURNED)
def test_every_format_is_taken_as_stored_or_turned(kind, orientation):
    content = encoded(RGB, kind.partition(",")[0], exif=note(orientation), **TURNED[kind])
    turns = {2: np.fliplr, 3: lambda a: a[::-1, ::-1], 4: np.flipud, 5: lambda a: a.swapaxes(0, 1)}
    turns |= {6: lambda a: np.rot90(a, -1), 7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: np.rot90}
    upright = turns.get(orientation, lambda a: a)(GRADIENT)
    for follow, expected in (("stored", GRADIENT), ("follow", upright)):
        pixels = np.asarray(to_rgb(open_image(io.BytesIO(content)), follow))
        assert pixels.shape == expected.shape
        assert np.abs(pixels.astype(int) - expected).max() < 12  # JPEG's loss


@pytest.mark.parametrize("mode", ["RGB", "L", "I;16", "P", "RGBA", "CMYK", "1", "LA"])
@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_files_are_read_as_the_same_bytes_are(tmp_path, mode, orientation):
    """Pillow scrambles some turned TIFF files that it opens by name."""
    image = Image.fromarray((X * 1000).astype(np.uint16)) if mode == "I;16" else RGB.convert(mode)
    file = tmp_path / "a.tif"
    image.save(file, tiffinfo={274: orientation})
    for follow in ("stored", "follow"):
        from_bytes = to_rgb(open_image(io.BytesIO(file.read_bytes())), follow)
        assert to_rgb(open_image(file), follow).tobytes() == from_bytes.tobytes()
        assert to_rgb(Image.open(file), follow).tobytes() == from_bytes.tobytes()
    assert to_rgb(open_image(file)).tobytes() == to_rgb(image).tobytes()


def test_16_bit_grey_is_turned_too():
    grey = Image.fromarray((X * 1000).astype(np.uint16))
    content = encoded(grey, "TIFF", exif=note(6))
    assert to_rgb(open_image(io.BytesIO(content))).size == (48, 32)
    assert to_rgb(open_image(io.BytesIO(content)), "follow").size == (32, 48)


def turned_set(folder, kinds=("png", "tif")):
    for part in ("train", "test"):
        for index, name in enumerate("ab"):
            (folder / part / name).mkdir(parents=True)
            for ending in kinds:
                noted = {"exif": note(6)} if index else {}
                Image.fromarray(GRADIENT + index).save(folder / part / name / f"{part}.{ending}", **noted)
    return folder


def test_a_set_says_how_many_images_are_turned_and_turns_them_where_it_is_told(tmp_path):
    turned_set(tmp_path)
    stored = Data(DataConfig(path=str(tmp_path), size=32))
    with pytest.warns(UserWarning, match="2 of 4.*EXIF orientation.*--data.orientation follow"):
        stored.load()
    assert torch.equal(stored.test[2][0], stored.test[3][0])  # PNG and TIFF
    follow = Data(DataConfig(path=str(tmp_path), size=32, orientation="follow"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        follow.load()
    assert torch.equal(follow.test[2][0], follow.test[3][0])
    assert torch.equal(follow.test[0][0], stored.test[0][0])
    assert torch.equal(follow.test[2][0], torch.rot90(stored.test[2][0], -1, (1, 2)))
    with pytest.raises(UsageError, match="data.orientation.*'up'"):
        Data(DataConfig(path=str(tmp_path), orientation="up"))


@pytest.mark.parametrize("blind", [False, True])
def test_what_is_said_of_held_out_images_calls_them_so(tmp_path, blind):
    turned_set(tmp_path)
    for name in "ab":
        (tmp_path / "validation" / name).mkdir(parents=True)
        Image.fromarray(GRADIENT).save(tmp_path / "validation" / name / "c.png", exif=note(6))
    shutil.copy(tmp_path / "train" / "a" / "train.png", tmp_path / "validation" / "a" / "d.png")
    data = Data(DataConfig(path=str(tmp_path), size=32))
    data = data.blind() if blind else data
    with pytest.warns(DataWarning) as caught:
        data.load()
    with pytest.warns(DataWarning) as also:
        _ = data.fingerprint
    said = [str(each.message) for each in [*caught, *also]]
    assert sum("2 of 3 held-out images should be turned" in text for text in said) == 1
    assert sum("of 3 held-out images is a training image too" in text for text in said) == 1
    assert sum("held-out picture" in text for text in said) == 1  # c.png is in both classes
    assert any("test images" in text for text in said) == (not blind)


def test_a_set_that_is_not_kept_decoded_is_looked_at(tmp_path):
    turned_set(tmp_path)
    with pytest.warns(UserWarning, match="2 of 4.*EXIF orientation"):
        Data(DataConfig(path=str(tmp_path), size=32, cache="none")).test.load()


def test_use_prepares_photos_as_the_test_did(tmp_path):
    turned_set(tmp_path)
    for orientation in ("stored", "follow"):
        config = DataConfig(path=str(tmp_path), size=24, resize=32, orientation=orientation)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = Data(config)
            data.load()
        for index, file in ((2, "b/test.png"), (3, "b/test.tif")):
            assert torch.equal(TestTransform(config)(open_image(tmp_path / "test" / file)), data.test[index][0])


def test_a_damaged_note_is_no_reason_not_to_read_the_image():
    content = encoded(RGB, "JPEG")
    exif = b"Exif\0\0II*\0\xff\xff\xff\x7f"
    broken = content[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + content[2:]
    image = open_image(io.BytesIO(broken))
    assert orientation_note(image) == 1
    assert to_rgb(image, "follow").size == (48, 32)


# ---------------------------------------------------------------------------------------------------------- damaged and huge


def test_only_formats_that_are_decoded_in_this_process_are_opened(tmp_path, monkeypatch):
    marks = tmp_path / "started"
    gs = tmp_path / "bin" / "gs"
    gs.parent.mkdir()
    gs.write_text(f"#!/bin/sh\ntouch {marks}\n", encoding="utf-8")
    gs.chmod(0o755)
    monkeypatch.setenv("PATH", f"{gs.parent}:/usr/bin:/bin")
    file = tmp_path / "a.png"
    RGB.save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(file)
    with pytest.raises(NotAnImage, match="EPS files are not read"):
        to_rgb(open_image(file))
    assert not marks.exists()


@pytest.mark.skipif(not features.check("avif"), reason="this Pillow reads no AVIF")
def test_whatever_a_decoder_raises_is_of_that_file(tmp_path):
    content = bytearray(encoded(RGB, "AVIF"))
    messages = set()
    for at in range(0, len(content), 7):
        damaged = content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]
        try:
            to_rgb(open_image(io.BytesIO(bytes(damaged))))
        except BadImage as error:
            messages.add(str(error))
    assert messages
    assert all("\n" not in message and "object at" not in message for message in messages)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "PPM", "JPEG2000"])
def test_damaged_files_are_read_or_refused(kind):
    rng = np.random.default_rng(0)
    content, messages = encoded(RGB.convert("P") if kind == "GIF" else RGB, kind), []
    for _ in range(150):
        damaged = bytearray(content)
        for at in rng.integers(0, min(len(content), 400), 2):
            damaged[at] = rng.integers(256)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                image = open_image(io.BytesIO(bytes(damaged[: rng.integers(1, len(damaged) + 1)])))
                if image.width * image.height < 1e6:
                    resized(image, 32, "bicubic")
            except BadImage as error:
                messages.append(str(error))
    assert all(message and "\n" not in message for message in messages)


def test_no_memory_is_an_error_of_the_file(monkeypatch):
    image = open_image(io.BytesIO(encoded(RGB, "PNG")))

    def no_room():
        raise MemoryError

    monkeypatch.setattr(image, "load", no_room)
    with pytest.raises(BadImage, match="there is not enough memory for it"):
        to_rgb(image)


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (7, 0)])
def test_images_without_pixels_are_refused(size):
    with pytest.raises(BadImage, match=f"it has no pixels: it is {size[0]} wide and {size[1]} high"):
        resized(Image.new("RGB", size), 32, "bicubic")


def test_large_photographs_are_read_and_larger_ones_refused_in_plain_words():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow's of an attack
        assert open_image(io.BytesIO(png(16320, 12240, data=b""))).size == (16320, 12240)  # a telephone's 200 megapixels
        with pytest.raises(BadImage, match="it has 800.*537"):
            to_rgb(open_image(io.BytesIO(png(40000, 20000, data=b""))))


def test_large_metadata_is_no_reason_not_to_read_the_image():
    text = PngImagePlugin.PngInfo()
    text.add_text("note", "x" * (3 << 20), zip=True)
    assert to_rgb(open_image(io.BytesIO(encoded(RGB, "PNG", pnginfo=text)))).size == (48, 32)
    profile = b"\0" * 16 + b"RGB " + b"\0" * (2 << 20)
    assert to_rgb(open_image(io.BytesIO(encoded(RGB, "PNG", icc_profile=profile)))).size == (48, 32)
    bomb = b"note\0\0" + zlib.compress(bytes(2**26 + 1))
    chunk = struct.pack(">I", len(bomb)) + b"zTXt" + bomb + struct.pack(">I", zlib.crc32(b"zTXt" + bomb))
    with pytest.raises(BadImage, match="64 MiB unpacked:.*exiftool -all="):
        to_rgb(open_image(io.BytesIO(png(4, 4, chunk))))


def test_limits_that_a_user_has_set_stay(fresh):
    code = (
        "import io; from PIL import Image; Image.MAX_IMAGE_PIXELS = 100\n"
        "from jpegdl.opener import open_image\n"
        "file = io.BytesIO(); Image.new('L', (50, 50)).save(file, 'PNG')\n"
        "try: open_image(file)\n"
        "except ValueError as error: print(type(error).__name__, Image.MAX_IMAGE_PIXELS)\n"
    )
    assert fresh(code).stdout.split() == ["BadImage", "100"]


@pytest.mark.parametrize("size", [(20000, 1), (1, 20000), (4000, 2)])
def test_thin_images_are_cut_before_they_are_scaled(size, monkeypatch):
    largest = []
    real = Image.Image.resize

    def resize(image, to, *rest, **options):
        largest.append(to[0] * to[1])
        return real(image, to, *rest, **options)

    monkeypatch.setattr(Image.Image, "resize", resize)
    shade = np.zeros(size[::-1], np.uint8)
    long = shade if size[0] > size[1] else shade.T  # a view
    long[:, long.shape[1] // 4 : -long.shape[1] // 4] = 200
    pixels = TestTransform(DataConfig(size=224, resize=256))(Image.fromarray(shade))
    assert pixels.shape == (3, 224, 224)
    assert (255 * pixels).round().unique().tolist() == [200]  # the middle of the image
    assert max(largest) <= 64 * 256 * 256


def test_images_up_to_64_times_as_long_as_wide_are_whole():
    wide = Image.new("L", (640, 10))
    assert middle(wide) is wide
    assert middle(Image.new("L", (641, 10))).size == (640, 10)
    assert middle(Image.new("L", (10, 900))).size == (10, 640)


# ------------------------------------------------------------------------------------------------------------- left-out images


def broken_set(folder, broken=7):
    for part in ("train", "test"):
        for name in "ab":
            (folder / part / name).mkdir(parents=True)
            for index in range(10):
                Image.fromarray(GRADIENT[: 20 + index]).save(folder / part / name / f"{index}.png")
    for index in range(broken):
        (folder / "train" / "a" / f"{index}.png").write_bytes(b"no image")
    return folder


@pytest.mark.parametrize("cache", ["memory", "none"])
@pytest.mark.parametrize("workers", [0, 2])
def test_images_that_are_left_out_are_named_and_counted(tmp_path, cache, workers):
    broken_set(tmp_path)
    data = Data(DataConfig(path=str(tmp_path), size=16, skip_corrupt=True, cache=cache, workers=workers, batch_size=4))
    with pytest.warns(UserWarning, match=r"left out 7 of 20.*a/0.png \(.*a/4.png.*, and 2 more"):
        data.load()
    assert sorted(Path(name).name for name in data.left_out) == [f"{index}.png" for index in range(7)]
    assert len(data.train) == 13
    assert list(data.train.targets) == [0] * 3 + [1] * 10
    assert sum(len(labels) for _, labels in data.train_dataloader()) == 12
    assert data.train[0][0].shape == (3, 16, 16)


def test_images_that_stop_the_training_are_all_named(tmp_path, capsys):
    broken_set(tmp_path)
    with pytest.raises(UsageError, match="7 of 20.*0.png.*, and 2"):
        Data(DataConfig(path=str(tmp_path), size=16)).load()
    error = one_error(
        capsys, "train", "--config", "demo", "--arm", "plain", "--data.path", str(tmp_path), "--output", str(tmp_path / "r")
    )
    assert error.count("0.png") == 1


# ---------------------------------------------------------------------------------------------------------- the review's files


@pytest.mark.skipif(not ODD.is_dir(), reason="the review's files are not here")
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("avif_named.jpg", (48, 32)),
        ("black12.tif", None),
        ("signed16.tif", "signed 16-bit"),
        ("turn6.jpg", (48, 32)),
        ("turn6.tif", (48, 32)),
        ("cmyk_noadobe.jpg", (48, 32)),
        ("eps_named.png", "EPS files are not read"),
        ("thin_8000x1.png", (8000, 1)),
    ],
)
def test_the_reviews_files(name, expected):
    if isinstance(expected, str):
        with pytest.raises(BadImage, match=expected):
            to_rgb(open_image(ODD / name))
        return
    image = to_rgb(open_image(ODD / name))
    if expected is None:
        assert np.asarray(image).max() == 255
    else:
        assert image.size == expected


@pytest.mark.usefixtures("forked_workers")
def test_a_comparison_says_which_images_were_left_out(tmp_path, capsys):
    broken_set(tmp_path / "set")
    common = ["compare", "--config", "demo", "--arms", "[plain]", "--seeds", "2", "--jobs", "2", "--training.epochs", "1"]
    common += [
        "--backbone",
        "cifar_resnet8",
        "--data.path",
        str(tmp_path / "set"),
        "--data.size",
        "16",
        "--data.batch_size",
        "4",
    ]
    error = one_error(capsys, *common, "--output", str(tmp_path / "refused"))
    assert re.search(r"7 of 20 images cannot be decoded: .*a/0.png .*, and 2 more; repair", error)
    assert not list((tmp_path / "refused").rglob("result.json"))
    status, _, err = run_command(capsys, *common, "--output", str(tmp_path / "runs"), "--data.skip-corrupt", "true")
    assert status == 0
    assert err.count("left out 7 of 20 images") == 1
    folder = tmp_path / "runs" / "demo"
    result = json.loads((folder / "plain" / "0" / "result.json").read_text(encoding="utf-8"))
    assert [Path(name).name for name in result["data"]["left_out"]] == [f"{index}.png" for index in range(7)]
    for file in ("summary.md", "report.html"):
        assert "Left out 7 images that cannot be decoded" in (folder / file).read_text(encoding="utf-8")
