"""What the layer asks of those who use it: few imports, and types that a checker can follow."""

import importlib.util
import re
import subprocess
import sys
import textwrap
from pathlib import Path

HERE = Path(__file__).parent
HEAVY = ("timm", "torchvision", "lightning", "numba", "triton", "scipy", "matplotlib", "skimage", "PIL", "torch._dynamo")

_SCRIPT = """
import sys
import torch
before = set(sys.modules)
{}
print(*sorted(set(sys.modules) - before))
"""


def _imported(code):
    """The modules that ``code`` imports beside those of PyTorch."""
    done = subprocess.run([sys.executable, "-c", _SCRIPT.format(code)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_the_layer_imports_pytorch_and_little_else():
    """Each of these modules takes from a tenth of a second to several."""
    assert all(importlib.util.find_spec(name) for name in HEAVY if name != "triton")  # they are called that
    code = "from jpegdl import JpegLayer, prepend; JpegLayer(2.0, rounding='hard')(torch.rand(1, 3, 8, 8))"
    assert not _imported(code) & set(HEAVY)


def test_type_checked_code_is_readmes():
    readme, checked = (HERE.parent / "README.md").read_text(), (HERE / "typing" / "readme.py").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        assert textwrap.indent(block, "    ") in checked
