"""Crops, flips and real JPEG of single images, and of batches on a device."""

import io
import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from jpegdl.data import IGNORED, Data, DataConfig
from jpegdl.data.device import DeviceImages, draws, random_boxes, resized_boxes
from jpegdl.errors import UsageError

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


# ------------------------------------------------------------------------------------------------------------ on a device


@pytest.mark.parametrize(("pad", "flip"), [(0, True), (4, True), (40, False)])
def test_device_crops_are_the_cpu_paths_for_the_same_draws(folder, pad, flip):
    data = _data(folder, cache="device", pad=pad, flip=flip)
    images, keys = data.train._cache, [(i % 8, 100 + i) for i in range(40)]
    cut, target = data.train.on(CPU).__getitems__(keys)
    height, width = (np.array([images[i].shape[axis] for i, _ in keys]) for axis in (1, 2))
    boxes = random_boxes(height, width, [seed for _, seed in keys], data.config)
    for n, (i, _) in enumerate(keys):
        padded = v2.functional.pad(images[i], [pad])
        expected = v2.functional.crop(padded, int(boxes.top[n]) + pad, int(boxes.left[n]) + pad, 32, 32)
        expected = v2.functional.hflip(expected) if boxes.flip[n] else expected
        assert torch.equal(cut[n], v2.functional.to_dtype(expected, torch.float32, scale=True))
    assert target.tolist() == [data.train.targets[i] for i, _ in keys]
    assert boxes.flip.any() == flip


def test_device_crops_reach_every_place_alike():
    config, count = DataConfig(size=30, pad=1), 20_000
    boxes = random_boxes(np.full(count, 30), np.full(count, 31), range(count), config)
    for starts, places in ((boxes.top, 3), (boxes.left, 4)):
        shares = np.bincount(starts + 1, minlength=places) / count
        assert len(shares) == places
        assert abs(shares - 1 / places).max() < 0.02
    assert abs(boxes.flip.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(boxes.top, boxes.left)[0, 1]) < 0.03


def test_draws_are_the_seeds_alone_and_uniform():
    numbers = draws(range(2000), 5)
    assert np.array_equal(draws([1999, 3], 2), numbers[[1999, 3], :2])
    assert 0 <= numbers.min() < numbers.max() < 1
    assert abs(np.histogram(numbers, 10, (0, 1))[0] / 1000 - 1).max() < 0.15
    assert abs(np.corrcoef(numbers.T) - np.eye(5)).max() < 0.1
    assert draws([2**63 - 1], 1).shape == (1, 1)


@pytest.mark.parametrize("chunk", [2**25, 1])
def test_device_resized_crops_are_torchvisions_to_a_grey_level(folder, monkeypatch, chunk):
    monkeypatch.setattr("jpegdl.data.device.CHUNK", chunk)
    data = _data(folder, crop="resized", cache="device")
    images, keys = data.train._cache, [(i % 8, i) for i in range(32)]
    cut, _ = data.train.on(CPU).__getitems__(keys)
    height, width = (np.array([images[i].shape[axis] for i, _ in keys]) for axis in (1, 2))
    boxes = resized_boxes(height, width, [seed for _, seed in keys], data.config)
    for n, (i, _) in enumerate(keys):
        place = [int(side[n]) for side in (boxes.top, boxes.left, boxes.height, boxes.width)]
        expected = v2.functional.resized_crop(images[i], *place, [32, 32], BICUBIC, antialias=True)
        expected = v2.functional.hflip(expected) if boxes.flip[n] else expected
        # torchvision rounds to 8 bits between the two axes too.
        torch.testing.assert_close(cut[n] * 255, expected.float(), rtol=0, atol=1.01)
    assert len({(float(h), float(w)) for h, w in zip(boxes.height, boxes.width, strict=True)}) > 20


def test_device_boxes_are_distributed_as_torchvisions():
    count, config = 4000, DataConfig(crop="resized", scale=0.2)
    boxes = resized_boxes(np.full(count, 60), np.full(count, 100), range(count), config)
    crop, image = v2.RandomResizedCrop(32, (0.2, 1)), torch.zeros(3, 60, 100)
    places = [crop.make_params([image]) for _ in range(count)]
    for ours, name in ((boxes.top, "top"), (boxes.left, "left"), (boxes.height, "height"), (boxes.width, "width")):
        theirs = np.array([place[name] for place in places])
        assert np.abs(np.quantile(ours, [0.1, 0.5, 0.9]) - np.quantile(theirs, [0.1, 0.5, 0.9])).max() <= 3, name
    place = boxes.top[boxes.height < 60] / (60 - boxes.height[boxes.height < 60])
    assert abs(np.corrcoef(place, boxes.height[boxes.height < 60])[0, 1]) < 0.05  # where is drawn apart from how large


@pytest.mark.parametrize(("height", "width", "expected"), [(10, 100, (0, 43, 10, 13)), (100, 10, (43, 0, 13, 10))])
def test_device_boxes_of_very_long_images_are_the_middle(height, width, expected):
    boxes = resized_boxes(np.array([height]), np.array([width]), [1], DataConfig(crop="resized", scale=1.0))
    assert (boxes.top[0], boxes.left[0], boxes.height[0], boxes.width[0]) == expected


@pytest.mark.parametrize("crop", ["random", "resized"])
def test_device_loaders_yield_what_the_cpus_do_where_nothing_is_drawn(folder, crop):
    host, device = (_data(folder, crop=crop, cache=cache) for cache in ("memory", "device"))
    for name in ("val_dataloader", "calibration_dataloader"):
        (images, target), (expected, expected_target) = (next(iter(getattr(data, name)())) for data in (device, host))
        torch.testing.assert_close(images, expected, rtol=0, atol=1.01 / 255)
        assert torch.equal(target, expected_target)
        assert (images.dtype, images.is_contiguous()) == (torch.float32, True)
        if crop == "random" or name == "val_dataloader":
            assert torch.equal(images, expected)


def test_device_epochs_are_the_seeds_and_the_epochs(folder):
    first, again = (_epoch(_data(folder, cache="device", crop="resized"), 3) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, _epoch(_data(folder, cache="device", crop="resized"), 4))


def test_no_image_on_a_device_is_black_and_ignored(folder):
    images, target = _data(folder, cache="device").test.on(CPU).__getitems__([5, None])
    assert images[0].any()
    assert not images[1].any()
    assert target.tolist() == [1, IGNORED]


def test_the_device_is_the_trainers(folder):
    class Strategy:
        root_device = torch.device("meta")

    class Trainer:
        strategy = Strategy()

    data = _data(folder, cache="device")
    data.trainer = Trainer()
    assert data.train_dataloader().dataset._pixels.device.type == "meta"


def test_images_that_no_device_holds(folder, monkeypatch):
    monkeypatch.setattr("jpegdl.data.device.free_bytes", lambda device: 30_000)
    with pytest.raises(UsageError, match="data.cache device needs .* GiB on cpu, of which .* free .*--data.limit"):
        _data(folder, cache="device").train_dataloader()
    monkeypatch.setattr("jpegdl.data.device.free_bytes", lambda device: None)

    def full(*_, **__):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr("torch.empty", full)
    with pytest.raises(UsageError, match="which it does not have"):
        DeviceImages([torch.zeros(3, 8, 8, dtype=torch.uint8)], [0], DataConfig(), CPU, whole=False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("crop", ["random", "resized"])
def test_gpu_and_cpu_cut_the_same(folder, crop):
    train = _data(folder, crop=crop, cache="device").train
    keys = [(i % 8, i) for i in range(16)]
    here, there = (train.on(torch.device(kind)).__getitems__(keys)[0].cpu() for kind in ("cpu", "cuda"))
    torch.testing.assert_close(there, here, rtol=0, atol=0 if crop == "random" else 1.01 / 255)
