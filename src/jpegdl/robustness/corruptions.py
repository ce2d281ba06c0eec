"""Common corruptions after ImageNet-C, from the package imagecorruptions-imaug, and JPEG files."""

import contextlib
import hashlib
import importlib
import io
from importlib.metadata import version
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image
from torch import Tensor

from jpegdl.errors import UsageError
from jpegdl.extras import require

KINDS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow", "frost",
    "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
SMALLEST = 32  # pixels on a side
_OWN_SEED = ("impulse_noise", "glass_blur")  # draw from no generator that could be seeded, but take a seed


def check_corruptions() -> None:
    """Refuse to go on without the packages.

    Raises:
        UsageError: says how to install them, or what OpenCV cannot load.
    """
    require("corruptions need", "imagecorruptions", "cv2", otherwise=", or give --corruptions '[]'")
    try:
        importlib.import_module("imagecorruptions")
    except ImportError as error:  # a system library of the OpenCV that is not headless, say
        raise UsageError(
            f"imagecorruptions-imaug cannot be used here ({' '.join(str(error).split())}): pip install --force-reinstall "
            "--no-deps opencv-python-headless, or give --corruptions '[]'"
        ) from error


def corruption_versions() -> dict[str, str]:
    """Of the packages that corruptions are made by."""
    return {"imagecorruptions-imaug": version("imagecorruptions-imaug"), "opencv": importlib.import_module("cv2").__version__}


class CorruptedImages:
    """Corrupted images, kept for the next model that is tried on the same ones: most of the time goes into making them.

    Args:
        most: bytes to keep; what comes after is made anew each time.
    """

    def __init__(self, most: int = 2**30) -> None:
        self._found: dict[tuple[str, int, int, bytes], np.ndarray[Any, np.dtype[np.uint8]]] = {}
        self._left = most

    def corrupt(self, images: Tensor, kind: str, severity: int, seeds: list[int]) -> Tensor:
        """Do what :func:`corrupt` does."""
        keys = [(kind, severity, seed, image.tobytes()) for image, seed in zip(_bytes(images), seeds, strict=True)]
        keys = [(*key[:3], hashlib.sha256(key[3]).digest()) for key in keys]
        if any(key not in self._found for key in keys):
            made = corrupt(images, kind, severity, seeds)
            for key, image in zip(keys, _bytes(made), strict=True):
                if key not in self._found and self._left >= image.nbytes:
                    self._found[key] = image
                    self._left -= image.nbytes
            return made
        return _images([self._found[key] for key in keys])


def corrupt(images: Tensor, kind: str, severity: int, seeds: list[int]) -> Tensor:
    """Corrupt images, the same for the same seeds.

    Args:
        images: (N, 3, H, W) in [0, 1], H and W at least 32; rounded to 8 bits first.
        kind: one of :data:`KINDS`.
        severity: 1 to 5.
        seeds: of each image.

    Returns:
        (N, 3, H, W) float32 in [0, 1], of 8 bits.

    Raises:
        UsageError: images that are too small.

    Source: Hendrycks and Dietterich 2019.
    """
    if min(images.shape[2:]) < SMALLEST:
        raise UsageError(
            f"corruptions need images of at least {SMALLEST} pixels on a side, and these have {min(images.shape[2:])}: give "
            "--corruptions '[]'"
        )
    package: Any = importlib.import_module("imagecorruptions")
    kept = np.random.get_state()
    try:
        corrupted = []
        for image, seed in zip(_bytes(images), seeds, strict=True):
            own = {"seed": seed} if kind in _OWN_SEED else {}
            np.random.seed(seed)
            with contextlib.redirect_stdout(io.StringIO()):  # it prints of sizes that it mends by itself
                corrupted.append(package.corrupt(image, severity=severity, corruption_name=kind, **own))
    finally:
        np.random.set_state(kept)
    return _images(corrupted)


def jpeg_versions() -> dict[str, str]:
    """Of the package that JPEG files are made by."""
    return {"pillow": PIL.__version__}


def through_files(images: Tensor, quality: int) -> Tensor:
    """Take images through JPEG files (4:2:0).

    Args:
        images: (N, 3, H, W) in [0, 1]; rounded to 8 bits first.
        quality: 1 to 100.

    Returns:
        (N, 3, H, W) float32 in [0, 1].
    """
    decoded = []
    for image in _bytes(images):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
        decoded.append(np.asarray(Image.open(file)))
    return _images(decoded)


def _bytes(images: Tensor) -> list[np.ndarray[Any, np.dtype[np.uint8]]]:
    """Each (H, W, 3)."""
    return list((255 * images).round().clamp(0, 255).byte().permute(0, 2, 3, 1).contiguous().cpu().numpy())


def _images(arrays: list[np.ndarray[Any, np.dtype[np.uint8]]]) -> Tensor:
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 255
