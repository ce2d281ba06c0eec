"""Images of any mode to 8-bit RGB, and what is said of those that cannot be read."""

import io
import itertools
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from jpegdl.data import Data, DataConfig, ImageSet, TestTransform
from jpegdl.data.pixels import to_rgb
from jpegdl.errors import UsageError


@pytest.fixture
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow's, at every image
        yield


def _folder(root, image, name="a.png", **options):
    """Two classes of one image each; the first in ``name``."""
    for split, label in itertools.product(("train", "test"), ("ant", "bee")):
        (root / split / label).mkdir(parents=True)
        if isinstance(image, bytes):
            (root / split / label / name).write_bytes(image)
        else:
            image.save(root / split / label / name, **options)
    return DataConfig(path=str(root), size=min(image.size) if isinstance(image, Image.Image) else 2, cache="none")


def _bytes(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


# ------------------------------------------------------------------------------------------------------------------ 16, 32 bits

RANGE = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
SCALED = np.rint(RANGE / 257).astype(np.uint8)


def _sixteen(mode):
    if mode == "I":  # as some versions of Pillow open a 16-bit PNG
        image = Image.fromarray(RANGE.astype(np.int32))
        image.format = "PNG"
        return image
    return Image.frombytes(mode, RANGE.shape, RANGE.astype(">u2" if mode == "I;16B" else "<u2").tobytes())


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_sixteen_bits_are_scaled_by_their_range(mode):
    rgb = np.asarray(to_rgb(_sixteen(mode)))
    assert rgb.shape == (256, 256, 3)
    for channel in range(3):
        assert np.array_equal(rgb[:, :, channel], SCALED)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.png", _bytes(Image.fromarray(RANGE), "PNG")),
        ("a.tif", _bytes(Image.fromarray(RANGE), "TIFF")),
        ("a.pgm", b"P5 256 256 65535\n" + RANGE.astype(">u2").tobytes()),
    ],
)
@pytest.mark.parametrize("crop", ["random", "resized"])
def test_files_of_sixteen_bits_are_scaled(tmp_path, name, content, crop):
    config = _folder(tmp_path, content, name)
    config.size, config.crop = 256, crop
    data = Data(config)
    for images in (data.train, data.test):
        assert torch.equal(images[0][0][1], v2.functional.to_dtype(torch.from_numpy(SCALED), torch.float32, scale=True))


@pytest.mark.parametrize(("mode", "kind"), [("F", "floating-point"), ("I", "signed 32-bit integer")])
def test_pixels_without_a_range_are_refused_by_file_and_mode(tmp_path, mode, kind):
    pixels = np.linspace(0, 1000, 16).reshape(4, 4)
    config = _folder(tmp_path, Image.fromarray(pixels.astype(np.float32 if mode == "F" else np.int32)), "depth.tif")
    message = f"train/ant/depth.tif cannot be decoded .{kind} pixels have no fixed range .* with 8 or 16 bits"
    with pytest.raises(UsageError, match=message):
        _ = Data(config).train[0]


# ------------------------------------------------------------------------------------------------------------------ other modes

COLORS = np.array([[[200, 30, 90], [0, 255, 10]], [[7, 8, 9], [255, 255, 255]]], dtype=np.uint8)
RGB = Image.fromarray(COLORS)


def _see_through(image):
    image.putalpha(Image.fromarray(np.array([[0, 255], [128, 1]], dtype=np.uint8)))
    return image


def _palette(**info):
    image = Image.new("P", (2, 2))
    image.putpalette(COLORS.reshape(-1).tolist())
    image.putdata([0, 1, 2, 3])
    image.info.update(info)
    return image


@pytest.mark.parametrize(
    ("image", "kind", "options"),
    [
        (RGB, "PNG", {}),
        (_see_through(RGB.copy()), "PNG", {}),  # transparency is dropped
        (_palette(), "PNG", {}),
        (_palette(), "PNG", {"transparency": 1}),
        (_palette(), "PNG", {"transparency": bytes([0, 255, 128, 1])}),
        (RGB, "PNG", {"transparency": (200, 30, 90)}),
        (RGB, "WEBP", {"lossless": True}),
    ],
)
def test_colors_are_kept_whatever_is_transparent(no_warnings, image, kind, options):
    assert np.array_equal(np.asarray(to_rgb(Image.open(io.BytesIO(_bytes(image, kind, **options))))), COLORS)


def test_grey_with_and_without_transparency():
    grey = Image.fromarray(COLORS[:, :, 0])
    for image in (grey, _see_through(grey.convert("LA"))):
        assert np.array_equal(np.asarray(to_rgb(image)), np.stack([COLORS[:, :, 0]] * 3, axis=-1))


def test_one_bit_is_black_and_white():
    image = Image.fromarray(np.array([[True, False], [False, True]]))
    assert image.mode == "1"
    assert np.asarray(to_rgb(image))[:, :, 2].tolist() == [[255, 0], [0, 255]]


def test_cmyk_is_ink_on_paper():
    inks = np.array([[[0, 0, 0, 0], [255, 0, 0, 0]], [[0, 255, 255, 0], [0, 0, 0, 255]]], dtype=np.uint8)
    file = io.BytesIO(_bytes(Image.fromarray(inks, "CMYK"), "TIFF"))
    assert np.asarray(to_rgb(Image.open(file))).tolist() == [[[255, 255, 255], [0, 255, 255]], [[255, 0, 0], [0, 0, 0]]]


def test_ycbcr_is_converted_back():
    back = np.asarray(to_rgb(RGB.convert("YCbCr"))).astype(int)
    assert abs(back - COLORS).max() <= 2


def test_a_cameras_note_to_turn_an_image_is_not_followed(tmp_path):
    turned = Image.Exif()
    turned[0x0112] = 6
    image = Image.fromarray(np.repeat(np.arange(0, 250, 25, dtype=np.uint8)[:, None], 10, axis=1))  # darkest on top
    config = _folder(tmp_path, image, exif=turned)
    with Image.open(tmp_path / "train" / "ant" / "a.png") as file:
        assert file.getexif()[0x0112] == 6
    pixels = Data(config).test[0][0][0]
    assert (pixels[1:] > pixels[:-1]).all()


# -------------------------------------------------------------------------------------------------------------------- bad files

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8))


@pytest.mark.parametrize("ending", ["png", "jpg", "webp", "tif", "bmp", "ppm"])
@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_a_truncated_file_says_so(tmp_path, ending, share):
    kind = {"jpg": "JPEG", "tif": "TIFF"}.get(ending, ending.upper())
    content = _bytes(NOISE, kind)
    config = _folder(tmp_path, content[: int(share * len(content))], f"cut.{ending}")
    with pytest.raises(
        UsageError, match=rf"(?i)train/ant/cut.{ending} cannot be decoded .*truncated.*--data.skip-corrupt true$"
    ):
        _ = Data(config).train[0]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "the file is empty"),
        (b"<html>not found</html>", "the file is not an image"),
        (b"\x89PNG\r\n\x1a\n", "the file begins as PNG does, and is truncated, damaged or of a kind"),
        (b"II*\0\x08\0\0\0\0\0", "the file begins as TIFF does, and is truncated, damaged or of a kind"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "EPS files are not read: save it as PNG or JPEG"),
    ],
)
def test_files_that_are_no_images_are_named_without_pillows_objects(tmp_path, content, why):
    with pytest.raises(UsageError, match=f"train/ant/a.png cannot be decoded .{why}") as error:
        _ = Data(_folder(tmp_path, content)).train[0]
    assert "object at" not in str(error.value)


@pytest.mark.parametrize("name", ["a.png", "two\nlines.png"])
@pytest.mark.parametrize("loader", ["train_dataloader", "val_dataloader"])
def test_loader_processes_hand_on_the_files_name(tmp_path, name, loader):
    config = _folder(tmp_path, b"no image", name)
    config.workers = 1
    with pytest.raises(UsageError) as error:
        list(getattr(Data(config), loader)())
    kind, _, message = str(error.value).rstrip().splitlines()[-1].partition(": ")  # of the loader process's traceback
    assert kind.endswith("UsageError")
    split = "train" if loader.startswith("train") else "test"
    expected = rf"image .*/{split}/(ant|bee)/{name.replace(chr(10), ' ')} cannot be decoded .* --data.skip-corrupt true"
    assert re.fullmatch(expected, message)


# ---------------------------------------------------------------------------------------------------------------- interpolation


@pytest.mark.parametrize("crop", ["random", "resized"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_images_are_scaled_by_the_interpolation_that_is_asked_for(tmp_path, crop, interpolation):
    """Pillow's are the pixels to expect, to a grey level where others compute them."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    config = replace(_folder(tmp_path, image), size=20, resize=24, crop=crop, interpolation=interpolation)
    left = (36 - 20) // 2
    expected = image.resize((36, 24), Image.Resampling[interpolation.upper()]).crop((left, 2, left + 20, 22))
    expected = v2.functional.pil_to_tensor(expected).float() / 255
    other = "bilinear" if interpolation == "bicubic" else "bicubic"
    assert (Data(replace(config, interpolation=other)).test[0][0] - expected).abs().max() > 10 / 255
    test = Data(config)
    for data in (test.test[0][0], TestTransform(config)(image)):
        assert (data - expected).abs().max() < 1.5 / 255
    # A resized training crop, of an image that is all there is to choose from.
    whole = replace(config, scale=1.0, flip=False, resize=None)
    training = ImageSet(_Square(), whole, train=True)[0, 1][0]
    square = v2.functional.pil_to_tensor(_Square().read(0).resize((20, 20), Image.Resampling[interpolation.upper()])).float()
    if crop == "resized":
        assert (training - square / 255).abs().max() < 1.5 / 255
    assert (ImageSet(_Square(), whole, train=False)[0][0] - square / 255).abs().max() < 1.5 / 255


class _Square:
    targets = (0,)

    def read(self, index):
        return Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 40, 3), dtype=np.uint8))
