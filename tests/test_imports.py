"""What is imported when; each in a process of its own, because this one has imported everything."""

import gc
import subprocess
import sys

import pytest

import jpegdl
from jpegdl.startup import lean_imports

HEAVY = ("PIL", "jsonargparse", "lightning", "matplotlib", "numba", "scipy", "skimage", "timm", "torch._dynamo", "torchvision")


def _imported(code, *names):
    """Which of ``names`` a process has imported that ran ``code``."""
    report = f"import sys; print(*[name for name in {names!r} if name in sys.modules], file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{report}"], capture_output=True, text=True, timeout=300, check=False, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.split()


def test_the_layer_brings_pytorch_alone():
    code = "from jpegdl import JpegLayer, prepend; import torch; prepend(torch.nn.Flatten(), JpegLayer(rounding='hard'))"
    assert _imported(f"{code}(torch.rand(1, 3, 8, 8))", "torch", *HEAVY) == ["torch"]


def test_the_submodules_are_attributes():
    code = "import jpegdl; jpegdl.functional.block_dct; jpegdl.tables.standard_tables; jpegdl.layer.JpegCascade"
    assert _imported(code, "torch", *HEAVY) == ["torch"]
    code = "import jpegdl; jpegdl.calibrate.sensitivity_tables; jpegdl.data.DataConfig; jpegdl.training.RunConfig"
    assert _imported(code, "lightning") == ["lightning"]


def test_what_the_package_does_not_have():
    with pytest.raises(AttributeError, match="module 'jpegdl' has no attribute 'JpegLayr'"):
        jpegdl.JpegLayr  # noqa: B018
    with pytest.raises(ImportError, match="prepent"):
        from jpegdl import prepent  # noqa: F401
    assert {"JpegLayer", "prepend", "functional", "tables", "calibrate", "__version__"} <= set(dir(jpegdl))


def test_importing_the_backbones_registers_them():
    code = "import timm; import jpegdl.backbones; assert timm.is_model('cifar_resnet20')"
    assert _imported(code, "timm", "lightning") == ["timm"]


@pytest.mark.parametrize(("arguments", "status"), [([], 0), (["--help"], 0), (["--version"], 0), (["paint"], 2)])
def test_the_command_without_a_command_imports_nothing(arguments, status):
    code = f"import sys; sys.stderr = sys.stdout; from jpegdl.cli import main; assert main({arguments}) == {status}"
    assert _imported(f"{code}; sys.stderr = sys.__stderr__", "torch", "numpy", "yaml", *HEAVY) == []


def test_listing_recipes_needs_no_pytorch():
    assert _imported("from jpegdl.cli import main; main(['recipes'])", "torch", "lightning", "timm") == []


def test_the_console_script_imports_nothing_before_main():
    """What it imports is imported outside ``main``, which could not catch an interrupt there."""
    assert _imported("import jpegdl.cli", "torch", "numpy", "yaml", *HEAVY) == []


def test_no_garbage_is_collected_while_a_process_first_imports(monkeypatch):
    with lean_imports():
        assert gc.isenabled()  # as PyTorch is there
    monkeypatch.delitem(sys.modules, "torch")
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(gc.isenabled()))
    frozen = []
    with lean_imports():
        assert not gc.isenabled()
    assert gc.isenabled()
    assert frozen == [False]
