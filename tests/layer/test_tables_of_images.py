"""Tables of its own for each image of a batch, in place of a layer's parameters."""

import pytest
import torch
from torch.func import functional_call

from jpegdl import JpegLayer
from jpegdl.errors import UsageError
from jpegdl.layer import SubsampledJpegLayer


def tables(count):
    return {name: (torch.rand(count, 8, 8) * 60 + 1).requires_grad_() for name in ("luma", "chroma")}


@pytest.mark.parametrize("kind", [JpegLayer, SubsampledJpegLayer])
@pytest.mark.parametrize("options", [{}, {"hardness": 2.0, "bits": None}, {"trainable_alpha": True}])
def test_each_image_is_computed_with_its_own(kind, options):
    images = torch.rand(3, 3, 9, 18)  # as many as there are planes
    for rounding in ("soft", "hard", "ste", "none", "noise"):
        if rounding == "none" and "bits" in options:
            continue
        layer, own = kind(20.0, 30.0, rounding=rounding, **options).eval(), tables(3)
        output = functional_call(layer, own, images)
        for i in range(3):
            alone = functional_call(layer, {name: table[i] for name, table in own.items()}, images[i : i + 1])
            torch.testing.assert_close(output[i : i + 1], alone, atol=1e-5, rtol=1e-5)
        one_for_all = functional_call(layer, {"luma": own["luma"]}, images)
        same = functional_call(layer, {**own, "chroma": layer.chroma.expand(3, 8, 8)}, images)
        torch.testing.assert_close(one_for_all, same)


def test_gradients_reach_each_images_own():
    images, own, layer = torch.rand(2, 3, 16, 16), tables(2), JpegLayer(rounding="ste", bits=None)
    functional_call(layer, own, images)[1].square().sum().backward()
    for table in own.values():
        assert not table.grad[0].any()
        assert (table.grad[1] != 0).float().mean() > 0.9
    assert layer.luma.grad is None


def test_a_wrong_number_of_them_is_refused():
    images = torch.rand(4, 3, 8, 8)
    for count in (1, 3):
        with pytest.raises(UsageError, match=rf"luma must be .* 4 images, got \({count}, 8, 8\)"):
            functional_call(JpegLayer(), tables(count), images)
    with pytest.raises(UsageError, match="chroma must be"):
        functional_call(JpegLayer(), {"chroma": torch.ones(3, 8, 8)}, images)
