"""The Triton kernels of the exact round trip, interpreted where there is no GPU, and what Triton's compiler says."""

from pathlib import Path

import pytest
import torch

import jpegdl
from jpegdl import functional as F
from jpegdl.kernels import exact, exact_images
from jpegdl.layer import jpeg_paths
from jpegdl.settings import ROUNDINGS

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
        strided = images.contiguous(memory_format=torch.channels_last) if each else images
        expected = F.exact_round_trip(images, luma, chroma, subsampling)
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


@pytest.mark.parametrize(
    ("gradient", "subsampling", "shape", "each"),
    [
        ("ste", "4:4:4", (2, 3, 9, 10), True),
        ("hard", "4:2:2", (2, 3, 9, 4), False),
        ("ste", "4:2:0", (2, 3, 17, 11), True),
        ("ste", "4:2:0", (2, 1, 9, 8), False),
    ],
)
def test_gradients_are_those_of_the_readable_path(monkeypatch, gradient, subsampling, shape, each):
    images, (luma, chroma) = torch.rand(shape), _tables(shape[0] if each else None)
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


# A pass each way of luma and of chroma, of float and of whole numbers, and all.
_SOME = (
    "soft luma backward fp32 channels=1 capped=0 want_images=0",
    "hard chroma backward bf16 each=1 down=1",
    "noise chroma forward fp16 each=1 tables=2",
    "exact luma forward u8",
    "exact 4:4:4 NaN fp32",
)
_ALL = tuple(
    f"{rounding} {part} {way}"
    for rounding in (*ROUNDINGS, "exact")
    for part in ("4:4:4", "luma", "chroma")
    for way in ("forward fp32 each=1", "backward bf16", "forward u8 down=1 whole=1", "backward fp32 each=1 down=1 even=0")
)
_COMPILED = """
import os, signal, sys
signal.alarm(900)
sys.path.insert(0, {benchmarks!r})
os.environ.pop("TRITON_INTERPRET", None)
os.environ["TRITON_CACHE_DIR"] = {cache!r}
from triton_report import compiled, passes
for name in {names}:
    rounding, part, way, dtype, *changes = name.split()
    changes = {{key: int(value) for key, value in (change.split("=") for change in changes)}}
    kernel, constants = passes(rounding, part, **changes)[way]
    made = compiled(kernel, 80, dtype, constants)
    print(name, ".version" in made.asm["ptx"], len(made.asm["cubin"]) > 1000)
"""


@pytest.mark.parametrize("names", [_SOME, pytest.param(_ALL, marks=pytest.mark.soak)], ids=["some", "all"])
def test_the_kernels_compile_without_a_gpu(fresh, tmp_path, names):
    """Triton's interpreter takes more than its compiler does, which comes with Triton for NVIDIA's GPUs."""
    pytest.importorskip("triton.backends.nvidia")
    done = fresh(_COMPILED.format(benchmarks=str(BENCHMARKS), cache=str(tmp_path), names=names))
    assert done.stdout.splitlines() == [f"{name} True True" for name in names], done.stderr[-2000:]
