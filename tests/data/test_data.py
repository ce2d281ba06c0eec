import pickle
import shutil
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from jpegdl.data import PHOTOGRAPHS, Data, DataConfig, EpochSampler, photo_patches, photograph
from jpegdl.data.sources.photos import open_photos
from jpegdl.errors import UsageError


@pytest.fixture
def folder(tmp_path):
    """Class folders: 2 classes, 6 training and 3 test images each, of odd sizes and kinds."""
    random = np.random.default_rng(0)
    for split, count in (("train", 6), ("test", 3)):
        for label in ("ant", "bee"):
            (tmp_path / split / label).mkdir(parents=True)
            for i in range(count):
                pixels = random.integers(0, 256, (40 + i, 50, 3), dtype=np.uint8)
                image = Image.fromarray(pixels)
                image = image.convert("L") if i == 1 else image.convert("RGBA") if i == 2 else image
                image.save(tmp_path / split / label / f"{i}.png")
    return tmp_path


def _small(path=None, **options):
    return DataConfig(path=None if path is None else str(path), size=24, resize=32, batch_size=4, **options)


# --------------------------------------------------------------------------------------------------------------- photos


def test_photos():
    data = Data(DataConfig(size=32, resize=40))
    assert len(data.classes) == 18
    assert (len(data.train), len(data.test)) == (360, 1800)
    images, target = next(iter(data.val_dataloader()))
    assert images.shape == (256, 3, 32, 32)
    assert images.dtype == torch.float32
    assert images.min() >= 0
    assert images.max() <= 1
    assert target[0] == 0


def test_photos_have_colours_of_their_own_that_tell_no_class():
    source = open_photos(DataConfig(size=32, resize=40))[0]
    places = list(photo_patches(40, train=True, count=20))
    for name in ("brick", "coffee"):  # grey, and in colour
        indices = [i for i, place in enumerate(places) if place[0] == name]
        patches = [np.asarray(source.read(i).convert("YCbCr"), dtype=float) for i in indices]
        hues = [np.arctan2(*(patch[..., 1:].mean((0, 1)) - 128)) for patch in patches]
        assert len({int(hue // (np.pi / 4)) for hue in hues}) >= 5  # of eight parts of a circle
        if name == "brick":
            for (_, top, left), patch in zip([places[i] for i in indices], patches, strict=True):
                before = photograph(name)[top : top + 40, left : left + 40]
                assert np.abs(patch[..., 0] - before).mean() <= 1.5  # as bright as it was


@pytest.mark.parametrize("side", [24, 40])
def test_photos_share_no_pixel_between_training_and_test(side):
    used = {name: np.zeros(photograph(name).shape[:2], dtype=int) for name in PHOTOGRAPHS}
    for train in (True, False):
        for name, top, left in photo_patches(side, train=train, count=30):
            patch = used[name][top : top + side, left : left + side]
            assert patch.shape == (side, side)  # wholly inside
            patch |= 1 if train else 2
    for name, kinds in used.items():
        assert 3 not in kinds, name
        assert {1, 2} <= set(kinds.flat), name


def test_photos_are_the_same_at_every_call():
    first, second = (Data(DataConfig()) for _ in range(2))
    assert all(torch.equal(first.test[i][0], second.test[i][0]) for i in range(0, 1800, 100))


def test_photos_take_no_path_and_no_huge_patches():
    with pytest.raises(UsageError, match="--data.name folder"):
        Data(DataConfig(name="photos", path="here"))
    with pytest.raises(UsageError, match="at most 80"):
        Data(DataConfig(size=160))


# ----------------------------------------------------------------------------------------------------- order, augmentation


def _epoch(data, epoch):
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)
    batches = list(loader)
    return torch.cat([images for images, _ in batches]), torch.cat([target for _, target in batches])


def test_what_is_seen_depends_on_seed_and_epoch_alone(folder):
    data = Data(_small(folder), seed=3)
    images, target = _epoch(data, 5)
    torch.rand(7)  # other randomness in between changes nothing
    again, target_again = _epoch(Data(_small(folder), seed=3), 5)
    assert torch.equal(images, again)
    assert torch.equal(target, target_again)
    for other in (_epoch(data, 6), _epoch(Data(_small(folder), seed=4), 5)):
        assert not torch.equal(images, other[0])


def test_augmentation_leaves_the_global_generator_alone(folder):
    data = Data(_small(folder))
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    _ = data.train[0, 1234]
    assert torch.equal(torch.rand(3), expected)


def test_loader_processes_change_nothing(folder):
    alone, with_workers = (_epoch(Data(_small(folder, workers=workers), seed=1), 2) for workers in (0, 2))
    assert torch.equal(alone[0], with_workers[0])


def test_processes_share_an_epoch_out(folder):
    data = Data(_small(folder))
    shares = [list(EpochSampler(data.train, num_replicas=2, rank=rank, seed=1)) for rank in (0, 1)]
    indices = sorted(index for share in shares for index, _ in share)
    assert indices == list(range(12))


def test_training_crops_move_and_flip_and_test_crops_do_not(folder):
    data = Data(_small(folder))
    assert torch.equal(data.test[0][0], data.test[0][0])
    crops = [data.train[0, seed][0] for seed in range(20)]
    assert len({crop.numpy().tobytes() for crop in crops}) > 10
    padded = Data(DataConfig(path=str(folder), size=32, pad=4, flip=False))
    assert any((padded.train[0, seed][0][:, 0] == 0).all() for seed in range(20))


# --------------------------------------------------------------------------------------------------------- folders, tars


def test_folders_and_tars_are_the_same(folder, tmp_path):
    tars = tmp_path / "tars"
    tars.mkdir()
    for split in ("train", "test"):
        with tarfile.open(tars / f"{split}.tar", "w") as tar:
            for path in sorted((folder / split).rglob("*.png")):
                tar.add(path, str(path.relative_to(folder / split)))
    one, other = Data(_small(folder)), Data(_small(tars))
    assert one.classes == other.classes == ["ant", "bee"]
    assert one.train.targets == other.train.targets
    assert torch.equal(one.test[4][0], other.test[4][0])


def test_validation_folder_by_another_name(folder):
    (folder / "test").rename(folder / "val")
    assert len(Data(_small(folder)).test) == 6


def test_large_sets_are_read_as_they_are_needed(folder, monkeypatch):
    cached = Data(_small(folder))
    monkeypatch.setattr("jpegdl.data.images.CACHE_BYTES", 0)
    lazy = pickle.loads(pickle.dumps(Data(_small(folder)).train))
    assert lazy._cache is None
    assert torch.equal(lazy[3, 77][0], cached.train[3, 77][0])


def test_shared_sets_are_read(shared):
    data = Data(DataConfig(path=str(shared / "data" / "dtd10"), size=64, resize=80))
    assert len(data.classes) == 10
    assert (len(data.train), len(data.test)) == (800, 400)
    assert data.test[0][0].shape == (3, 64, 64)


@pytest.mark.filterwarnings("ignore:left out 1 of 12 images")
@pytest.mark.parametrize("cache", [2**30, 0])
def test_corrupt_image_is_named_and_can_be_left_out(folder, monkeypatch, cache):
    monkeypatch.setattr("jpegdl.data.images.CACHE_BYTES", cache)
    bad = folder / "train" / "bee" / "3.png"
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(UsageError, match="bee/3.png.*--data.skip-corrupt true"):
        list(Data(_small(folder)).train_dataloader())
    data = Data(_small(folder, skip_corrupt=True))
    loader = data.calibration_dataloader()
    assert sorted(torch.cat([target for _, target in loader]).tolist()) == [0] * 6 + [1] * 5


def test_nothing_but_corrupt_images(folder):
    for file in (folder / "train").rglob("*.png"):
        file.write_bytes(b"no image")
    with pytest.raises(UsageError, match="none of the 12 images"):
        Data(_small(folder, skip_corrupt=True)).load()


def test_it_is_said_how_many_images_are_left_out(folder):
    (folder / "train" / "bee" / "3.png").write_bytes(b"no image")
    with pytest.warns(UserWarning, match="left out 1 of 12 images"):
        Data(_small(folder, skip_corrupt=True)).load()


def test_listing_a_set_decodes_nothing(folder, monkeypatch):
    (folder / "train" / "bee" / "3.png").write_bytes(b"no image")
    data = Data(_small(folder))
    assert data.fingerprint["train"]["images"] == len(data.train) == 12
    for load in (data.load, data.train_dataloader, data.calibration_dataloader):
        with pytest.raises(UsageError, match="bee/3.png cannot be decoded"):
            load()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda root: shutil.rmtree(root), "is not a folder"),
        (lambda root: shutil.rmtree(root / "train"), "no training images in .*train/, train.tar"),
        (lambda root: shutil.rmtree(root / "test"), "no test images in .*test/, test.tar, val/"),
        (lambda root: [file.unlink() for file in (root / "train").rglob("*.png")], "no images can be read from .*train"),
        (
            lambda root: (root / "test" / "bee").rename(root / "test" / "wasp"),
            "different classes: bee has no test image, wasp has no training image",
        ),
        (lambda root: [file.unlink() for file in (root / "train" / "bee").iterdir()], "classes: bee has no training image$"),
        (lambda root: [shutil.rmtree(root / split / "bee") for split in ("train", "test")], "one class only"),
    ],
)
def test_wrong_layouts_say_what_was_expected(folder, damage, message):
    damage(folder)
    with pytest.raises(UsageError, match=message):
        Data(_small(folder))


def test_damaged_tar(folder):
    shutil.rmtree(folder / "train")
    (folder / "train.tar").write_bytes(b"not a tar")
    with pytest.raises(UsageError, match=r"no images can be read from .*train.tar"):
        Data(_small(folder))


# ---------------------------------------------------------------------------------------------------------------- CIFAR


@pytest.mark.parametrize(("name", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_cifar_is_torchvisions(monkeypatch, tmp_path, name, classes):
    class Miniature:
        def __init__(self, root, train, download):
            assert not download  # it is there
            count = 2 * classes if train else classes
            self.data = np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
            self.targets = [i % classes for i in range(count)]
            self.classes = [f"class {i}" for i in range(classes)]

        def __len__(self):
            return len(self.targets)

        def __getitem__(self, index):
            return Image.fromarray(self.data[index]), self.targets[index]

    monkeypatch.setattr("torchvision.datasets.CIFAR10" if classes == 10 else "torchvision.datasets.CIFAR100", Miniature)
    data = Data(DataConfig(name=name, path=str(tmp_path), size=32, pad=4))
    assert len(data.classes) == classes
    expected = torch.from_numpy(Miniature("", False, False).data[1]).permute(2, 0, 1) / 255
    torch.testing.assert_close(data.test[1][0], expected)


def test_cifar_without_a_network(monkeypatch, tmp_path):
    def offline(*_, **__):
        raise OSError("no network")

    monkeypatch.setattr("torchvision.datasets.cifar.download_and_extract_archive", offline)
    with pytest.raises(UsageError, match="cifar10.*no network.*--data.name folder"):
        Data(DataConfig(name="cifar10", path=str(tmp_path)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "imagenot"}, "data.name must be one of .*photos.* got 'imagenot'"),
        ({"name": "folder"}, "needs data.path"),
        ({"size": 0}, "data.size must be at least 1"),
        ({"batch_size": 0}, "data.batch_size"),
        ({"workers": -1}, "data.workers"),
        ({"size": 32, "resize": 24}, "data.resize must be at least data.size = 32"),
        ({"crop": "center"}, "data.crop must be one of random, resized, got 'center'"),
        ({"name": "tfds/mnist"}, "data.name 'tfds/mnist': .*; take wds/ or folders"),
        ({"cache": "disk"}, "data.cache must be one of auto, memory, none, got 'disk'"),
        ({"crop": "resized", "scale": 0.0}, "data.scale must be greater than 0 and at most 1, got 0.0"),
        ({"crop": "resized", "scale": 1.5}, "data.scale"),
        ({"crop": "resized", "pad": 4}, "data.pad cannot be combined with data.crop resized, got 4"),
        ({"pad": -1}, "data.pad must be at least 0"),
        ({"size": 100_000}, "data.size 100000 makes images of 100000 pixels per side; take at most 16384"),
        ({"size": 100_000, "resize": 40}, "data.size 100000 makes images of"),
        ({"resize": 100_000}, "data.resize 100000 makes images of 100000 pixels per side"),
        ({"pad": 10_000}, "data.pad 10000 makes images of 20032 pixels per side"),
        ({"name": "made-up", "size": 10_000}, "data.size 10000: a batch of 80 images takes 89 GiB of memory; take a smaller"),
        ({"auto_augment": "randaug"}, "data.auto_augment must be a name that timm knows, such as rand-m9.*, got 'randaug'"),
        ({"auto_augment": "rand-m9-inc"}, "data.auto_augment"),
        ({"auto_augment": "rand-m9-nonsense"}, "data.auto_augment"),
        ({"auto_augment": ""}, "data.auto_augment"),
        ({"auto_augment": "rand", "color_jitter": 0.4}, "data.color_jitter 0.4 cannot be combined with data.auto_augment rand"),
        ({"color_jitter": -0.1}, "data.color_jitter must be at least 0, or null, got -0.1"),
        ({"color_jitter": float("nan")}, "data.color_jitter must be finite and at least 0, or null, got nan"),
        ({"erase": 1.5}, "data.erase must be from 0 to 1, got 1.5"),
        ({"limit": 0}, "data.limit must be at least 1, or null, got 0"),
        ({"name": "made-up", "classes": 1}, "data.classes must be at least 2, or null, got 1"),
        ({"classes": 3}, "data.classes is for made-up only, got 3 with photos"),
        ({"name": "made-up", "path": "here"}, "data.path cannot be used with made-up"),
        ({"jpeg_train": [50]}, "data.jpeg_train must be the lowest and the highest quality, 1 to 100, got .50."),
        ({"jpeg_train": [90, 30]}, "data.jpeg_train"),
        ({"jpeg_train": [0, 30]}, "data.jpeg_train"),
        ({"jpeg_test": 101}, "data.jpeg_test must be from 1 to 100, or null, got 101"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(UsageError, match=message):
        Data(DataConfig(**options))
