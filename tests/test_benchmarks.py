"""The benchmarks: what stands beside this package, and that of the layer, on batches so small that it takes seconds."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from jpegdl import JpegLayer
from jpegdl.layer import SubsampledJpegLayer
from jpegdl.tables import standard_tables

FILE = Path(__file__).resolve().parents[1] / "benchmarks" / "layer.py"

pytestmark = pytest.mark.drawn


def benchmark(name):
    spec = importlib.util.spec_from_file_location(f"benchmark_of_{name}", FILE.with_stem(name))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def layer():
    return benchmark("layer")


def test_diff_jpegs_formula_is_a_jpeg():
    """With the values of discrete steps it is the codec in floating point; the stand-ins' are within an eighth of them."""
    formula = benchmark("diff_jpeg").diff_jpeg
    smooth = torch.nn.functional.interpolate(torch.rand(2, 3, 5, 7, dtype=torch.float64), size=(37, 50), mode="bicubic")
    images = smooth.clamp(0.1, 0.9).requires_grad_()
    qualities = torch.tensor([20.0, 75.0], dtype=torch.float64, requires_grad=True)
    for i, quality in enumerate((20, 75)):
        layer = SubsampledJpegLayer.from_quality(quality, rounding="hard")
        discrete = formula(images, qualities, ste=True)[i].detach()
        torch.testing.assert_close(discrete, layer(images.detach())[i].clamp(0, 1).detach(), atol=0.02, rtol=0)
    for ste in (True, False):
        output = formula(images, qualities, ste=ste)
        by_images, by_quality = torch.autograd.grad((output - images).square().sum(), (images, qualities))
        assert by_images.isfinite().all()
        assert by_quality.isfinite().all()
        assert by_quality.all()


@pytest.fixture
def small(layer, monkeypatch):
    """One small size, and memory measured in this process."""
    monkeypatch.setattr(layer, "_COMPARED", (2, 16))
    monkeypatch.setattr(layer, "_FAMILY", ((2, 16),))
    monkeypatch.setattr(layer, "peak_extra", lambda name, kind, device: 1.5 if name == "jpegdl" else None)

    class Here:
        def __init__(self, *args, **kwargs): ...

        def __enter__(self):
            return self

        def __exit__(self, *args): ...

        def submit(self, call, *arguments):
            return type("Done", (), {"result": lambda self: call(*arguments)})()

    monkeypatch.setattr(layer, "ProcessPoolExecutor", Here)
    return layer


def test_what_is_compared_computes_the_same(layer):
    tables, images = standard_tables(75), torch.rand(2, 3, 24, 32)
    ours, formula = JpegLayer(*tables), layer.Straightforward(*tables)
    torch.testing.assert_close(formula(images), ours(images), atol=1e-4, rtol=0)
    gradients = [torch.autograd.grad(each(images).square().sum(), each.luma)[0] for each in (ours, formula)]
    torch.testing.assert_close(*gradients, rtol=1e-2, atol=1e-2)


def test_table_plot_and_numbers(small, tmp_path, capsys):
    small.main(
        ["--device", "cpu", "--sides", "8", "16", "--batches", "1", "--repeats", "2", "--no-resnet", "--output", str(tmp_path)]
    )
    text = (tmp_path / "bench.md").read_text(encoding="utf-8")
    assert capsys.readouterr().out.startswith(text)
    rows = [line for line in text.splitlines() if "x3x" in line and line.startswith("|")]
    assert [row.split(" | ")[0] for row in rows] == [
        f"| {shape}" for shape in ("1x3x8x8", "1x3x16x16", "2x3x16x16") for _ in range(3)
    ]
    assert "| forward | 1.5 | not measured |" in text
    found = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert len(found["times"]) == 9
    assert all(min(entry["seconds"].values()) > 0 for entry in found["times"])
    assert "| soft, 4:2:0 |" in text
    assert all(seconds > 0 for seconds in found["family"]["2x3x16x16"].values())
    assert set(found["bits"]) == {"3", "8", "11", "16", "None"}
    with Image.open(tmp_path / "bench.png") as image:
        assert image.size[0] > 800


def test_large_batches_are_left_to_the_layer(small, monkeypatch, tmp_path):
    monkeypatch.setattr(small, "_LARGEST_OF_OTHERS", 1000)
    monkeypatch.setattr(small, "_LARGEST", 5000)
    sizes = ["--sides", "32", "64", "--batches", "1", "--repeats", "1", "--no-resnet"]
    small.main(["--device", "cpu", *sizes, "--output", str(tmp_path)])
    times = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))["times"]
    assert {entry["side"] for entry in times} == {16, 32}  # 64 is too large altogether
    assert set(times[-1]["seconds"]) == {"jpegdl", "(c) copy"}


def test_peak_memory_is_that_of_the_pass(fresh):
    code = f"""
import sys, warnings
warnings.resetwarnings()
sys.path.insert(0, {str(FILE.parent)!r})
import layer
layer._COMPARED = (32, 128)
print(*(layer.peak_extra(name, "+ tables", "cpu") for name in ("(a) softmax", "jpegdl")))
"""  # in a process of its own: one that holds freed memory would take the pass's from there
    found = fresh(code).stdout.split()
    if found == ["None", "None"]:
        pytest.skip("this system does not tell")
    softmax, ours = map(float, found)
    assert softmax > 5 * ours > 0


@pytest.mark.parametrize("change", [["--device", "gpu"], ["--sides"], ["--batches", "0"], ["--repeats", "0"]])
def test_bad_settings(layer, change, capsys):
    with pytest.raises(SystemExit):
        layer.main(change)
    assert change[0] in capsys.readouterr().err
