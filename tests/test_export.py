import json
import logging
import subprocess
import sys

import numpy as np
import pytest
import timm
import torch
from runs import run, small_config
from torch import nn

from jpegdl import JpegLayer, export, prepend
from jpegdl.cli import main
from jpegdl.errors import UsageError
from jpegdl.export import export_model, export_run
from jpegdl.layer import (
    CompandingLayer,
    GainLayer,
    ImageNormalization,
    JpegCascade,
    RegionalJpegLayer,
    SubsampledJpegLayer,
    ZeroDcJpegLayer,
)
from jpegdl.tables import standard_tables
from jpegdl.training import RunFolder

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

TABLES = standard_tables(50)
SIZE = (30, 45)
FIXED = {
    "zero DC, trained hardness": lambda: ZeroDcJpegLayer(*TABLES, hardness=0.7, trainable_alpha=True),
    "regions, whole alphabet": lambda: RegionalJpegLayer(*TABLES, size=SIZE, region=16, alpha=0.01, bits=4, window=None),
    "4:2:0": lambda: SubsampledJpegLayer(*TABLES, alpha=0.01),
    "cascade of companders, gains, normalisation": lambda: JpegCascade(
        [CompandingLayer(90.0, 40.0), CompandingLayer(900.0, 400.0, curve="tanh"), GainLayer(), ImageNormalization()]
    ),
    "none": nn.Identity,
}


class Flat(nn.Module):
    """A backbone that shows every pixel of the layer's output: 4x4 means, so that images may be of any size."""

    def forward(self, x):
        return nn.functional.adaptive_avg_pool2d(x, 2).flatten(1)


def _in_onnxruntime(file, images):
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def _same(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


# ----------------------------------------------------------------------------------------------------- what is computed


@pytest.mark.parametrize("kind", FIXED)
def test_every_layer_at_a_size_that_is_no_multiple_of_8(kind, tmp_path):
    model = prepend(Flat(), FIXED[kind]()).eval()
    check = export_model(model, tmp_path / "model.onnx", size=SIZE)
    assert (check.sizes, check.agreement) == ([SIZE], 1)
    images = torch.rand(3, 3, *SIZE)
    with torch.no_grad():
        _same(_in_onnxruntime(tmp_path / "model.onnx", images), model(images))


@pytest.mark.parametrize("build", [JpegLayer, SubsampledJpegLayer])
def test_sizes_left_open(build, tmp_path):
    backbone = timm.create_model("test_resnet", num_classes=5)
    model = prepend(backbone, build(*TABLES, alpha=0.01)).eval()
    check = export_model(model, tmp_path / "model.onnx", size=64, dynamic_size=True)
    assert len(check.sizes) == 2
    graph = onnx.load(tmp_path / "model.onnx").graph
    names = [dimension.dim_param for dimension in graph.input[0].type.tensor_type.shape.dim]
    assert names == ["batch", "", "height", "width"]
    for count, size in ((1, (64, 64)), (3, (48, 112)), (2, (128, 32))):
        images = torch.rand(count, 3, *size)
        with torch.no_grad():
            _same(_in_onnxruntime(tmp_path / "model.onnx", images), model(images))
