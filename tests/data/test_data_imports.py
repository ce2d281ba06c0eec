"""The settings and the readers need no libraries that take long to import; names are handed on when they are used."""

import subprocess
import sys

import pytest

import jpegdl
import jpegdl.data

HEAVY = ("torch", "torchvision", "timm", "lightning", "scipy", "skimage", "numba")


def _loaded(code, root):
    """Which heavy libraries ``code`` loads, with nothing of jpegdl loaded before it."""
    package = (
        "import sys, types\njpegdl = sys.modules['jpegdl'] = types.ModuleType('jpegdl')\n"
        f"jpegdl.__path__ = {list(jpegdl.__path__)}"
    )
    report = f"print([name for name in {HEAVY} if name in sys.modules])"
    command = [sys.executable, "-c", "\n".join((package, code, report))]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=root, timeout=300, encoding="utf-8")
    return run.stdout.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "code",
    [
        "from jpegdl.data.checks import check_data\nfrom jpegdl.data.config import DataConfig\n"
        "check_data(DataConfig(auto_augment='rand-m9'))",
        "from jpegdl.data import PHOTOGRAPHS, DataConfig",
        "from jpegdl.data import DataConfig\nfrom jpegdl.data.sources import open_sets\n"
        "open_sets(DataConfig(name='made-up'))[0].read(0)",
    ],
)
def test_settings_and_readers_load_no_heavy_library(code, tmp_path):
    assert _loaded(code, tmp_path) == "[]"


def test_what_is_loaded_is_seen(tmp_path):
    assert "scipy" in _loaded("import scipy", tmp_path)


def test_every_public_name_is_there():
    assert set(jpegdl.data.__all__) <= set(dir(jpegdl.data))
    assert all(getattr(jpegdl.data, name) is not None for name in jpegdl.data.__all__)
    with pytest.raises(AttributeError, match="module 'jpegdl.data' has no attribute 'Dato'"):
        _ = jpegdl.data.Dato
