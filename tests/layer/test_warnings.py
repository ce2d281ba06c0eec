"""What a layer says of a first batch that is no batch of images in [0, 1], and what it leaves alone."""

import copy
import pickle
import warnings

import pytest
import torch
import torch._dynamo.testing
from torch import nn
from torch.fx.experimental.proxy_tensor import make_fx

from jpegdl import JpegLayer, prepend
from jpegdl.layer import FeatureJpegLayer, GainLayer, JpegCascade

IMAGES = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
MEAN, STD = (torch.tensor(x).view(3, 1, 1) for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
NORMALIZED = (IMAGES - MEAN) / STD
NORMALISED_ALREADY, DIVIDE, LOOK_FOR_IT = (
    "as if they were normalised already",
    "divide them by 255",
    "images hold NaN or infinity",
)


def _with(value):
    images = IMAGES.clone()
    images[1, 2, 3, 4] = value
    return images


def _said(layer, images):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        layer(images)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (NORMALIZED, NORMALISED_ALREADY),
        (2 * IMAGES - 1, NORMALISED_ALREADY),
        (NORMALIZED.half(), NORMALISED_ALREADY),
        (NORMALIZED.to(memory_format=torch.channels_last).double(), NORMALISED_ALREADY),
        (255 * IMAGES, DIVIDE),
        (_with(float("nan")), LOOK_FOR_IT),
        (_with(-float("inf")), LOOK_FOR_IT),
    ],
)
@pytest.mark.parametrize("layer", [JpegLayer, GainLayer, lambda: JpegCascade([JpegLayer(), JpegLayer()])])
def test_what_is_no_image_is_said_once(layer, images, message):
    layer = layer()
    (said,) = _said(layer, images)
    assert message in said
    assert _said(layer, images) == []


def test_the_warning_says_what_it_saw():
    images = IMAGES.clone()
    images[0], images[1, 0, 0, 0] = -2.5, 3.25
    assert "lie between -2.5 and 3.25" in _said(JpegLayer(), images)[0]


@pytest.mark.parametrize(
    "images",
    [
        IMAGES,
        IMAGES.half(),
        (255 * IMAGES).to(torch.uint8),
        IMAGES * 1.2 - 0.1,  # resizing overshoots
        torch.where(torch.rand(2, 3, 16, 16) < 0.05, NORMALIZED, IMAGES),  # a rectangle of noise
        IMAGES[:0],
        torch.zeros(1, 3, 8, 8),
    ],
)
def test_images_are_no_reason_to_warn(images):
    assert _said(JpegLayer(), images) == []


def test_features_may_have_any_range():
    assert _said(FeatureJpegLayer(0.1, channels=3), NORMALIZED) == []


def test_only_the_first_batch_is_looked_at(monkeypatch):
    seen = []
    monkeypatch.setattr("jpegdl.layer.base._advice", lambda images: seen.append(images))
    model = prepend(nn.Flatten(), JpegCascade([JpegLayer(), GainLayer()]))
    for _ in range(3):
        model(IMAGES)
    assert len(seen) == 1  # of the cascade, not of the layers in it
    model(NORMALIZED)
    assert len(seen) == 1
    _said(JpegLayer(), (255 * IMAGES).to(torch.uint8))
    assert len(seen) == 1  # bytes are in their range


def test_copies_remember_and_compute_the_same():
    layer = JpegLayer(2.0, rounding="hard")
    before = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    assert len(_said(layer, NORMALIZED)) == 1
    after = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    for other in after:
        assert _said(other, NORMALIZED) == []
    for other in before:
        assert len(_said(other, NORMALIZED)) == 1
        assert torch.equal(other(IMAGES), layer(IMAGES))
    assert set(layer.state_dict()) == set(JpegLayer().state_dict())


def test_nothing_is_looked_at_where_operations_are_recorded(monkeypatch):
    """A look at the values would break the graph, or wait for numbers that are not there."""
    monkeypatch.setattr("jpegdl.layer.base._advice", lambda images: pytest.fail("looked"))
    layer = JpegLayer(2.0, rounding="hard")
    torch.func.vmap(layer)(NORMALIZED[:, None])
    torch.func.vmap(torch.func.grad(lambda images: layer(images).sum()))(NORMALIZED[:, None])
    make_fx(layer)(NORMALIZED)
    layer.to("meta")(NORMALIZED.to("meta"))
    with torch.device("meta"):
        JpegLayer()(torch.empty(2, 3, 16, 16))


@pytest.mark.parametrize("rounding", ["soft", "hard"])
def test_compiled_and_exported_whole(monkeypatch, rounding):
    layer = JpegLayer(4.0, rounding=rounding)
    expected = layer(IMAGES)
    fresh = JpegLayer(4.0, rounding=rounding)
    monkeypatch.setattr("jpegdl.layer.base._advice", lambda images: pytest.fail("looked"))
    torch._dynamo.reset()
    for strict in (True, False):
        program = torch.export.export(fresh, (IMAGES,), strict=strict)
        torch.testing.assert_close(program.module()(IMAGES), expected, atol=1e-5, rtol=0)
    compiled = torch.compile(fresh, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(IMAGES), expected, atol=1e-5, rtol=0)
    assert not fresh._looked


def test_compiling_once_serves_a_layer_before_and_after_its_look():
    layer = JpegLayer(4.0, rounding="hard")
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(layer, fullgraph=True, backend=counter)
    compiled(IMAGES)
    layer(IMAGES)
    compiled(IMAGES)
    assert counter.frame_count == 1


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_is_waited_for_once():
    layer, images = JpegLayer(2.0, rounding="hard").cuda(), NORMALIZED.cuda()
    assert len(_said(layer, images)) == 1
    torch.cuda.set_sync_debug_mode("error")
    try:
        layer(images)
    finally:
        torch.cuda.set_sync_debug_mode("default")
