"""Layers of one's own: what a subclass overrides is obeyed in every rounding, and what it leaves alone stays fast."""

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


class _Analyze(JpegLayer):
    def analyze(self, images):
        return _no_detail(super().analyze(images))


class _Alter(JpegLayer):
    def alter(self, z):
        return _no_detail(super().alter(z))


class _Synthesize(JpegLayer):
    def synthesize(self, z, size):
        return super().synthesize(_no_detail(z), size)


class _Coefficients(JpegLayer):
    def coefficients(self, images):
        return _no_detail(super().coefficients(images))


class _Process(JpegLayer):
    def process(self, coefficients):
        return _no_detail(super().process(coefficients))


class _Quantize(JpegLayer):
    def quantize(self, coefficients):
        return _no_detail(super().quantize(coefficients))


class _Reconstruct(JpegLayer):
    def reconstruct(self, coefficients, size):
        return super().reconstruct(_no_detail(coefficients), size)


class _Mixin:
    def alter(self, z):
        return _no_detail(super().alter(z))


class _Mixed(_Mixin, JpegLayer):
    pass


class _Further(_Alter):
    pass


FLATTENING = [_Analyze, _Alter, _Synthesize, _Coefficients, _Process, _Quantize, _Reconstruct, _Mixed, _Further]


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


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_a_method_set_on_one_layer_is_obeyed_in_every_rounding(rounding):
    layer = JpegLayer(*TABLES, rounding=rounding)
    layer.alter = lambda z: _no_detail(JpegLayer.alter(layer, z))
    assert _flat_blocks(layer(IMAGES))


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
        (SubsampledJpegLayer, False),
        (lambda: RegionalJpegLayer(size=(16, 24)), False),
    ],
)
def test_the_fused_kernel_serves_whoever_leaves_the_transform_alone(monkeypatch, build, fused):
    calls, kernel = [], jpeg_module.soft_round_trip

    def counting(*args, **options):
        calls.append(args)
        return kernel(*args, **options)

    monkeypatch.setattr(jpeg_module, "soft_round_trip", counting)
    layer = build()
    output = layer(IMAGES)
    assert len(calls) == fused
    parts = layer.reconstruct(layer.quantize(layer.coefficients(IMAGES)), (16, 24))
    torch.testing.assert_close(output, parts, atol=1e-4, rtol=0)
    layer.rounding = "hard"
    layer(IMAGES)
    assert len(calls) == fused


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
