"""Layers of one's own: what a subclass overrides is obeyed in every rounding, and what it leaves alone stays fast."""

import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from jpegdl import JpegLayer
from jpegdl import functional as F
from jpegdl.layer import (
    ROUNDINGS,
    FeatureJpegLayer,
    ImageDctLayer,
    ImageLayer,
    JpegCascade,
    Layer,
    RegionalJpegLayer,
    SubsampledJpegLayer,
    ZeroDcJpegLayer,
)
from jpegdl.layer import jpeg as jpeg_module
from jpegdl.tables import standard_tables

TABLES = standard_tables(50)
IMAGES = torch.linspace(0, 1, 3 * 16 * 24).view(1, 3, 16, 24)


def _no_detail(z):
    """Coefficients of the blocks' mean values alone."""
    return z - F.remove_dc(z)


class _ToCoefficients(JpegLayer):
    def to_coefficients(self, images):
        return _no_detail(super().to_coefficients(images))


class _Alter(JpegLayer):
    def alter(self, z):
        return _no_detail(super().alter(z))


class _ToImages(JpegLayer):
    def to_images(self, z, size):
        return super().to_images(_no_detail(z), size)


class _Mixin:
    def alter(self, z):
        return _no_detail(super().alter(z))


class _Mixed(_Mixin, JpegLayer):
    pass


class _Further(_Alter):
    pass


FLATTENING = [_ToCoefficients, _Alter, _ToImages, _Mixed, _Further]


def _flat_blocks(images):
    blocks = images.detach().unfold(2, 8, 8).unfold(3, 8, 8)
    return bool((blocks - blocks.mean((-2, -1), keepdim=True)).abs().max() < 1e-4)


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("kind", FLATTENING)
def test_what_a_subclass_overrides_is_obeyed_in_every_rounding(kind, rounding):
    assert not _flat_blocks(JpegLayer(*TABLES, rounding=rounding)(IMAGES))
    assert _flat_blocks(kind(*TABLES, rounding=rounding).eval()(IMAGES))  # noise, in training, comes after the coefficients


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_other_steps_for_the_blocks_are_obeyed_in_every_rounding(rounding):
    class Coarser(JpegLayer):
        def at_blocks(self, tables):
            return 3 * super().at_blocks(tables)

    outputs = []
    for layer in (
        Coarser(*TABLES, alpha=0.5, rounding=rounding),
        JpegLayer(*(3 * q for q in TABLES), alpha=1.5, rounding=rounding),
    ):
        torch.manual_seed(1)
        outputs.append(layer(IMAGES))
    torch.testing.assert_close(*outputs, atol=1e-4, rtol=0)


@pytest.mark.parametrize("where", ["instance", "class", "JpegLayer"])
@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("kind", [_ToCoefficients, _Alter, _ToImages])
def test_a_method_that_is_set_later_is_obeyed_in_every_rounding(monkeypatch, kind, rounding, where):
    class Own(JpegLayer):
        pass

    layer = Own(*TABLES, rounding=rounding).eval()
    (name,) = kind.__dict__.keys() & {"to_coefficients", "alter", "to_images"}
    original = getattr(JpegLayer, name)

    def flattening(layer, z, *size):
        return original(layer, _no_detail(z), *size) if name == "to_images" else _no_detail(original(layer, z))

    assert not _flat_blocks(layer(IMAGES))
    if where == "instance":
        setattr(layer, name, partial(flattening, layer))
    else:
        monkeypatch.setattr(Own if where == "class" else JpegLayer, name, flattening)
    assert _flat_blocks(layer(IMAGES))


def test_every_method_that_the_kernel_does_the_work_of_is_marked():
    """Those that the readable path runs, of which a subclass may have another; and no more."""
    layer, run = JpegLayer(*TABLES), set()
    inputs = {
        "forward",
        "check",
        "round_trip",
        "checked",
        "_kernel",
        "rounding",
        "rounding_now",
        "steps",
        "alpha",
        "_in_range",
        "_alpha_of",
    }

    def listen(frame, event, _):
        if event == "call" and frame.f_locals.get("self") is layer and "jpegdl" in Path(frame.f_code.co_filename).parts:
            run.add(frame.f_code.co_name)

    layer(IMAGES)
    layer.round_trip = partial(Layer.round_trip, layer)  # as if it could not be fused
    sys.setprofile(listen)
    layer(IMAGES)
    sys.setprofile(None)
    run -= {"<genexpr>"}
    assert run - inputs == {"to_coefficients", "alter", "at_blocks", "to_images"}
    assert set(jpeg_module._IN_KERNEL) == run - inputs


class _OtherDefaults(JpegLayer):
    """Steps that are never below 1: what tables are in effect is no part of the transform."""

    def __init__(self, *args, **options):
        super().__init__(*args, hardness=0.7, **options)

    @property
    def steps(self):
        return 1 + super().steps


@pytest.mark.parametrize(
    ("build", "fused"),
    [
        (JpegLayer, True),
        (_OtherDefaults, True),
        (_Alter, False),
        (_Further, False),
        (ZeroDcJpegLayer, False),
        (SubsampledJpegLayer, True),
        (lambda: RegionalJpegLayer(size=(16, 24)), False),
    ],
)
def test_the_fused_kernel_serves_whoever_leaves_the_transform_alone(monkeypatch, build, fused):
    calls, kernel = [], jpeg_module.round_trip

    def counting(*args, **options):
        calls.append(args)
        return kernel(*args, **options)

    monkeypatch.setattr(jpeg_module, "round_trip", counting)
    layer = build()
    output = layer(IMAGES)
    assert len(calls) == fused
    parts = layer.to_images(layer.alter(layer.to_coefficients(IMAGES)), (16, 24))
    torch.testing.assert_close(output, parts, atol=1e-4, rtol=0)
    layer.rounding = "hard"
    layer(IMAGES)
    assert len(calls) == 2 * fused


def test_a_layer_from_alter_alone():
    class Blur(ImageDctLayer):
        def __init__(self):
            super().__init__()
            self.strength = torch.nn.Parameter(torch.tensor(0.0))

        def alter(self, z):
            frequency = torch.arange(8.0).view(8, 1) + torch.arange(8.0)
            return z * torch.exp(-self.strength * frequency)

    layer = Blur()
    torch.testing.assert_close(layer(IMAGES), IMAGES, atol=1e-5, rtol=0)
    layer(IMAGES).square().sum().backward()
    assert layer.strength.grad != 0
    assert layer(IMAGES.half()).dtype == torch.float16
    cascade = JpegCascade([layer, JpegLayer()])
    assert cascade(IMAGES).shape == IMAGES.shape
    assert cascade.saturation(IMAGES).shape == (3, 8, 8)


# ------------------------------------------------------------------------------------------------------- what is what


def test_cascades_are_image_layers_and_feature_layers_are_not():
    assert isinstance(JpegCascade([JpegLayer()]), ImageLayer)
    assert isinstance(JpegLayer(), ImageLayer)
    assert not isinstance(FeatureJpegLayer(), ImageLayer)
    with pytest.raises(ValueError, match="got FeatureJpegLayer"):
        JpegCascade([JpegLayer(), FeatureJpegLayer(channels=3)])


def test_a_cascade_within_a_cascade():
    inner = JpegCascade([JpegLayer(*TABLES), ZeroDcJpegLayer(*TABLES)])
    outer = JpegCascade([SubsampledJpegLayer(), inner])
    assert torch.equal(outer(IMAGES), inner(outer[0](IMAGES)))


def test_the_saturation_of_a_cascade_is_the_mean_over_its_layers():
    layers = [JpegLayer(0.1, 0.1, rounding="hard"), JpegLayer(0.5, 0.5, bits=4)]
    cascade = JpegCascade(layers)
    own = [cascade[0].saturation(IMAGES), cascade[1].saturation(cascade[:1](IMAGES))]
    assert own[1].sum() > own[0].sum() > 0
    assert torch.equal(cascade.saturation(IMAGES), (own[0] + own[1]) / 2)
    assert not cascade.saturation(IMAGES).requires_grad


def test_a_cascade_checks_images_as_its_first_layer_does():
    cascade = JpegCascade([RegionalJpegLayer(size=(16, 24)), JpegLayer()])
    cascade.check(IMAGES)
    with pytest.raises(ValueError, match="images must be 16x24"):
        cascade.check(IMAGES[..., :8])
    with pytest.raises(TypeError, match="floating point"):
        cascade.check(IMAGES.int())
