"""Fixtures shared by all tests; what lies in ../shared is skipped where it is missing."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before anything imports triton: its kernels run on the CPU, slowly
torch.set_num_threads(1)  # pytest-xdist runs one process per core

SHARED = Path(__file__).resolve().parents[2] / "shared"
#: Inputs and outputs of the published layer, in ``NAME.npz``; the README.md there describes them.
ORACLE = Path(__file__).parent / "oracle"
ORACLE_CASES = ("bits11_tied", "fine_saturating", "noise_coarse", "soft", "typical", "window3")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests of tests are kept apart from the user's."""
    folder = tmp_path_factory.getbasetemp() / "cache"
    monkeypatch.setattr("jpegdl.data.digests.cache_folder", lambda: folder)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def leave_blank(patch: pytest.MonkeyPatch) -> None:
    """Figures are built, and saved as a single pixel: drawing takes longer than most tests' trainings."""

    def save(self: Figure, file: Any, format: str | None = None, **_: object) -> None:
        if format == "svg":
            file.write('<svg width="1pt" height="1pt"></svg>')
        else:
            Image.new("RGB", (1, 1)).save(file, format or "png")

    patch.setattr(Figure, "savefig", save)


@pytest.fixture(autouse=True, scope="module")
def _undrawn(request: pytest.FixtureRequest) -> Iterator[None]:
    """Blank figures in all modules but those with the mark ``drawn``, which look at them."""
    with pytest.MonkeyPatch.context() as patch:
        if request.node.get_closest_marker("drawn") is None:
            leave_blank(patch)
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blank figures in one test of such a module."""
    leave_blank(monkeypatch)


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
