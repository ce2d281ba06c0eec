"""The Triton kernels of the exact round trip, interpreted where there is no GPU, and what Triton's compiler says."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import jpegdl
from jpegdl import functional as F
from jpegdl.kernels import exact, exact_images
from jpegdl.layer import jpeg_paths

cuda = pytest.importorskip("jpegdl.kernels.cuda")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _in_triton(monkeypatch):
    monkeypatch.setattr(exact, "_kernels", lambda device, kind: cuda)
    with torch.device(DEVICE):
        yield


def _tables(n=None):
    shape = (8, 8) if n is None else (n, 8, 8)
    return torch.randint(1, 60, shape).float(), torch.randint(1, 256, (8, 8)).float()


@pytest.mark.parametrize("subsampling", F.SAMPLING)
def test_pixels_are_those_of_the_readable_path(subsampling):
    for channels, size, each in ((3, (17, 33), True), (3, (9, 5), False), (3, (3, 4), True), (1, (16, 9), False)):
        images = torch.randint(0, 256, (2, channels, *size), dtype=torch.uint8)
        images[0] = images[0] // 128 * 255  # as steep as can be
        luma, chroma = _tables(2 if each else None)
        expected = F.exact_round_trip(images, luma, chroma, subsampling)
        assert torch.equal(exact_images(images, luma, chroma, subsampling), expected)
        strided = images.contiguous(memory_format=torch.channels_last)
        assert torch.equal(exact_images(strided, luma, chroma, subsampling), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_floating_point_is_rounded_as_bytes_are_and_nan_stays_within_its_image(dtype):
    images, (luma, chroma) = torch.rand(3, 3, 9, 10).mul(1.2).sub(0.1).to(dtype), _tables()
    images[1, 1, 8, 9] = float("nan")
    images[2, 0, 0, 0], images[2, 0, 0, 1] = float("inf"), -float("inf")
    found = exact_images(images, luma, chroma, "4:2:0")
    expected = F.exact_round_trip(exact.to_pixels(images), luma, chroma, "4:2:0")
    assert found.dtype == dtype
    assert torch.equal(found[::2], (expected[::2].to(torch.promote_types(dtype, torch.float32)) / 255).to(dtype))
    assert found[1].isnan().all()


@pytest.mark.parametrize("gradient", ["ste", "hard"])
@pytest.mark.parametrize(("subsampling", "channels"), [("4:4:4", 3), ("4:2:2", 3), ("4:2:0", 3), ("4:2:0", 1)])
def test_gradients_are_those_of_the_readable_path(monkeypatch, gradient, subsampling, channels):
    images = torch.rand(2, channels, *((17, 11) if gradient == "ste" else (9, 4)))
    luma, chroma = _tables(2 if gradient == "ste" else None)
    upstream = torch.randn_like(images)
    found = []
    for kernels in (True, False):
        if not kernels:
            monkeypatch.setattr(jpeg_paths, "exact_gradients", lambda *_, **__: None)
        inputs = [tensor.clone().requires_grad_() for tensor in (images, luma, chroma)]
        output = jpegdl.jpeg(inputs[0], tables=inputs[1:], subsampling=subsampling, rounding=gradient)
        found.append(torch.autograd.grad(output, inputs, upstream, materialize_grads=True))
    for ours, readable in zip(*found, strict=True):
        torch.testing.assert_close(ours, readable, rtol=1e-4, atol=1e-5 * readable.abs().max().item())


# One pass of each rounding, and of each kind: with these all that is written in Triton has been compiled.
_COMPILED = """
import sys
sys.path.insert(0, sys.argv[1])
from triton_report import compiled, passes
for name in sys.argv[2:]:
    rounding, part, way, dtype, tables = name.split()
    kernel, constants = passes(rounding, part, each=tables == "each")[way]
    made = compiled(kernel, 80, dtype, constants)
    print(name, ".version" in made.asm["ptx"], len(made.asm["cubin"]) > 1000)
"""


def test_the_kernels_compile_without_a_gpu(tmp_path):
    """Triton's interpreter takes more than its compiler does: that for NVIDIA's GPUs comes with Triton."""
    pytest.importorskip("triton.backends.nvidia")
    names = [
        "soft luma forward fp32 shared",
        "hard luma backward bf16 each",
        "ste chroma backward fp32 shared",
        "ste-matched luma backward fp32 shared",
        "noise chroma forward fp16 each",
        "sample luma forward fp32 each",
        "none luma backward fp32 shared",
        "exact chroma forward fp32 shared",
        "exact luma backward fp32 each",
        "exact 4:4:4 forward u8 shared",
        "exact 4:4:4 NaN fp32 shared",
    ]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", _COMPILED, str(BENCHMARKS), *names],
        capture_output=True,
        text=True,
        check=False,
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)},
        timeout=300,
        encoding="utf-8",
    )
    assert done.stdout.splitlines() == [f"{name} True True" for name in names], done.stderr[-2000:]
