"""Crops, flips and real JPEG of single images, and of batches on a device."""

import io
import itertools

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torchvision.transforms import v2

from jpegdl import jpeg
from jpegdl.data import Data, DataConfig, images

CPU = torch.device("cpu")
BICUBIC = v2.InterpolationMode.BICUBIC


@pytest.fixture
def folder(tmp_path):
    """Smooth images of two classes and of many shapes."""
    random = np.random.default_rng(0)
    for split, label, i in itertools.product(("train", "test"), ("ant", "bee"), range(4)):
        (tmp_path / split / label).mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(random.integers(0, 256, (9, 11, 3), dtype=np.uint8))
        coarse.resize((50 + 17 * i, 90 - 13 * i), Image.Resampling.BICUBIC).save(tmp_path / split / label / f"{i}.png")
    return tmp_path


def _data(path, **options):
    data = Data(DataConfig(**{"path": str(path), "size": 32, "resize": 40, "batch_size": 4} | options), seed=2)
    data.load()
    return data


def _whole(path, index):
    file = sorted((path / "train").rglob("*.png"))[index]
    return v2.functional.pil_to_tensor(Image.open(file))


def _epoch(data, epoch=0):
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return torch.cat([images for images, _ in loader])


# ---------------------------------------------------------------------------------------------------------- resized crops


def test_resized_crop_is_torchvisions(folder):
    data = _data(folder, crop="resized", scale=0.3)
    crop = v2.Compose([v2.RandomResizedCrop(32, (0.3, 1), interpolation=BICUBIC), v2.RandomHorizontalFlip()])
    for index, seed in itertools.product(range(8), range(3)):
        torch.manual_seed(seed)
        expected = crop(_whole(folder, index))
        torch.testing.assert_close(data.train[index, seed][0], expected / 255)


def test_resized_crop_tests_and_calibrates_on_the_middle(folder):
    random, resized = (_data(folder, crop=crop) for crop in ("random", "resized"))
    for i in range(8):
        assert torch.equal(resized.test[i][0], random.test[i][0])
        torch.testing.assert_close(resized.train[i][0], random.train[i][0], rtol=0, atol=1.01 / 255)  # Pillow's, torchvision's


@pytest.mark.parametrize("cache", ["auto", "memory"])
@pytest.mark.parametrize("crop", ["random", "resized"])
@pytest.mark.parametrize("workers", [0, 2])
def test_where_images_are_kept_changes_none_of_them(folder, crop, cache, workers):
    kept, lazy = _data(folder, crop=crop, cache=cache, workers=workers), _data(folder, crop=crop, cache="none")
    assert kept.train._cache is not None
    assert lazy.train._cache is None
    for key in (1, 6, (3, 11), (7, 5)):
        assert torch.equal(kept.train[key][0], lazy.train[key][0])


def test_whole_images_are_kept_where_they_take_little_memory(folder, monkeypatch):
    size = sum(_whole(folder, i).numel() for i in range(8))
    for limit, kept in ((size + 1, True), (size, False)):
        monkeypatch.setattr("jpegdl.data.images.CACHE_BYTES", limit)
        assert (_data(folder, crop="resized").train._cache is not None) == kept


# ------------------------------------------------------------------------------------------------------------- real JPEG


def _pillow(image, quality):
    file = io.BytesIO()
    v2.functional.to_pil_image(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return v2.functional.to_dtype(v2.functional.pil_to_tensor(Image.open(file)), torch.float32, scale=True)


@pytest.mark.parametrize("quality", [10, 50, 90])
def test_jpeg_is_pillows(folder, quality):
    plain = _data(folder)
    coded = _data(folder, jpeg_train=[quality, quality], jpeg_test=quality)
    for key in ((1, 4), (6, 9)):
        original = (plain.train[key][0] * 255).round().byte()
        expected = _pillow(original, quality)
        assert (expected - original / 255).abs().max() > 3 / 255  # a file that loses something
        torch.testing.assert_close(coded.train[key][0], expected, rtol=0, atol=1.01 / 255)
    test = (plain.test[2][0] * 255).round().byte()
    torch.testing.assert_close(coded.test[2][0], _pillow(test, quality), rtol=0, atol=1.01 / 255)
    assert torch.equal(coded.train[2][0], plain.train[2][0])  # calibration sees the images as they are


def test_jpeg_quality_is_drawn_between_the_two_from_the_images_seed(folder):
    plain, coded = _data(folder), _data(folder, jpeg_train=[20, 23])
    found = set()
    for seed in range(24):
        image, original = coded.train[5, seed][0], (plain.train[5, seed][0] * 255).round().byte()
        assert torch.equal(image, coded.train[5, seed][0])
        errors = [(image - _pillow(original, quality)).abs().sum().item() for quality in range(18, 26)]
        found.add(18 + int(np.argmin(errors)))
    assert found == {20, 21, 22, 23}


@pytest.mark.parametrize("size", [32, 64, 96, 151, 224])
def test_the_codecs_kernels_give_the_pixels_of_files(size):
    """Whichever of the two an arm takes: its numbers are the same."""
    image = torch.from_numpy(skimage.data.astronaut()[60 : 60 + size, 180 : 180 + size]).permute(2, 0, 1).contiguous()
    for quality in (1, 30, 50, 75, 95, 100):
        expected = v2.functional.jpeg(image, quality)
        assert torch.equal(images._through_file(image, quality), expected)
        assert torch.equal(jpeg(image, quality, subsampling="4:2:0"), expected)
    transform = images._JpegFiles([30, 95])
    torch.manual_seed(2)
    ours = [transform(image) for _ in range(3)]
    torch.manual_seed(2)
    assert all(torch.equal(one, v2.JPEG((30, 95))(image)) for one in ours)


def test_jpeg_in_tests_leaves_the_global_generator_alone(folder):
    data = _data(folder, jpeg_test=50)
    state = torch.get_rng_state()
    _ = data.test[0]
    assert torch.equal(torch.get_rng_state(), state)


def test_other_jpeg_settings_decode_nothing_again(folder):
    plain = _data(folder)
    config = DataConfig(**{**vars(plain.config), "jpeg_train": [40, 60], "jpeg_test": 30})
    coded = plain.with_config(config)
    assert coded.train._cache is plain.train._cache
    assert torch.equal(_epoch(coded), _epoch(Data(config, seed=2)))
    assert not torch.equal(_epoch(coded), _epoch(plain))
    assert torch.equal(_epoch(plain), _epoch(_data(folder)))  # which is left as it was
    assert torch.equal(_epoch(coded.with_config(plain.config)), _epoch(plain))


def test_other_settings_load_anew(folder):
    plain = _data(folder)
    other = plain.with_config(DataConfig(**{**vars(plain.config), "size": 24}))
    other.load()
    assert other.train._cache is not plain.train._cache
    assert torch.equal(_epoch(other), _epoch(_data(folder, size=24)))
