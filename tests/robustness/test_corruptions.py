"""Common corruptions: the same for the same seeds, and nothing left behind."""

import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image

from jpegdl.data import photograph
from jpegdl.errors import UsageError
from jpegdl.robustness import corruptions
from jpegdl.robustness.corruptions import KINDS, check_corruptions, corrupt, through_files

needs_package = pytest.mark.skipif(importlib.util.find_spec("imagecorruptions") is None, reason="needs the extra attack")


def _images(size=40):
    grey = torch.from_numpy(np.array(photograph("camera"))[100 : 100 + size, 150 : 150 + 2 * size]).float() / 255
    return torch.stack([grey[:, :size], grey[:, size:]])[:, None].expand(2, 3, size, size).contiguous()


@needs_package
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_the_same_for_the_same_seeds(kind, capsys):
    images, before = _images(), np.random.get_state()[1].copy()
    once, again, other = (corrupt(images, kind, 3, seeds) for seeds in ([1, 2], [1, 2], [3, 2]))
    assert torch.equal(once, again)
    assert torch.equal(once[1], other[1])
    fixed = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}
    assert torch.equal(once[0], other[0]) == (kind in fixed)
    assert np.array_equal(np.random.get_state()[1], before)
    assert once.shape == images.shape
    assert once.min() >= 0
    assert once.max() <= 1
    assert (once - images).abs().mean() > 0.005
    assert capsys.readouterr().out == ""


@needs_package
def test_a_corruption_grows_with_its_severity():
    images = _images()
    changes = [float((corrupt(images, "gaussian_noise", severity, [0, 1]) - images).abs().mean()) for severity in (1, 3, 5)]
    assert changes == sorted(changes)
    assert changes[0] < 0.6 * changes[2]


def test_corrupted_images_are_made_once_for_several_models(monkeypatch):
    images, made = _images(), []

    def noise(images, kind, severity, seeds):
        made.append((kind, severity, tuple(seeds)))
        return (images + torch.tensor(seeds)[:, None, None, None] / 100 + severity / 50).clamp(0, 1).mul(255).round() / 255

    monkeypatch.setattr(corruptions, "corrupt", noise)
    kept = corruptions.CorruptedImages()
    expected = noise(images, "fog", 2, [5, 6])
    made.clear()
    for _ in range(2):
        assert torch.equal(kept.corrupt(images, "fog", 2, [5, 6]), expected)
        assert torch.equal(kept.corrupt(images.flip(0), "fog", 2, [6, 5]), expected.flip(0))  # in whatever batches
    assert made == [("fog", 2, (5, 6))]
    others = [
        (images, "fog", 3, [5, 6]),
        (images, "snow", 2, [5, 6]),
        (images, "fog", 2, [5, 7]),
        (images / 2, "fog", 2, [5, 6]),
    ]
    for other in others:
        assert torch.equal(kept.corrupt(*other), noise(*other))
    assert len(made) == 1 + 2 * len(others)
    full = corruptions.CorruptedImages(most=40 * 40 * 3)  # room for one of two
    for _ in range(2):
        assert torch.equal(full.corrupt(images, "fog", 2, [5, 6]), expected)
    assert len(made) == 3 + 2 * len(others)


def test_images_that_are_too_small():
    with pytest.raises(UsageError, match="at least 32.*31"):
        corrupt(torch.rand(1, 3, 40, 31), "fog", 1, [0])


def test_jpeg_files_are_those_that_pillow_writes(tmp_path):
    images = _images()
    image = Image.fromarray((images[0] * 255).round().byte().permute(1, 2, 0).numpy())
    image.save(tmp_path / "x.jpg", quality=20, subsampling="4:2:0")
    with Image.open(tmp_path / "x.jpg") as read:
        expected = torch.from_numpy(np.array(read)).permute(2, 0, 1).float() / 255
    assert torch.equal(through_files(images, 20)[0], expected)


def test_a_missing_package_is_one_line_with_the_command(monkeypatch):
    monkeypatch.setattr("jpegdl.extras.installed", lambda name: name != "cv2")
    expected = r"^corruptions need opencv-python-headless, which is not installed: pip install '.\[attack\]' .*, or give --c"
    with pytest.raises(UsageError, match=expected):
        check_corruptions()


@needs_package
def test_a_package_that_cannot_be_imported_is_one_line(monkeypatch):
    def broken(name):
        raise ImportError("libGL.so.1: cannot open\nshared object file")

    monkeypatch.setattr(corruptions.importlib, "import_module", broken)
    with pytest.raises(UsageError, match=r"used here \(libGL.so.1:.*file\): pip install --force"):
        check_corruptions()
