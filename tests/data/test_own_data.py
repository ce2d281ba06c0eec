"""Data sets of the user's own: Python objects, and what a function in a module returns."""

import pickle
import sys
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Subset, TensorDataset, random_split
from torchvision.datasets import CIFAR10, FakeData, ImageFolder
from torchvision.transforms import v2

from factory import run, small_config
from jpegdl.data import Data, DataConfig
from jpegdl.data.sources import python_objects
from jpegdl.errors import UsageError


class Squares:
    """Plain images, each of a brightness that says its number; three classes in turn."""

    def __init__(self, count=12, first=0, kind=Image.fromarray):
        self.count, self.first, self.kind = count, first, kind

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index >= self.count:
            raise IndexError(index)
        return self.kind(np.full((10, 8, 3), self.first + index, np.uint8)), index % 3


class Named(Squares):
    classes = ("cat", "dog", "eel")

    @property
    def targets(self):
        return torch.arange(self.count) % 3


CONFIG = DataConfig(name="object", size=8, batch_size=4)


def brightness(images):
    return [round(255 * float(images[i][0].mean())) for i in range(len(images))]


def refused(train, test, *names, config=CONFIG, **options):
    with pytest.raises(UsageError) as caught:
        Data(config, sets=(train, test, *names), **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ------------------------------------------------------------------------------------------------------- what is read


def test_images_classes_and_targets():
    data = Data(CONFIG, sets=(Squares(), Squares(6, 100)))
    assert data.classes == ["0", "1", "2"]
    assert data.train.targets == [0, 1, 2] * 4
    assert brightness(data.test) == [100, 101, 102, 103, 104, 105]
    assert data.train[0][0].shape == (3, 8, 8)
    assert Data(CONFIG, sets=(Named(), Squares(6))).classes == ["cat", "dog", "eel"]
    assert Data(CONFIG, sets=(Named(), Squares(6), ["a", "b", "c", "d"])).classes == ["a", "b", "c", "d"]
    assert Data(CONFIG, sets=(Squares(), Squares(6), [("tench", "Tinca"), "b", "c"])).classes == ["tench, Tinca", "b", "c"]
    assert data.fingerprint["name"] == "object"


@pytest.mark.parametrize(
    "kind",
    [
        lambda pixels: pixels,
        lambda pixels: pixels[..., 0],
        lambda pixels: torch.from_numpy(pixels).movedim(-1, 0),
        lambda pixels: torch.from_numpy(pixels[..., :1]).movedim(-1, 0),
        lambda pixels: torch.from_numpy(pixels[..., 0]),
    ],
)
def test_arrays_and_tensors_of_bytes_are_images(kind):
    data = Data(CONFIG, sets=(Squares(kind=kind), Squares(3, 100, kind=kind)))
    assert brightness(data.test) == [100, 101, 102]
    assert data.test[0][0].shape == (3, 8, 8)


def test_subsets_keep_classes_targets_and_the_right_images():
    whole = Named(30)
    train, test = random_split(whole, [21, 9], torch.Generator().manual_seed(0))
    data = Data(CONFIG, sets=(train, test))
    assert data.classes == ["cat", "dog", "eel"]
    assert brightness(data.test) == list(test.indices)
    assert data.test.targets == [index % 3 for index in test.indices]
    nested = Subset(Subset(whole, range(10, 30)), [3, 1, 2])
    data = Data(CONFIG, sets=(Subset(whole, range(9)), nested))
    assert (brightness(data.test), data.test.targets) == ([13, 11, 12], [1, 2, 0])


def test_targets_are_those_of_the_items():
    """Whatever else the set keeps under such a name."""

    class Renumbered(Named):
        def __getitem__(self, index):
            image, target = super().__getitem__(index)
            return image, (target + 1) % 3

    assert Data(CONFIG, sets=(Renumbered(), Squares(3))).train.targets == [1, 2, 0] * 4
    fake = FakeData(8, (3, 10, 8), 2, target_transform=lambda target: 1 - target)
    fake.targets = [int(fake[i][1]) for i in range(8)]
    fake.targets[5] = 1 - fake.targets[5]  # what its own transform makes of them is not kept there
    assert Data(CONFIG, sets=(fake, Squares(2))).train.targets == [int(fake[i][1]) for i in range(8)]

    class Worded(Squares):
        labels = ("cat", "dog", "eel", "cat", "dog", "eel")

    assert Data(CONFIG, sets=(Worded(6), Squares(3, 50))).train.targets == [0, 1, 2] * 2


def test_limit_and_test_only():
    config = DataConfig(name="object", size=8, limit=6)
    data = Data(config, sets=(Named(), Squares(9, 100)))
    assert (len(data.train), data.train.targets, brightness(data.test)) == (6, [0, 1, 2] * 2, list(range(100, 106)))
    data = Data(CONFIG, test_only=True, sets=(None, Named(3)))
    assert (len(data.train), len(data.test), data.classes) == (0, 3, ["cat", "dog", "eel"])
    assert len(Data(CONFIG, test_only=True, sets=(Squares(), Squares(3))).train) == 0


def test_another_jpeg_setting_keeps_the_sets():
    data = Data(CONFIG, sets=(Named(), Named(3, 100)))
    other = DataConfig(name="object", size=6, batch_size=4)
    assert len(data.with_config(other).train) == 12
    assert data.with_config(DataConfig(name="object", size=8, batch_size=4, jpeg_test=50)).classes == data.classes


def test_worker_processes():
    config = DataConfig(name="object", size=8, batch_size=4, workers=2, cache="none")
    data = Data(config, sets=(Named(), Named(5, 100)))
    ((images, targets),) = data.val_dataloader()
    assert [round(255 * float(image.mean())) for image in images] == [100, 101, 102, 103, 104]
    assert targets.tolist() == [0, 1, 2, 0, 1]
    pickle.dumps(data.test)


def test_a_run_trains_on_objects(tmp_path):
    config = small_config(epochs=1)
    config.data = DataConfig(name="object", size=8, batch_size=4)
    from jpegdl.layer import build_layer
    from jpegdl.runs import RunFolder
    from jpegdl.tables import standard_tables
    from jpegdl.training import train_run

    data = Data(config.data, 0, sets=(Named(), Named(6, 100)))
    layer = build_layer(config.layer, tuple(map(torch.as_tensor, standard_tables(75))), 8)
    result = train_run(config, data, lambda: layer, RunFolder(tmp_path / "run"), "jpeg-dl", 0)
    assert result["data"]["classes"] == ["cat", "dog", "eel"]
    assert RunFolder(tmp_path / "run").data()["name"] == "object"


# ------------------------------------------------------------------------------------------------------- fingerprint


def digest(dataset):
    return Data(CONFIG, sets=(dataset, Squares(3, 200))).fingerprint["train"]["digest"]


def test_the_fingerprint_sees_pixels_order_and_classes():
    whole = Named(12)
    assert digest(Named(12)) == digest(Squares(12)) == digest(whole)
    assert digest(Named(12, first=1)) != digest(whole)
    assert digest(Subset(whole, [1, 0, *range(2, 12)])) != digest(whole)

    class Renumbered(Squares):
        def __getitem__(self, index):
            return super().__getitem__(index)[0], (index + 1) % 3

    assert digest(Renumbered(12)) != digest(whole)


def test_of_large_images_some_are_seen(monkeypatch):
    read = []

    class Watched(Named):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    monkeypatch.setattr(python_objects, "WHOLE", 100)
    monkeypatch.setattr(python_objects, "SOME", 4)
    data = Data(CONFIG, sets=(Watched(100), Named(3, 200)))
    read.clear()
    first = data.fingerprint["train"]["digest"]
    assert read == [0, 25, 50, 75]

    class Changed(Named):
        def __init__(self, count, at):
            super().__init__(count)
            self.at = at

        def __getitem__(self, index):
            return super().__getitem__(index + 3 if index == self.at else index)

    assert digest(Named(100)) == first
    assert digest(Changed(100, 50)) != first
    assert digest(Changed(100, 51)) == first  # as the docstring says


def test_files_are_known_by_name_and_size(tmp_path):
    for place in ("here", "there"):
        for part in ("train", "test"):
            for name, colour in (("cat", 10), ("dog", 200)):
                folder = tmp_path / place / part / name
                folder.mkdir(parents=True)
                for i in range(3):
                    Image.new("RGB", (12, 10), (colour, i, 0)).save(folder / f"{i}.png")

    def opened(place):
        sets = [ImageFolder(tmp_path / place / part) for part in ("train", "test")]
        return Data(CONFIG, sets=tuple(sets))

    data = opened("here")
    assert data.classes == ["cat", "dog"]
    assert data.fingerprint == opened("there").fingerprint
    folders = Data(DataConfig(name="folder", path=str(tmp_path / "here"), size=8))
    assert folders.fingerprint["train"] == data.fingerprint["train"]  # and of our own reader
    torch.testing.assert_close(data.test[4][0], folders.test[4][0], rtol=0, atol=0)
    (tmp_path / "there" / "train" / "cat" / "1.png").write_bytes(b"broken")
    other = opened("there")
    assert other.fingerprint["train"] != data.fingerprint["train"]
    assert other.fingerprint["test"] == data.fingerprint["test"]
    with pytest.raises(UsageError, match="cat/1.png cannot be decoded"):
        other.load()
    left = Data(DataConfig(name="object", size=8, skip_corrupt=True), sets=(other._sets))
    with warnings.catch_warnings(record=True):
        left.load()
    assert left.train.targets == [0, 0, 1, 1, 1]


def test_cifar_of_torchvision(shared):
    if not (shared / "data" / "cifar10").is_dir():
        pytest.skip("no CIFAR-10")
    try:
        train, test = (CIFAR10(shared / "data" / "cifar10", train) for train in (True, False))
    except RuntimeError:
        pytest.skip("CIFAR-10 is kept in another form")
    config = DataConfig(name="object", limit=40)
    data, ours = Data(config, sets=(train, test)), Data(DataConfig(name="cifar10", path=train.root, limit=40))
    assert data.classes == ours.classes
    assert all(torch.equal(data.test[i][0], ours.test[i][0]) for i in range(40))


# --------------------------------------------------------------------------------------------------------- bad input


def test_what_is_no_data_set_is_refused():
    assert "object must be" not in refused(Squares(), Squares(3, 50), ["a"])
    with pytest.raises(UsageError, match=r"\(train, test\) or \(train, test, classes\), got 1"):
        Data(CONFIG, sets=(Squares(),))
    with pytest.raises(UsageError, match="got Squares"):
        Data(CONFIG, sets=Squares())
    same = Squares()
    assert "train and test are the same object" in refused(same, same)
    assert "2 images are in both train and test" in refused(Subset(same, range(6)), Subset(same, range(4, 12)))
    assert "test has no images" in refused(Squares(), [])
    assert "map-style data set, with len(dataset) and dataset[i], got generator" in refused((x for x in ()), Squares())
    assert "train[0] must be an image and its class index, got a Tensor" in refused(torch.zeros(3, 4), Squares())
    assert "got a tuple of 1" in refused(TensorDataset(torch.zeros(3, 3, 4, 4)), Squares())


def test_what_is_no_image_is_refused():
    to_float = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    said = refused(Squares(kind=to_float), Squares())
    assert "is a Image of float32: take the transform (ToTensor, Normalize, ...) out of the data set" in said
    assert "must be a PIL image, or a uint8 tensor or array, got str" in refused(Squares(kind=str), Squares())
    assert "must be an array (H, W, C) or (H, W) with 1 or 3 channels, got (3, 10, 8)" in refused(
        Squares(kind=lambda pixels: np.moveaxis(pixels, -1, 0)), Squares()
    )

    class Random(Squares):
        def __getitem__(self, index):
            return Image.fromarray(np.random.default_rng().integers(0, 256, (8, 8, 3), dtype=np.uint8)), 0

    assert "changes each time it is read: take random steps out" in refused(Random(), Squares())


def test_classes_that_cannot_be_are_refused():
    assert "class index 2 is out of range: 2 classes are named, 0 to 1" in refused(Squares(), Squares(3), ["a", "b"])
    assert "the classes must be a list of names, got 3" in refused(Squares(), Squares(3), 3)
    assert "two classes are named 'a'" in refused(Squares(), Squares(3), ["a", "b", "a"])
    assert "one class only" in refused(Squares(1), Squares(1, 50))

    class Negative(Squares):
        def __getitem__(self, index):
            return super().__getitem__(index)[0], self.target

        target = -1

    class Worded(Negative):
        target = "cat"

    assert "class index -1 is out of range" in refused(Negative(), Squares())
    assert "train[0] must have a class index, 0, 1, ..., got 'cat'" in refused(Worded(), Squares())


def test_code_of_a_set_that_fails_is_named():
    class Failing(Squares):
        def __init__(self, good):
            super().__init__()
            self.good = good

        def __getitem__(self, index):
            if index >= self.good:
                raise KeyError("pixels")
            return super().__getitem__(index)

    assert "train[0] cannot be read: KeyError: 'pixels' (test_own_data.py, line " in refused(Failing(0), Squares())
    assert "train[5] cannot be read, nor its class: KeyError: 'pixels'" in refused(Failing(5), Squares())
    kept = Failing(5)
    kept.targets = [0, 1, 2] * 4
    with pytest.raises(UsageError, match=r"train\[5\] \(KeyError: 'pixels'"):
        Data(CONFIG, sets=(kept, Squares(3, 50))).load()


def test_the_name_object_needs_objects():
    with pytest.raises(UsageError, match="given as Python objects, and they must be given again.*--data.name my_module:make"):
        Data(CONFIG)
    assert "data.name must be object where the sets are given" in refused(
        Squares(), Squares(), config=DataConfig(name="photos")
    )


# -------------------------------------------------------------------------------------------------- function by name

MODULE = """
import numpy as np
from test_own_data import Named, Squares

def make():
    return Named(), Named(6, 100)

def of_folder(path):
    return Named(), Named(6, 100), [f"{path} {i}" for i in range(3)]

def maybe(path="nowhere"):
    return Named(), Named(6, 100), [f"{path} {i}" for i in range(3)]

def asks(path, fold):
    return ()

def fails():
    raise RuntimeError("the disk\\nis gone")

def one():
    return Squares()

number = 3
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "own_sets.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield "own_sets"
    sys.modules.pop("own_sets", None)


def by_name(name, **settings):
    return Data(DataConfig(name=f"own_sets:{name}", size=8, **settings))


def test_a_function_makes_the_sets(module):
    data = by_name("make")
    assert (data.fingerprint["name"], data.classes, len(data.test)) == ("own_sets:make", ["cat", "dog", "eel"], 6)
    assert by_name("of_folder", path="x").classes == ["x 0", "x 1", "x 2"]
    assert by_name("maybe").classes == ["nowhere 0", "nowhere 1", "nowhere 2"]
    assert by_name("maybe", path="x").classes == ["x 0", "x 1", "x 2"]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("mke", {}, "there is no 'mke' in own_sets; did you mean make"),
        ("number", {}, "must be a function that returns (train, test, classes), got int"),
        ("make", {"path": "x"}, "data.path x is given, and data.name own_sets:make has no parameter path"),
        ("of_folder", {}, "data.name own_sets:of_folder needs data.path"),
        ("asks", {"path": "x"}, "it asks for fold too"),
        ("fails", {}, "data.name own_sets:fails failed: RuntimeError: the disk is gone (own_sets.py, line 18)"),
        ("one", {}, "data.name own_sets:one must be (train, test) or (train, test, classes), got Squares"),
    ],
)
def test_a_function_that_does_not_is_refused(module, name, settings, message):
    with pytest.raises(UsageError) as caught:
        by_name(name, **settings)
    assert message in str(caught.value)


def test_a_run_trains_on_what_a_function_makes(module, tmp_path):
    config = small_config(epochs=1)
    config.data = DataConfig(name="own_sets:make", size=8, batch_size=4)
    assert run(config, tmp_path / "run")["data"]["name"] == "own_sets:make"
