"""Gradients of ``jpegdl.jpeg`` where they are easily lost: at the ends of ranges, in flat images, beside an image with NaN."""

import pytest
import torch

from jpegdl import jpeg

EVERY = ("ste", "ste-matched", "hard", "soft", "noise", "sample", "none")


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_grey_images_and_tables_of_all_images_pass_gradcheck(subsampling):
    images = torch.rand(2, 1, 9, 10, dtype=torch.float64) * 0.8 + 0.1
    luma = (torch.rand(8, 8, dtype=torch.float64) * 30 + 5).requires_grad_()
    quality = torch.tensor(61.7, dtype=torch.float64, requires_grad=True)
    options = {"subsampling": subsampling, "rounding": "soft", "pixels": "float", "hardness": 3.0}
    rgb = images.repeat(1, 3, 1, 1) * torch.rand(2, 3, 9, 10, dtype=torch.float64)
    chroma = torch.full((8, 8), 20.0, dtype=torch.float64)
    for inputs in (images, rgb):
        check = inputs.clone().requires_grad_()
        assert torch.autograd.gradcheck(lambda x: jpeg(x, 35.5, **options), (check,), fast_mode=True)
        assert torch.autograd.gradcheck(lambda q, x=inputs: jpeg(x, q, **options), (quality,), fast_mode=True)
        assert torch.autograd.gradcheck(lambda t, x=inputs: jpeg(x, tables=(t, chroma), **options), (luma,), fast_mode=True)


@pytest.mark.parametrize("rounding", EVERY)
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_finite_at_every_quality(rounding, subsampling):
    """Of images that are black, white, of two levels, and noise."""
    edge = torch.zeros(3, 8, 9)
    edge[..., 4:] = 1
    for image in (torch.zeros(3, 8, 9), torch.ones(3, 8, 9), edge, torch.rand(3, 8, 9)):
        images = image.expand(100, -1, -1, -1).clone().requires_grad_()
        quality = torch.arange(1.0, 101.0).requires_grad_()
        for gradient in (None, "soft") if rounding == "ste" else (None,):
            output = jpeg(images, quality, rounding=rounding, subsampling=subsampling, gradient=gradient)
            assert output.isfinite().all()
            found = torch.autograd.grad(output.square().sum(), (images, quality), allow_unused=True)
            assert all(each is None or each.isfinite().all() for each in found)


def test_bits_are_differentiable_at_every_quality():
    images = torch.cat((torch.zeros(1, 3, 8, 9), torch.ones(1, 3, 8, 9), torch.rand(1, 3, 8, 9))).repeat(12, 1, 1, 1)
    images.requires_grad_()
    quality = torch.arange(1.0, 101.0, 9).repeat_interleave(3).requires_grad_()
    _, bits = jpeg(images, quality, return_bits=True)
    assert bits.isfinite().all()
    assert all(found.isfinite().all() for found in torch.autograd.grad(bits.sum(), (images, quality)))


@pytest.mark.parametrize("rounding", EVERY)
def test_nan_reaches_no_other_images_gradient(rounding):
    clean = torch.rand(3, 3, 16, 17)
    broken = clean.clone()
    broken[1, 2, 3, 4] = torch.nan
    found = []
    for given in (clean, broken):
        images = given.clone().requires_grad_()
        tables = [torch.full((3, 8, 8), 12.0, requires_grad=True) for _ in range(2)]
        torch.manual_seed(0)
        output = jpeg(images, tables=tuple(tables), rounding=rounding)
        assert output[1].isnan().all() == (given is broken)
        found.append(torch.autograd.grad(output.square().sum(), (images, *tables), allow_unused=True))
    for one, other in zip(*found, strict=True):
        if one is not None:
            assert one.isfinite().all()
            torch.testing.assert_close(other[[0, 2]], one[[0, 2]])


def test_a_sample_has_the_gradient_of_the_mean_that_it_is_drawn_around():
    images, upstream = torch.rand(2, 3, 16, 16, dtype=torch.float64), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    quality = torch.tensor([30.0, 60.0], dtype=torch.float64, requires_grad=True)
    found = []
    for rounding in ("sample", "soft"):
        x = images.clone().requires_grad_()
        output = jpeg(x, quality, rounding=rounding, pixels="float", subsampling="4:2:0")
        found.append((output.detach(), *torch.autograd.grad(output, (x, quality), upstream)))
    (drawn, *of_sample), (mean, *of_soft) = found
    assert not torch.equal(drawn, mean)
    for one, other in zip(of_sample, of_soft, strict=True):
        torch.testing.assert_close(one, other)
