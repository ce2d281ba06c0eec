import json
import subprocess
import sys

import pytest
import torch
from PIL import Image

from jpegdl import JpegLayer
from jpegdl import bench as benches
from jpegdl.bench import BenchConfig, Straightforward, bench
from jpegdl.cli import main
from jpegdl.errors import UsageError
from jpegdl.tables import standard_tables

pytestmark = pytest.mark.drawn


@pytest.fixture
def small(monkeypatch):
    """One small size, and memory measured in this process."""
    monkeypatch.setattr(benches, "_COMPARED", (2, 16))
    monkeypatch.setattr(benches, "peak_extra", lambda name, kind, device: 1.5 if name == "jpegdl" else None)

    class Here:
        def __init__(self, *args, **kwargs): ...

        def __enter__(self):
            return self

        def __exit__(self, *args): ...

        def submit(self, call, *arguments):
            return type("Done", (), {"result": lambda self: call(*arguments)})()

    monkeypatch.setattr(benches, "ProcessPoolExecutor", Here)


def test_what_is_compared_computes_the_same():
    tables, images = standard_tables(75), torch.rand(2, 3, 24, 32)
    ours, formula = JpegLayer(*tables), Straightforward(*tables)
    torch.testing.assert_close(formula(images), ours(images), atol=1e-4, rtol=0)
    gradients = [torch.autograd.grad(layer(images).square().sum(), layer.luma)[0] for layer in (ours, formula)]
    torch.testing.assert_close(*gradients, rtol=1e-2, atol=1e-2)


def test_table_plot_and_numbers(small, tmp_path):
    said = []
    config = BenchConfig(device="cpu", sides=[8, 16], batches=[1], repeats=2, resnet=False, output=str(tmp_path))
    text = bench(config, said.append)
    assert text == (tmp_path / "bench.md").read_text(encoding="utf-8") == "\n".join(said) + "\n"
    rows = [line for line in text.splitlines() if "x3x" in line and line.startswith("|")]
    assert [row.split(" | ")[0] for row in rows] == [
        f"| {shape}" for shape in ("1x3x8x8", "1x3x16x16", "2x3x16x16") for _ in range(3)
    ]
    assert "| forward | 1.5 | not measured |" in text
    found = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert len(found["times"]) == 9
    assert all(min(entry["seconds"].values()) > 0 for entry in found["times"])
    assert set(found["bits"]) == {"3", "8", "11", "16", "None"}
    with Image.open(tmp_path / "bench.png") as image:
        assert image.size[0] > 800


def test_large_batches_are_left_to_the_layer(small, monkeypatch, tmp_path):
    monkeypatch.setattr(benches, "_LARGEST_OF_OTHERS", 1000)
    monkeypatch.setattr(benches, "_LARGEST", 5000)
    config = BenchConfig(device="cpu", sides=[32, 64], batches=[1], repeats=1, resnet=False, output=str(tmp_path))
    bench(config)
    times = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))["times"]
    assert {entry["side"] for entry in times} == {16, 32}  # 64 is too large altogether
    assert set(times[-1]["seconds"]) == {"jpegdl", "(c) copy"}


def test_peak_memory_is_that_of_the_pass():
    code = """
from jpegdl import bench
bench._COMPARED = (32, 128)
print(*(bench.peak_extra(name, "+ tables", "cpu") for name in ("(a) softmax", "jpegdl")))
"""  # in a process of its own: one that holds freed memory would take the pass's from there
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8"
    ).stdout.split()
    if found == ["None", "None"]:
        pytest.skip("this system does not tell")
    softmax, ours = map(float, found)
    assert softmax > 5 * ours > 0


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"device": "gpu"}, "device must be"),
        ({"sides": []}, "sides"),
        ({"batches": [0]}, "batches"),
        ({"repeats": 0}, "repeats"),
    ],
)
def test_bad_settings(change, named):
    with pytest.raises(UsageError, match=named):
        bench(BenchConfig(**change))


def test_the_command(small, capsys, tmp_path):
    arguments = ["bench", "--device", "cpu", "--sides", "[8]", "--batches", "[1]", "--repeats", "1", "--resnet", "false"]
    assert main([*arguments, "--output", str(tmp_path / "b")]) == 0
    assert "| 1x3x8x8 | forward |" in capsys.readouterr().out
    assert main(["bench", "--repeats", "0"]) == 1
    assert "jpegdl: error: repeats must be at least 1" in capsys.readouterr().err
