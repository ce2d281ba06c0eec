"""What is peculiar to each variant of the layer; test_every_layer.py has what they all do."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from jpegdl import JpegLayer
from jpegdl import functional as F
from jpegdl.data import PHOTOGRAPHS, photograph
from jpegdl.errors import UsageError
from jpegdl.layer import (
    CompandingLayer,
    FaintDcLayer,
    FeatureJpegLayer,
    GainLayer,
    ImageNormalization,
    JpegCascade,
    LocalContrastLayer,
    RegionalJpegLayer,
    SubsampledJpegLayer,
    ZeroDcJpegLayer,
    local_contrast,
)
from jpegdl.tables import standard_tables

SIZE = (19, 21)
TABLES = standard_tables(50)
ALPHA = tuple(0.7 / q**2 for q in TABLES)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RegionalJpegLayer(size=(32, 0)), r"size must be .* got \(32, 0\)"),
        (lambda: RegionalJpegLayer(size=(32, 32, 3)), "size must be"),
        (lambda: RegionalJpegLayer(size=32.5), "size must be"),
        (lambda: RegionalJpegLayer(size=32, region=12), "region must be a positive multiple of 8 pixels, got 12"),
        (lambda: RegionalJpegLayer(torch.ones(2, 8, 8), size=64), r"luma .* \(8, 8\) or \(2, 2, 8, 8\), got shape \(2, 8, 8\)"),
        (lambda: RegionalJpegLayer(size=64, alpha=(1.0, -1.0)), "alpha_chroma must be"),
        (lambda: FeatureJpegLayer(channels=0), "channels must be a positive integer"),
        (lambda: FeatureJpegLayer(0.0), "table must be finite and greater than 0"),
        (lambda: FeatureJpegLayer(torch.ones(4, 8, 8), channels=3), r"\(8, 8\) or \(3, 8, 8\), got shape \(4, 8, 8\)"),
        (lambda: FeatureJpegLayer(alpha=1.0, hardness=0.7), "alpha and hardness"),
        (lambda: CompandingLayer(1.0, 1.0, curve="sqrt"), "curve must be one of log, tanh, got 'sqrt'"),
        (lambda: CompandingLayer(1.0, -1.0), "chroma must be finite and greater than 0"),
        (lambda: ImageNormalization(std=0.0), "std must be greater than 0"),
        (lambda: ImageNormalization(mean=float("nan")), "mean must be a finite number"),
        (lambda: FaintDcLayer(float("nan")), "factor must be a finite number, got nan"),
        (lambda: LocalContrastLayer(0.0), "sigma must be a finite number greater than 0, got 0.0"),
        (lambda: JpegCascade([]), "at least one layer"),
        (lambda: JpegCascade([JpegLayer(), nn.Identity()]), "got Identity"),
    ],
)
def test_bad_arguments_are_refused(build, message):
    with pytest.raises(UsageError, match=message):
        build()


# ------------------------------------------------------------------------------------------------------------- cap only


def test_cap_only_saturates_and_does_not_quantize():
    layer, images = JpegLayer(0.3, 0.2, rounding="none"), torch.rand(2, 3, 16, 16)
    z = layer.to_coefficients(images)
    cap = 127 * layer.steps.detach()[:, None, None]
    assert torch.equal(layer.alter(z), torch.maximum(torch.minimum(z, cap), -cap))
    assert 0 < layer.saturation(images)[0, 0, 0] <= 1
    fine = JpegLayer(9.0, 9.0, rounding="none")  # the cap lies beyond every coefficient
    torch.testing.assert_close(fine(images), images, atol=1e-5, rtol=0)


def test_cap_only_refuses_to_have_no_cap():
    layer = JpegLayer(bits=None)
    with pytest.raises(UsageError, match="only the level cap"):
        layer.rounding = "none"


# ------------------------------------------------------------------------------------------------------- trained hardness


def test_trained_hardness_starts_as_the_fixed_tie():
    images = torch.rand(2, 3, *SIZE)
    tied, trained = JpegLayer(*TABLES, hardness=0.7), JpegLayer(*TABLES, hardness=0.7, trainable_alpha=True)
    for layer in (tied, trained):
        layer(images).square().sum().backward()
    assert torch.equal(tied(images), trained(images))
    assert torch.equal(tied.luma.grad, trained.luma.grad)  # none through the tie
    assert {name for name, _ in trained.named_parameters()} == {"luma", "chroma", "hardness_luma", "hardness_chroma"}
    assert (trained.hardness_luma == 0.7).all()
    assert trained.hardness_chroma.grad.abs().sum() > 0
    with torch.no_grad():
        trained.luma.mul_(2)
        trained.hardness_luma[0, 0], trained.hardness_chroma[1, 1] = 1.4, -3
    trained.project_()
    assert (trained.alpha * trained.steps**2)[0, 0, 0].item() == pytest.approx(1.4)
    assert (trained.alpha * trained.steps**2)[0, 3, 3].item() == pytest.approx(0.7)
    assert trained.hardness_chroma[1, 1].item() == pytest.approx(1e-5)


def test_the_gradient_of_hardness_is_that_of_alpha_over_the_step_squared():
    images = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    tables = standard_tables(30)
    hardness = JpegLayer(*tables, hardness=0.7, trainable_alpha=True).double()
    alpha = JpegLayer(*tables, alpha=tuple(0.7 / q**2 for q in tables), trainable_alpha=True).double()
    for layer in (hardness, alpha):
        layer(images).square().sum().backward()
    torch.testing.assert_close(hardness.hardness_luma.grad, alpha.alpha_luma.grad / tables[0] ** 2, rtol=1e-4, atol=1e-9)


# ----------------------------------------------------------------------------------------------------------- DC removed


@pytest.mark.parametrize("rounding", ["soft", "hard", "none"])
def test_zero_dc_removes_the_mean_of_each_block_and_nothing_else(rounding):
    layer, images = ZeroDcJpegLayer(8.0, 12.0, rounding=rounding), torch.rand(2, 3, 16, 24)
    output = layer(images)
    means = output.detach().unfold(2, 8, 8).unfold(3, 8, 8).mean((-2, -1))
    torch.testing.assert_close(means, torch.full_like(means, 128 / 255), atol=1e-5, rtol=0)
    plain = JpegLayer(8.0, 12.0, rounding=rounding)
    z = plain.to_coefficients(images)
    assert torch.equal(layer.to_coefficients(images).flatten(-2)[..., 1:], z.flatten(-2)[..., 1:])
    torch.testing.assert_close(layer(images + 0.1), output, atol=1e-4, rtol=0)  # brightness no longer matters
    output.square().sum().backward()
    assert layer.luma.grad[0, 0] == 0


# --------------------------------------------------------------------------------------------------------------- 4:2:0


def _subsampled_file(path, rgb, tables):
    """Write a 4:2:0 JPEG file; its levels of Y (h, w, 8, 8), of Cb and Cr (2, h, w, 8, 8), and its pixels (3, H, W)."""
    jpeglib = pytest.importorskip("jpeglib")
    Image.fromarray(rgb).save(path, "jpeg", qtables=[[int(q) for q in table.flatten()] for table in tables], subsampling=2)
    file = jpeglib.read_dct(str(path))
    decoded = torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)
    return (
        torch.from_numpy(file.Y.astype(np.float32)),
        torch.from_numpy(np.stack((file.Cb, file.Cr)).astype(np.float32)),
        decoded,
    )


def _luma_blocks(mcus):
    """(6, h, w, 8, 8) to the blocks of Y as they lie in the image, (2h, 2w, 8, 8)."""
    _, rows, columns = mcus.shape[:3]
    return mcus[:4].view(2, 2, rows, columns, 8, 8).permute(2, 0, 3, 1, 4, 5).reshape(2 * rows, 2 * columns, 8, 8)


# Heights and widths that end within a unit of 16 pixels, on both sides of its middle, even and odd.
@pytest.mark.parametrize(("quality", "size"), [(10, (256, 256)), (75, (250, 245)), (90, (247, 258)), ("random", (261, 254))])
def test_hard_is_what_libjpeg_turbo_writes(tmp_path, quality, size):
    """Levels and pixels of all embedded photographs.

    An encoder rounds YCbCr to integers, which moves a coefficient of Y by up to 4 units; the averages of Cb and Cr it rounds
    once more, by up to 0.5 a sample and so 4 more units. The dummy blocks of Y beyond the image are its own affair.
    """
    random = torch.Generator().manual_seed(7)
    made_up = tuple(torch.randint(4, 100, (2, 8, 8), generator=random).float())
    tables = made_up if quality == "random" else standard_tables(quality)
    layer = SubsampledJpegLayer(*tables, bits=None, rounding="hard")
    q = torch.stack((*[tables[0]] * 4, *[tables[1]] * 2))[:, None, None]
    same, same_at_edges, errors = [], [], []
    for name in PHOTOGRAPHS:
        rgb = np.ascontiguousarray(np.array(Image.fromarray(photograph(name)).convert("RGB"))[: size[0], : size[1]])
        luma, chroma, decoded = _subsampled_file(tmp_path / "a.jpg", rgb, tables)
        images = torch.from_numpy(rgb).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            ours = (layer.alter(layer.to_coefficients(images))[0] / q).round()
            output = layer(images)[0]
        of_luma = (_luma_blocks(ours)[: luma.shape[0], : luma.shape[1]] - luma).abs()
        of_chroma = (ours[4:] - chroma).abs()
        assert (of_luma <= torch.ceil(4 / tables[0])).all(), name
        assert (of_chroma <= torch.ceil(8 / tables[1])).all(), name
        same += [(of_luma == 0).flatten(), (of_chroma == 0).flatten()]
        same_at_edges += [(of_chroma[:, -1] == 0).flatten(), (of_chroma[:, :, -1] == 0).flatten()]
        errors.append((output.clamp(0, 1) * 255 - decoded).abs().flatten())
    assert torch.cat(same).float().mean() >= 0.98
    assert torch.cat(same_at_edges).float().mean() >= 0.99
    pooled = torch.cat(errors)
    assert pooled.mean() < 1
    assert pooled.kthvalue(int(0.99 * pooled.numel())).values <= 10


@pytest.mark.parametrize(("quality", "size"), [(10, (41, 58)), (75, (96, 96)), (95, (50, 75))])
def test_inverse_path_is_libjpeg_turbos_decoder(tmp_path, quality, size):
    """From a file's own levels to its pixels, but for the decoder's rounding and clipping of YCbCr: on a smooth picture, which
    needs no clipping, within a few grey levels."""
    y, x = torch.meshgrid(torch.linspace(0, 3, size[0]), torch.linspace(0, 4, size[1]), indexing="ij")
    smooth = torch.stack((x.sin(), (x * y).cos(), (y - x).sin())) * 60 + 128
    rgb = smooth.permute(1, 2, 0).round().byte().numpy()
    tables = standard_tables(quality)
    luma, chroma, decoded = _subsampled_file(tmp_path / "a.jpg", rgb, tables)
    rows, columns = chroma.shape[1:3]
    padded = torch.zeros(2 * rows, 2 * columns, 8, 8)
    padded[: luma.shape[0], : luma.shape[1]] = luma * tables[0]
    four = padded.view(rows, 2, columns, 2, 8, 8).permute(1, 3, 0, 2, 4, 5).reshape(4, rows, columns, 8, 8)
    pixels = F.mcus_to_images(torch.cat((four, chroma * tables[1]))[None], size)[0] * 255
    assert (pixels - decoded).abs().max() <= 4


def test_subsampling_keeps_luma_and_halves_chroma():
    images = torch.rand(1, 3, 33, 18)
    fine = SubsampledJpegLayer(0.01, 0.01, bits=None, rounding="hard")
    z = fine.to_coefficients(images)
    assert z.shape == (1, 6, 3, 2, 8, 8)
    assert fine.saturation(images).shape == (3, 8, 8)
    luma = F.rgb_to_ycbcr(images)[:, 0]
    torch.testing.assert_close(F.rgb_to_ycbcr(fine(images))[:, 0], luma, atol=2e-4, rtol=0)
    flat = torch.rand(1, 3, 1, 1).expand(1, 3, 33, 18)
    torch.testing.assert_close(fine(flat), flat, atol=2e-4, rtol=0)
    grey = torch.rand(1, 1, 33, 18).expand(1, 3, 33, 18)
    torch.testing.assert_close(fine(grey), grey, atol=2e-4, rtol=0)


def test_subsampled_saturation_counts_all_four_blocks():
    images = torch.full((1, 3, 16, 16), 128 / 255)
    images[:, :, :8, :8] = 0  # one black block of four: its DC of Y is -1024
    assert SubsampledJpegLayer(5.0, 5.0).saturation(images)[0, 0, 0] == 0.25
    assert SubsampledJpegLayer(5.0, 5.0).saturation(images).sum() == 0.25


# -------------------------------------------------------------------------------------------------------------- regions


def test_each_region_has_its_own_tables():
    layer = RegionalJpegLayer(size=(40, 70), rounding="hard", bits=None)
    assert layer.luma.shape == layer.chroma.shape == (2, 3, 8, 8)
    assert layer.alpha.shape == layer.steps.shape == (3, 2, 3, 8, 8)
    with torch.no_grad():
        layer.luma.mul_(torch.arange(1.0, 7).view(2, 3, 1, 1) * 10)
        layer.chroma.mul_(torch.arange(6.0, 0, -1).view(2, 3, 1, 1) * 10)
    images = torch.rand(1, 3, 40, 70)
    output = layer(images)
    for row, column in np.ndindex(2, 3):
        region = np.s_[:, :, row * 32 : row * 32 + 32, column * 32 : column * 32 + 32]
        alone = JpegLayer(layer.luma[row, column], layer.chroma[row, column], rounding="hard", bits=None)
        torch.testing.assert_close(output[region], alone(images[region]))


def test_equal_regions_are_the_plain_layer():
    images = torch.rand(2, 3, 40, 70)
    plain = JpegLayer(*TABLES, hardness=0.7)
    regional = RegionalJpegLayer(*TABLES, size=(40, 70), hardness=0.7)
    for layer in (plain, regional):
        layer(images).square().sum().backward()
    torch.testing.assert_close(regional(images), plain(images), atol=1e-4, rtol=0)
    torch.testing.assert_close(regional.chroma.grad.sum((0, 1)), plain.chroma.grad, atol=1e-2, rtol=1e-3)
    torch.testing.assert_close(regional.saturation(images), plain.saturation(images))


def test_regions_refuse_other_sizes():
    layer = RegionalJpegLayer(size=64)
    with pytest.raises(UsageError, match=r"images must be 64x64, .* got \(1, 3, 64, 32\)"):
        layer(torch.rand(1, 3, 64, 32))
    with pytest.raises(UsageError, match="64x64"):
        layer.saturation(torch.rand(1, 3, 32, 64))
    with pytest.raises(UsageError, match=r"does not broadcast to z of shape \(1, 3, 4, 8, 8, 8\)"):
        layer.alter(layer.to_coefficients(torch.rand(1, 3, 32, 64)))


# ------------------------------------------------------------------------------------------------------- feature maps


@pytest.mark.parametrize("size", [(1, 1), (5, 8), (16, 9)])
def test_features_of_any_number_of_channels_and_any_values(size):
    fine = FeatureJpegLayer(0.01, bits=None, rounding="hard")
    for channels in (1, 5):
        features = torch.randn(2, channels, *size) * 100
        torch.testing.assert_close(fine(features), features, atol=0.1, rtol=0)
    assert fine.saturation(features).shape == (5, 8, 8)


def test_channels_have_their_own_table_or_share_one():
    features = torch.randn(2, 3, 16, 16)
    steps = torch.tensor([0.1, 1.0, 3.0]).view(3, 1, 1).expand(3, 8, 8)
    own = FeatureJpegLayer(steps, channels=3, hardness=0.7)
    assert own.table.shape == (3, 8, 8)
    for channel in range(3):
        shared = FeatureJpegLayer(steps[channel], hardness=0.7)
        assert shared.table.shape == (8, 8)
        torch.testing.assert_close(shared(features)[:, channel], own(features)[:, channel])


def test_features_see_the_quantizer_alone():
    layer, features = FeatureJpegLayer(0.5, rounding="hard", bits=4), torch.randn(1, 4, 8, 8) * 3
    levels = layer.to_coefficients(layer(features)) / 0.5
    torch.testing.assert_close(levels, levels.round(), atol=1e-4, rtol=0)
    assert levels.abs().max() <= 7.001
    with torch.no_grad():
        layer.table[0, 0] = -1
    layer.project_()
    assert layer.table[0, 0].item() == pytest.approx(1e-5)


def test_bad_features_are_refused():
    with pytest.raises(UsageError, match=r"\(N, 64, H, W\), got \(1, 3, 8, 8\)"):
        FeatureJpegLayer(channels=64)(torch.ones(1, 3, 8, 8))
    with pytest.raises(UsageError, match="coefficients of 20x20 features"):
        FeatureJpegLayer().to_images(torch.zeros(1, 3, 1, 1, 8, 8), (20, 20))


# -------------------------------------------------------------------------------------------------------------- cascade


def test_a_cascade_is_its_layers_in_a_row():
    layers = [JpegLayer(*standard_tables(quality)) for quality in (90, 50, 20)]
    cascade, images = JpegCascade(layers), torch.rand(2, 3, *SIZE)
    assert torch.equal(cascade(images), layers[2](layers[1](layers[0](images))))
    assert (len(cascade), cascade[1]) == (3, layers[1])
    assert torch.equal(cascade[1:](images), layers[2](layers[1](images)))
    assert {"0.luma", "0.chroma", "2.luma", "2.alpha_chroma"} <= set(cascade.state_dict())
    with torch.no_grad():
        cascade[2].luma.fill_(-1)
    cascade.project_()
    assert (cascade[2].luma > 0).all()


def test_a_cascade_rounds_to_half_precision_once():
    cascade = JpegCascade([GainLayer() for _ in range(8)])
    images = torch.rand(1, 3, 16, 16).half()
    assert torch.equal(cascade(images), images)


# ------------------------------------------------------------------------------------------------ companders, controls


@pytest.mark.parametrize("curve", ["log", "tanh"])
def test_a_compander_bends_each_frequency_at_its_own_scale(curve):
    images = torch.rand(1, 3, 16, 16)
    wide = CompandingLayer(1e6, 1e6, curve=curve)
    torch.testing.assert_close(wide(images), images, atol=1e-2, rtol=0)
    layer = CompandingLayer(50.0, 20.0, curve=curve)
    z = layer.to_coefficients(images)
    companded = layer.alter(z)
    assert (companded.abs() < z.abs()).all()
    expected = (
        20 * z[0, 2, 1, 1].sign() * (z[0, 2, 1, 1].abs() / 20).log1p() if curve == "log" else 20 * (z[0, 2, 1, 1] / 20).tanh()
    )
    torch.testing.assert_close(companded[0, 2, 1, 1], expected)
    with torch.no_grad():
        layer.luma[0, 0] = -2
    layer.project_()
    assert layer.luma[0, 0].item() == pytest.approx(1e-5)


def test_gains_start_as_the_identity_and_scale_their_frequency():
    layer, images = GainLayer(), torch.rand(2, 3, *SIZE)
    torch.testing.assert_close(layer(images), images, atol=1e-5, rtol=0)
    with torch.no_grad():
        layer.luma[0, 0], layer.chroma[2, 3] = 0, 5
    z = layer.to_coefficients(images)
    scaled = layer.alter(z)
    assert (scaled[:, 0, ..., 0, 0] == 0).all()
    assert torch.equal(scaled[:, 1:, ..., 2, 3], 5 * z[:, 1:, ..., 2, 3])
    assert torch.equal(scaled[:, :, ..., 1, 1], z[:, :, ..., 1, 1])


def test_normalization_gives_every_image_the_same_mean_and_deviation():
    images = torch.rand(4, 3, 32, 32) * torch.tensor([1.0, 0.5, 0.2, 0.1]).view(4, 1, 1, 1) + 0.1
    output = ImageNormalization(0.4, 0.2)(images)
    torch.testing.assert_close(output.mean((1, 2, 3)), torch.full((4,), 0.4), atol=1e-5, rtol=0)
    torch.testing.assert_close(output.flatten(1).std(1, correction=0), torch.full((4,), 0.2), atol=2e-3, rtol=0)
    assert list(ImageNormalization().parameters()) == []


def test_normalization_takes_constant_images():
    constant = torch.full((1, 3, 8, 8), 0.7, requires_grad=True)
    output = ImageNormalization(0.4, 0.2)(constant)
    torch.testing.assert_close(output, torch.full_like(output, 0.4))
    output.sum().backward()
    assert constant.grad.isfinite().all()


def test_faint_dc_is_a_thirty_second_of_dc_to_the_last_bit():
    layer, images = FaintDcLayer(), torch.rand(2, 3, *SIZE)
    factors = torch.ones(8, 8)
    factors[0, 0] = 1 / 32
    expected = F.coefficients_to_images(F.images_to_coefficients(images) * factors, SIZE)
    assert torch.equal(layer(images), expected)
    torch.testing.assert_close(FaintDcLayer(1.0)(images), images, atol=1e-5, rtol=0)
    assert list(layer.parameters()) == []
    with pytest.raises(UsageError, match="factor=0.03125, and this one has factor=0.5"):
        FaintDcLayer(0.5).load_state_dict(layer.state_dict())


def _blurred(x):
    """Weighted by a Gaussian of 2.3 pixels that ends at 7, edges repeated, along rows and then columns."""
    window = torch.exp(-(torch.arange(-7, 8, dtype=x.dtype) ** 2) / (2 * 2.3**2))
    window = window / window.sum()
    planes = x.flatten(0, 1)[:, None]
    planes = nn.functional.conv2d(nn.functional.pad(planes, (7, 7, 0, 0), mode="replicate"), window.view(1, 1, 1, -1))
    planes = nn.functional.conv2d(nn.functional.pad(planes, (0, 0, 7, 7), mode="replicate"), window.view(1, 1, -1, 1))
    return planes.view_as(x)


@pytest.mark.parametrize("size", [(1, 1), (5, 3), SIZE, (64, 64)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_local_contrast_is_what_was_measured_to_the_last_bit(size, dtype):
    """The formula of Jarrett et al. as the study of what carries the gain had it."""
    images = torch.rand(2, 3, *size).to(dtype)
    less = images - _blurred(images)
    deviation = _blurred(less.square()).clamp(min=1e-8).sqrt()
    expected = 0.5 + 0.25 * less / torch.maximum(deviation, deviation.mean(dim=(2, 3), keepdim=True))
    assert torch.equal(LocalContrastLayer()(images), expected)


@pytest.mark.parametrize("dim", [2, 3])
def test_local_contrast_is_a_sum_where_convolutions_are_not_exact(dim):
    padded, window = torch.rand(3, 1, 20, 30, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    expected = local_contrast._convolved(padded, window, dim)
    torch.testing.assert_close(local_contrast._summed(padded, window, dim), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("build", [FaintDcLayer, LocalContrastLayer])
def test_rivals_are_float32_on_a_gpu(build):
    images = torch.rand(4, 3, 64, 48)
    with torch.backends.cudnn.flags(allow_tf32=True):
        found = build().cuda()(images.cuda())
    torch.testing.assert_close(found.cpu(), build()(images), atol=1e-5, rtol=0)


def test_local_contrast_knows_neither_brightness_nor_contrast():
    layer, images = LocalContrastLayer(), torch.rand(1, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(layer(0.3 * images + 0.4), layer(images))
    assert torch.equal(layer(torch.full((1, 3, 9, 9), 0.25)), torch.full((1, 3, 9, 9), 0.5))
    assert list(layer.state_dict()) == ["_extra_state"]
