"""Layers under PyTorch's transforms and tracers, on the readable path; the fused one has its own tests."""

import io
import warnings

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from jpegdl import JpegLayer
from jpegdl.layer import (
    CompandingLayer,
    FaintDcLayer,
    GainLayer,
    JpegCascade,
    LocalContrastLayer,
    RegionalJpegLayer,
    SubsampledJpegLayer,
    ZeroDcJpegLayer,
)
from jpegdl.tables import standard_tables

TABLES = standard_tables(50)
SIZE = (12, 20)
BUILDS = {
    "hard": lambda: JpegLayer(*TABLES, rounding="hard"),
    "zero DC": lambda: ZeroDcJpegLayer(*TABLES, alpha=0.01),
    "4:2:0": lambda: SubsampledJpegLayer(*TABLES, hardness=0.7),
    "regions": lambda: RegionalJpegLayer(*TABLES, size=SIZE, region=8, alpha=0.01),
    "cascade": lambda: JpegCascade([ZeroDcJpegLayer(*TABLES, alpha=0.01), CompandingLayer(90.0, 40.0)]),
    "rivals": lambda: JpegCascade([GainLayer(), FaintDcLayer(), LocalContrastLayer()]),
}


@pytest.fixture(params=BUILDS)
def layer(request):
    return BUILDS[request.param]()


def _close(ours, theirs):
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)


def test_vmap_over_channels_last(layer):
    images = torch.rand(4, 2, 3, *SIZE)
    expected = layer(images.flatten(0, 1)).unflatten(0, (4, 2))
    last = images.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, (4, 2))
    _close(torch.func.vmap(layer)(last), expected)
    _close(torch.func.vmap(layer)(images), expected)
    _close(torch.func.vmap(layer, in_dims=1, out_dims=1)(last), expected)


def test_gradients_of_each_sample(layer):
    images, parameters = torch.rand(3, 1, 3, *SIZE), dict(layer.named_parameters())

    def loss(parameters, images):
        return torch.func.functional_call(layer, parameters, (images,)).square().sum()

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, images)
    for index in range(3):
        alone = torch.autograd.grad(loss(parameters, images[index]), parameters.values())
        for ours, theirs in zip(each.values(), alone, strict=True):
            torch.testing.assert_close(ours[index], theirs, atol=1e-3, rtol=1e-4)


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit.trace:DeprecationWarning")
def test_jit_trace(layer):
    traced, images = torch.jit.trace(layer, torch.rand(2, 3, *SIZE)), torch.rand(2, 3, *SIZE)
    _close(traced(images), layer(images))
    file = io.BytesIO()
    torch.jit.save(traced, file)  # which refuses what only Python can compute
    file.seek(0)
    loaded = torch.jit.load(file)
    _close(loaded(images), layer(images))
    grads = [torch.autograd.grad(module(images).square().sum(), module.parameters()) for module in (loaded, layer)]
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)


def test_make_fx(layer):
    traced, images = make_fx(layer)(torch.rand(2, 3, *SIZE)), torch.rand(2, 3, *SIZE)
    _close(traced(images), layer(images))
    assert not torch.equal(traced(images), traced(1 - images))


def test_export(layer):
    program, images = torch.export.export(layer, (torch.rand(2, 3, *SIZE),)), torch.rand(2, 3, *SIZE)
    _close(program.module()(images), layer(images))


def test_no_warning_in_ordinary_use(layer):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(torch.rand(2, 3, *SIZE)).sum().backward()
