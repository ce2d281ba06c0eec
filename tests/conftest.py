"""Fixtures shared by all tests; what lies in ../shared is skipped where it is missing."""

import os
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton: its kernels run on the CPU, slowly
torch.set_num_threads(1)  # pytest-xdist runs one process per core

SHARED = Path(__file__).resolve().parents[2] / "shared"
#: Inputs and outputs of the published layer, in ``NAME.npz``; the README.md there describes them.
ORACLE = Path(__file__).parent / "oracle"
ORACLE_CASES = ("bits11_tied", "fine_saturating", "noise_coarse", "soft", "typical", "window3")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def few_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded photographs with four patches of each, so that an epoch takes no time."""
    monkeypatch.setattr("jpegdl.data.sources.photos.PHOTO_TRAIN", 4)
    monkeypatch.setattr("jpegdl.data.sources.photos.PHOTO_TEST", 4)


@pytest.fixture
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("no ../shared beside the project")
    return SHARED
