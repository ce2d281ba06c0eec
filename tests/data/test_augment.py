"""timm's augmentation: its own results, drawn from (seed, epoch, index) alone."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.auto_augment import augment_and_mix_transform, auto_augment_transform, rand_augment_transform
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.data.random_erasing import RandomErasing
from torchvision import transforms
from torchvision.transforms import v2

from jpegdl.data import Data, DataConfig
from jpegdl.data.augment import recolour
from jpegdl.data.sampling import image_seed
from jpegdl.random import seeded

SIZE = 24
ALL = {"auto_augment": "rand-m9-mstd0.5-inc1", "erase": 0.5, "jpeg_train": [40, 80]}


def _data(seed=2, **options):
    data = Data(DataConfig(**{"name": "made-up", "size": SIZE, "resize": 30, "batch_size": 16} | options), seed=seed)
    data.load()
    return data


def _replay(data, index, seed, *then):
    """The image as cropped and flipped by hand, and what ``then`` makes of it, all drawn from the image's seed."""
    steps = v2.Compose([v2.RandomCrop(SIZE), v2.RandomHorizontalFlip(), *then])
    with seeded(seed, everywhere=True):
        return steps(data.train._cache[index])


def _unit(image):
    return v2.functional.to_dtype(image, torch.float32, scale=True)


def _epoch(data, epoch=0):
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    return torch.cat([images for images, _ in loader])


KEYS = [(i, 1000 + i) for i in range(0, 80, 7)]


# ------------------------------------------------------------------------------------------------------------------- timm's own


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("rand-m9-mstd0.5-inc1", rand_augment_transform),
        ("rand-n3-p0.7-mmax12-tweights", rand_augment_transform),
        ("original-mstd0.5", auto_augment_transform),
        ("v0r", auto_augment_transform),
        ("augmix-m5-w4-d2", augment_and_mix_transform),
    ],
)
def test_auto_augment_is_timms_between_flip_and_tensor(name, make):
    parameters = {
        "translate_const": int(0.45 * SIZE),
        "img_mean": tuple(round(255 * x) for x in IMAGENET_DEFAULT_MEAN),
        "interpolation": Image.Resampling.BICUBIC,
    }
    if name.startswith("augmix"):
        parameters["translate_pct"] = 0.3
    data, changed = _data(auto_augment=name), 0
    for key in KEYS:
        expected = _replay(data, *key, v2.functional.to_pil_image, make(name, dict(parameters)), v2.functional.pil_to_tensor)
        assert torch.equal(data.train[key][0], _unit(expected))
        changed += not torch.equal(expected, _replay(data, *key))
    assert changed > len(KEYS) / 2


@pytest.mark.parametrize(("name", "operation"), [("rand-m10-inc1-p1", "PosterizeIncreasing"), ("v0", "Posterize")])
def test_an_image_of_which_no_bit_is_kept_is_black(name, operation):
    """Pillow 13 refuses to posterize to 0 bits, which some magnitudes of timm's come to."""
    (part,) = recolour(DataConfig(name="made-up", size=SIZE, auto_augment=name)).transforms
    all_of_it = part.ops if hasattr(part, "ops") else [one for pair in part.policy for one in pair]
    posterize = next(one for one in all_of_it if one.name == operation)
    posterize.prob = 1
    photo = Image.effect_noise((SIZE, SIZE), 80).convert("RGB")
    for magnitude in range(11):
        posterize.magnitude = magnitude
        kept = posterize.level_fn(magnitude, {})[0]
        assert np.array_equal(posterize(photo), np.asarray(photo) & (0xFF00 >> kept & 0xFF))
    assert {posterize.level_fn(magnitude, {})[0] for magnitude in range(11)} == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("strength", [0.4, 1])
def test_color_jitter_is_torchvisions_of_three_factors(strength):
    data = _data(color_jitter=strength)
    jitter = transforms.ColorJitter(strength, strength, strength)
    for key in KEYS:
        expected = _replay(data, *key, v2.functional.to_pil_image, jitter, v2.functional.pil_to_tensor)
        assert torch.equal(data.train[key][0], _unit(expected))


def test_color_jitter_follows_policy_3a():
    data = _data(auto_augment="3a", color_jitter=0.3)
    both = recolour(data.config)
    assert [type(part).__name__ for part in both.transforms] == ["AutoAugment", "ColorJitter"]
    for key in KEYS[:3]:
        expected = _replay(data, *key, v2.functional.to_pil_image, both, v2.functional.pil_to_tensor)
        assert torch.equal(data.train[key][0], _unit(expected))


def test_erasing_is_timms_on_the_normalized_image():
    data = _data(erase=1.0)
    normalize = transforms.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
    erase = RandomErasing(1.0, mode="pixel", max_count=1, device="cpu")
    noise = []
    for key in KEYS:
        image, plain = data.train[key][0], _replay(data, *key, _unit)
        torch.testing.assert_close(normalize(image), _replay(data, *key, _unit, normalize, erase))
        same = image == plain  # to the last bit where nothing is erased
        assert 0.6 < same.float().mean() < 0.99
        noise.append(normalize(image)[~same])
    assert abs(torch.cat(noise).mean()) < 0.05
    assert abs(torch.cat(noise).std() - 1) < 0.05


def test_erasing_has_its_probability():
    plain, erased = _data(), _data(erase=0.25)
    changed = sum(not torch.equal(plain.train[i % 80, i][0], erased.train[i % 80, i][0]) for i in range(400))
    assert 70 <= changed <= 130


def test_erasing_comes_after_jpeg():
    plain, erased = _data(**{**ALL, "erase": 0.0}), _data(**{**ALL, "erase": 1.0})
    for key in KEYS:
        same = plain.train[key][0] == erased.train[key][0]
        assert same.all(0).float().mean() > 0.6  # a file of an erased image would differ beyond the rectangle


# ------------------------------------------------------------------------------------------------------------------- randomness


def test_augmentation_is_the_seeds_and_the_epochs_alone():
    images = _epoch(_data(**ALL), 4)
    torch.rand(3)
    random.random()
    np.random.rand(2)
    assert torch.equal(images, _epoch(_data(**ALL), 4))
    assert not torch.equal(images, _epoch(_data(**ALL), 5))
    assert not torch.equal(images, _epoch(_data(seed=3, **ALL), 4))


@pytest.mark.parametrize("cache", ["memory", "none"])
def test_loader_processes_augment_alike(cache):
    assert torch.equal(_epoch(_data(**ALL)), _epoch(_data(workers=2, cache=cache, **ALL)))


@pytest.mark.parametrize("options", [{}, ALL, {"color_jitter": 0.4}])
def test_nobody_elses_randomness_is_touched(options):
    data = _data(**options)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()
    _ = [data.train[key] for key in KEYS]
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert all(np.array_equal(new, old) for new, old in zip(np.random.get_state(), before[2], strict=True))


def _first(generator):
    return int.from_bytes(generator.bytes(4), "little") % 2**16


def test_the_three_generators_draw_different_numbers():
    seed = image_seed(1, 2, 3)
    with seeded(seed, everywhere=True):
        ours = [int(torch.randint(2**16, ())), random.getrandbits(32) % 2**16, _first(np.random)]
    assert len(set(ours)) == 3
    # What the seed alone would give NumPy: the numbers of PyTorch, or of Python.
    assert _first(np.random.RandomState(seed % 2**32)) == ours[0]
    assert _first(np.random.RandomState([seed % 2**32, seed >> 32])) == ours[1]


def test_tests_and_calibration_are_not_augmented():
    plain, data = _data(), _data(**ALL)
    for name in ("val_dataloader", "calibration_dataloader"):
        for (images, _), (expected, _) in zip(getattr(data, name)(), getattr(plain, name)(), strict=True):
            assert torch.equal(images, expected)


# ------------------------------------------------------------------------------------------------------------------ calibration


def test_calibration_takes_augmented_images_where_it_is_asked_to():
    data = _data(**ALL)
    found = [torch.cat([batch[i] for batch in data.calibration_dataloader(augmented=True)]) for i in (0, 1)]
    again = torch.cat([images for images, _ in _data(**ALL).calibration_dataloader(augmented=True)])
    plain = [torch.cat([batch[i] for batch in data.calibration_dataloader()]) for i in (0, 1)]
    assert torch.equal(found[0], again)
    assert torch.equal(found[1], plain[1])  # the same images in the same order
    assert not torch.equal(found[0], plain[0])
    expected = {data.train[i, image_seed(2, 0, i)][0].numpy().tobytes() for i in range(80)}
    assert {image.numpy().tobytes() for image in found[0]} == expected


def test_augmented_calibration_is_shared_out(monkeypatch):
    alone = torch.cat([images for images, _ in _data(**ALL).calibration_dataloader(augmented=True)])
    for rank in range(3):
        monkeypatch.setattr("jpegdl.data.loaders.processes", lambda rank=rank: (rank, 3))
        share = torch.cat([images for images, _ in _data(**ALL).calibration_dataloader(augmented=True)])
        assert torch.equal(share, alone[rank::3])
