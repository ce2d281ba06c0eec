import importlib
import json
import logging
import re
import shutil
from dataclasses import replace

import pytest
import torch
import yaml
from torch import nn

from factory import small_config
from jpegdl import JpegLayer, export, prepend
from jpegdl.cli import main
from jpegdl.errors import UsageError
from jpegdl.export import export_model, export_run
from jpegdl.functional import transforms
from jpegdl.layer import (
    CompandingLayer,
    FaintDcLayer,
    GainLayer,
    ImageNormalization,
    JpegCascade,
    LayerConfig,
    LocalContrastLayer,
    RegionalJpegLayer,
    SubsampledJpegLayer,
    ZeroDcJpegLayer,
)
from jpegdl.runs import RunFolder, open_run
from jpegdl.tables import standard_tables

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

TABLES = standard_tables(50)
SIZE = (30, 45)
# The fewer levels a soft quantizer sums over, the faster it is exported.
FIXED = {
    "zero DC, trained hardness": lambda: ZeroDcJpegLayer(*TABLES, hardness=0.7, trainable_alpha=True, window=3),
    "regions, whole alphabet": lambda: RegionalJpegLayer(*TABLES, size=SIZE, region=16, alpha=0.01, bits=2, window=None),
    "4:2:0": lambda: SubsampledJpegLayer(*TABLES, rounding="none"),
    "all others": lambda: JpegCascade(
        [
            *(CompandingLayer(90.0, 40.0), CompandingLayer(900.0, 400.0, curve="tanh"), GainLayer()),
            *(ImageNormalization(), FaintDcLayer(), LocalContrastLayer()),
        ]
    ),
    "none": nn.Identity,
}


class Means(nn.Module):
    """A backbone for images of any size, with three logits that depend on every pixel and where it is."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 3, stride=2)

    def forward(self, x):
        return self.convolution(x).relu().mean((2, 3))


def _in_onnxruntime(file, images):
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def _same(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


# ----------------------------------------------------------------------------------------------------- what is computed


@pytest.mark.parametrize("kind", FIXED)
def test_every_layer_at_a_size_that_is_no_multiple_of_8(kind, tmp_path):
    model = prepend(Means(), FIXED[kind]()).eval()
    check = export_model(model, tmp_path / "model.onnx", size=SIZE)
    assert (check.sizes, check.agreement) == ([SIZE], 1)
    images = torch.rand(3, 3, *SIZE)
    with torch.no_grad():
        _same(_in_onnxruntime(tmp_path / "model.onnx", images), model(images))


@pytest.mark.parametrize(
    "build", [lambda: JpegLayer(*TABLES, alpha=0.01, window=3), lambda: SubsampledJpegLayer(*TABLES, rounding="none")]
)
def test_sizes_left_open(build, tmp_path):
    model = prepend(Means(), build()).eval()
    check = export_model(model, tmp_path / "model.onnx", size=32, dynamic_size=True)
    assert len(check.sizes) == 2
    graph = onnx.load(tmp_path / "model.onnx").graph
    names = [dimension.dim_param for dimension in graph.input[0].type.tensor_type.shape.dim]
    assert names == ["batch", "", "height", "width"]
    for count, size in ((1, (64, 64)), (3, (48, 112)), (2, (128, 32))):
        images = torch.rand(count, 3, *size)
        with torch.no_grad():
            _same(_in_onnxruntime(tmp_path / "model.onnx", images), model(images))


def test_hard_rounding(tmp_path):
    """A coefficient between two levels may go either way, but few of a random image do."""
    model = prepend(Means(), JpegLayer(*TABLES, rounding="hard")).eval()
    check = export_model(model, tmp_path / "model.onnx", size=SIZE)
    assert check.difference <= check.allowed < 0.01
    images = torch.rand(20, 3, *SIZE)
    with torch.no_grad():
        theirs, ours = _in_onnxruntime(tmp_path / "model.onnx", images), model(images)
    assert torch.equal(theirs.argmax(1), ours.argmax(1))
    assert float((theirs - ours).abs().amax(1).median()) < 1e-5


@pytest.mark.parametrize("rounding", ["noise", "ste", "ste-matched", "none"])
def test_roundings_as_they_are_in_eval_mode(rounding, tmp_path):
    model = prepend(Means(), JpegLayer(*TABLES, rounding=rounding)).train()
    export_model(model, tmp_path / "model.pt2", size=8)
    assert model.training
    assert model.layer.luma.requires_grad
    program = torch.export.load(tmp_path / "model.pt2").module()
    images = torch.rand(3, 3, 8, 8)
    _same(program(images), model.eval()(images))


@pytest.mark.soak
@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here")
def test_aotinductor(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "torch._inductor.config.cpp_cache_precompile_headers", False
    )  # worth their time from the second file on
    model = prepend(Means(), JpegLayer(*TABLES, rounding="none")).eval()
    check = export_model(model, tmp_path / "model.pt2", size=SIZE, format="aotinductor", metadata={"classes": ["a", "b", "c"]})
    assert check.agreement == 1
    compiled, images = torch._inductor.aoti_load_package(str(tmp_path / "model.pt2")), torch.rand(5, 3, *SIZE)
    with torch.no_grad():
        _same(compiled(images), model(images))
    assert json.loads(compiled.get_metadata()["classes"]) == ["a", "b", "c"]


@pytest.mark.parametrize("strict", [False, True])
def test_programs_know_nothing_of_this_package(strict):
    transforms._DCT_MATRICES.clear()
    program = torch.export.export(JpegLayer(*TABLES, alpha=0.01), (torch.rand(2, 3, *SIZE),), strict=strict)
    called = {str(node.target) for node in program.graph.nodes if node.op == "call_function"}
    assert not {name for name in called if "jpegdl" in name}
    # With the matrix there already or not, the program is the same.
    again = torch.export.export(JpegLayer(*TABLES, alpha=0.01), (torch.rand(2, 3, *SIZE),), strict=strict)
    assert called == {str(node.target) for node in again.graph.nodes if node.op == "call_function"}


# --------------------------------------------------------------------------------------------------------------- runs


@pytest.fixture(scope="module")
def finished(tmp_path_factory, run_once):
    folder = tmp_path_factory.mktemp("runs")
    run_once(small_config(epochs=1), folder / "mine/jpeg-dl/0")
    run_once(replace(small_config(epochs=1), layer=LayerConfig(kind="none")), folder / "mine/plain/0", "plain")
    return folder


def test_the_command(finished, tmp_path, capsys):
    file = tmp_path / "model.onnx"
    assert main(["export", "--name", "mine", "--output", str(finished), str(file)]) == 0
    out = capsys.readouterr().out
    assert "Checked against PyTorch on 18 photographs (16x16 pixels)" in out
    assert "the same class for 100.0 %" in out
    opened = open_run(RunFolder(finished / "mine/jpeg-dl/0"))
    images = torch.rand(4, 3, 16, 16)
    with torch.no_grad():
        _same(_in_onnxruntime(file, images), opened.model(images))
    about = {entry.key: entry.value for entry in onnx.load(file).metadata_props}
    assert json.loads(about["classes"]) == opened.classes
    assert (about["arm"], about["seed"], about["size"], about["rounding"]) == ("jpeg-dl", "0", "16x16", "soft")
    assert about["preprocessing"].startswith("not turned; RGB; short side to 20 pixels")
    assert "takes" not in about["preprocessing"]
    assert json.loads(about["training_settings"])["epochs"] == 1
    assert "[0, 1], not normalised" in about["input"]


def test_another_rounding_of_a_run_whose_test_images_went_through_jpeg(finished, tmp_path):
    folder, file = RunFolder(tmp_path / "0"), tmp_path / "model.pt2"
    shutil.copytree(finished / "mine/jpeg-dl/0", folder.path)
    settings = yaml.safe_load(folder.config_file.read_text(encoding="utf-8"))
    settings["data"]["jpeg_test"] = 30
    folder.config_file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    export_run(folder, file, rounding="none", size=24)
    extra = {"jpegdl.json": ""}
    program, model = torch.export.load(file, extra_files=extra).module(), open_run(folder).model
    images = torch.rand(3, 3, 24, 24)
    model.layer.rounding = "none"
    with torch.no_grad():
        _same(program(images), model(images))
    assert json.loads(extra["jpegdl.json"])["rounding"] == "none"
    said = json.loads(extra["jpegdl.json"])["preprocessing"]
    assert "JPEG file of quality 30" in said
    assert "middle 16x16" in said
    assert "takes 24x24" in said
    with pytest.raises(UsageError, match="has no quantizer.* rounding 'hard'"):
        export_run(RunFolder(finished / "mine/plain/0"), file, rounding="hard")


# -------------------------------------------------------------------------------------------------------- what goes wrong


def _writer(change):
    def write(program, file, about):
        file.write_bytes(b"new")
        run = program.module()
        return lambda images: change(run(images))

    return write


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda logits: logits + 0.01, "its logits differ from PyTorch's by 0.01 (allowed: "),
        (lambda logits: logits * torch.nan, "its logits differ from PyTorch's by nan (allowed"),
        (lambda logits: logits.no_such_method(), "does not run on images of 30x45 pixels: AttributeError"),
    ],
)
def test_a_wrong_file_does_not_replace_the_one_there(change, message, tmp_path, monkeypatch):
    monkeypatch.setitem(export._WRITERS, "torch", _writer(change))
    (tmp_path / "model.pt2").write_bytes(b"old")
    with pytest.raises(UsageError, match=re.escape(message)):
        export_model(prepend(Means(), nn.Identity()), tmp_path / "model.pt2", size=SIZE)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("model.pt2", b"old")]


def test_a_failed_check_fails_the_command(finished, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(export._WRITERS, "torch", _writer(torch.neg))
    assert main(["export", "--name", "mine", "--output", str(finished), str(tmp_path / "model.pt2")]) == 1
    assert "is not written: its logits differ from PyTorch's" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


class Tupled(Means):
    def forward(self, x):
        return (super().forward(x),)


class Counting(Means):
    def forward(self, x):
        return super().forward(x) * (2.0 if x.sum() > 0 else 1.0)


@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (lambda: prepend(Means(), JpegLayer(rounding="sample")), {}, "rounding 'sample' draws levels at random"),
        (
            lambda: prepend(Means(), RegionalJpegLayer(size=16)),
            {"dynamic_size": True},
            "has a table for each region",
        ),
        (lambda: prepend(Means(), JpegLayer()), {"dynamic_size": True, "size": 30}, "multiples of 8, got 30x30"),
        (lambda: prepend(Means(), SubsampledJpegLayer()), {"dynamic_size": True, "size": 24}, "multiples of 16, got 24x24"),
        (Means, {"size": 0}, "size must be a number of pixels, or height and width, got 0"),
        (Means, {"size": (8, 8, 8)}, "size must be a number of pixels"),
        (Means, {"format": "tflite"}, "format must be one of onnx, torch, aotinductor, got 'tflite'"),
        (Means, {"path": "model.h5"}, "format of model.h5"),
        (Means, {"path": "model.onnx", "format": "torch"}, ".pt2, got model.onnx"),
        (Tupled, {}, "must give one tensor of logits, (N, classes), got tuple"),
        (Counting, {}, "torch.export cannot export this model for any number of images: "),
    ],
)
def test_what_cannot_be_exported(build, options, message, tmp_path):
    options = {"size": 16, "path": "model.pt2", **options}
    path = tmp_path / options.pop("path")
    with pytest.raises(UsageError, match=re.escape(message)):
        export_model(build(), path, **options)
    assert not list(tmp_path.iterdir())


def test_missing_packages(tmp_path, monkeypatch):
    monkeypatch.setattr("jpegdl.extras.installed", lambda name: False)
    with pytest.raises(UsageError, match=r"needs onnx, onnxscript, onnxruntime, which are not installed: pip .*export"):
        export_model(Means(), tmp_path / "model.onnx", size=16)


def test_no_compiler(tmp_path):
    # By its own patch: to undo a monkeypatch hides the setting, in PyTorch 2.14, from all that compiles later.
    broken = importlib.import_module("torch._inductor.config").patch({"cpp.cxx": ("no-such-compiler",)})
    with broken, pytest.raises(UsageError, match=r"AOTInductor needs a C\+\+"):
        export_model(Means(), tmp_path / "model.pt2", size=16, format="aotinductor")


def test_exporting_leaves_loggers_as_they_were(tmp_path):
    logger = logging.getLogger("torch")
    level = logger.level
    export_model(Means(), tmp_path / "model.pt2", size=16)
    assert logger.level == level
