"""``jpegdl.jpeg`` against the files that Pillow writes with libjpeg-turbo, and its gradients against their formulas."""

import copy
import io
import itertools
import pickle
import re
import sys
import warnings
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
import torch
from functorch.compile import make_boxed_func
from PIL import Image
from skimage import data
from torch._dynamo.backends.common import aot_autograd
from torch._subclasses import FakeTensorMode
from torch.utils.data import DataLoader
from torchvision import tv_tensors
from torchvision.transforms import v2

import jpegdl
from jpegdl import JpegLayer, RandomJpeg, jpeg
from jpegdl import functional as F
from jpegdl.errors import UsageError
from jpegdl.kernels import cpu, exact
from jpegdl.layer import jpeg_function, jpeg_paths
from jpegdl.tables import standard_tables

SAMPLINGS = ("4:4:4", "4:2:2", "4:2:0")
EXACT = ("ste", "ste-matched", "hard")
SMOOTH = ("soft", "noise", "sample", "none")


def encoded(pixels, *, quality=None, tables=None, subsampling="4:2:0", **options):
    """The bytes of the file that Pillow makes of (C, H, W) uint8."""
    array = pixels[0].numpy() if len(pixels) == 1 else pixels.permute(1, 2, 0).numpy()
    if tables is not None:
        options["qtables"] = [table.flatten().int().tolist() for table in tables]
    else:
        options["quality"] = quality
    file = io.BytesIO()
    Image.fromarray(array).save(file, "JPEG", subsampling=subsampling, **options)
    return file.getvalue()


def from_file(pixels, **options):
    """(C, H, W) uint8 that Pillow reads from the file that it makes of these."""
    decoded = torch.from_numpy(np.array(Image.open(io.BytesIO(encoded(pixels, **options)))))
    return decoded[None] if len(pixels) == 1 else decoded.permute(2, 0, 1)


def photograph(height, width, top=60, left=180):
    return torch.from_numpy(data.astronaut()[top : top + height, left : left + width]).permute(2, 0, 1).contiguous()


def drawn_image(random, height, width):
    """A crop of a photograph; one in four is noise, one in twelve flat."""
    kind = random.integers(12)
    if kind < 3:
        return torch.from_numpy(random.integers(0, 256, (3, height, width), dtype=np.uint8))
    if kind == 3:
        return torch.from_numpy(random.integers(0, 256, (3, 1, 1), dtype=np.uint8)).expand(3, height, width).contiguous()
    return photograph(height, width, *random.integers(0, 400, 2))


# ------------------------------------------------------------------------------------------------------------- values


def test_every_pixel_is_the_files():
    """Sides 1 to 40, all qualities, tables up to 255, all samplings and grey."""
    random = np.random.default_rng(0)
    sides = [(side, int(random.integers(1, 41))) for side in range(1, 41)]
    sides += [(int(random.integers(1, 41)), side) for side in range(1, 41)] + [
        (h, w) for h in (1, 2, 3) for w in (1, 2, 3, 4, 5)
    ]
    qualities = random.permutation(np.arange(400) % 100 + 1).tolist()
    for height, width in sides:
        pixels = drawn_image(random, height, width)
        for subsampling in SAMPLINGS:
            images = pixels if random.integers(4) else pixels[:1]
            if random.integers(3):
                chosen = {"quality": qualities.pop()}
            else:
                chosen = {"tables": tuple(torch.from_numpy(random.integers(1, 256, (2, 8, 8))))}
            output = jpeg(images, subsampling=subsampling, **chosen)
            expected = from_file(images, subsampling=subsampling, **chosen)
            assert output.dtype == torch.uint8
            assert torch.equal(output, expected), (height, width, len(images), subsampling, chosen)


def test_the_readable_path_gives_the_files_pixels_too():
    random = np.random.default_rng(1)
    for height, width in ((1, 1), (7, 40), (16, 16), (33, 21), (40, 2), (9, 65)):
        pixels = drawn_image(random, height, width)
        for subsampling in SAMPLINGS:
            quality = int(random.integers(1, 101))
            for images in (pixels, pixels[:1]):
                output = F.exact_round_trip(images[None], *standard_tables(quality), subsampling)[0]
                assert torch.equal(output, from_file(images, quality=quality, subsampling=subsampling))


@pytest.mark.parametrize("subsampling", SAMPLINGS)
def test_every_quality_of_a_photograph(subsampling):
    pixels = photograph(45, 51)
    images = pixels.expand(100, -1, -1, -1)
    output = jpeg(images, torch.arange(1, 101), subsampling=subsampling)
    for quality, image in enumerate(output, 1):
        assert torch.equal(image, from_file(pixels, quality=quality, subsampling=subsampling)), quality


@pytest.mark.parametrize("rounding", EXACT)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_floating_point_images_are_the_files_as_well(rounding, dtype):
    pixels = photograph(30, 41)
    images = (pixels.to(dtype) / 255).requires_grad_()
    output = jpeg(images, 60, rounding=rounding)
    assert output.dtype == dtype
    expected = from_file((images.detach().float() * 255).round().byte(), quality=60)
    assert torch.equal(
        output.detach(), (expected.to(torch.float64 if dtype == torch.float64 else torch.float32) / 255).to(dtype)
    )


def test_pixels_between_two_levels_are_rounded_and_beyond_the_range_clipped():
    images = torch.randn(3, 24, 24) * 0.6 + 0.5
    expected = from_file((images * 255).round().clamp(0, 255).byte(), quality=80)
    assert torch.equal((jpeg(images, 80) * 255).round().byte(), expected)


def test_a_quality_and_tables_for_each_image_are_those_of_one_at_a_time():
    images = torch.rand(4, 3, 19, 27)
    qualities = torch.tensor([3.0, 40.0, 75.4, 100.0])
    tables = tuple(torch.randint(1, 256, (2, 4, 8, 8)).float())
    for subsampling in SAMPLINGS:
        for rounding in ("ste", "soft", "none"):
            options = {"subsampling": subsampling, "rounding": rounding}
            one_by_one = [jpeg(image, float(quality), **options) for image, quality in zip(images, qualities, strict=True)]
            assert (jpeg(images, qualities, **options) - torch.stack(one_by_one)).abs().max() <= (rounding != "ste") / 255
            own = [jpeg(images[i], tables=(tables[0][i], tables[1][i]), **options) for i in range(4)]
            assert (jpeg(images, tables=tables, **options) - torch.stack(own)).abs().max() <= (rounding != "ste") / 255


def test_steps_of_a_file_are_whole_and_at_least_1():
    images = torch.rand(2, 3, 16, 16)
    luma, chroma = torch.full((8, 8), 0.2), torch.full((8, 8), 7.6)
    expected = jpeg(images, tables=(torch.ones(8, 8), torch.full((8, 8), 8.0)))
    assert torch.equal(jpeg(images, tables=(luma, chroma)), expected)
    assert torch.equal(jpeg(images, tables=(luma.tolist(), chroma.numpy())), expected)


def test_the_float_path_is_near_the_file():
    pixels = photograph(64, 80)
    images = pixels[None] / 255
    for subsampling in SAMPLINGS:
        expected = from_file(pixels, quality=50, subsampling=subsampling) / 255
        for rounding, hardness in (("soft", 500.0), ("sample", 500.0)):
            output = jpeg(images, 50, subsampling=subsampling, rounding=rounding, hardness=hardness)
            assert (output * 255 - (output * 255).round()).abs().max() < 1e-4
            assert output.min() >= 0
            assert output.max() <= 1
            assert (output - expected).abs().mean() < 1.5 / 255
        same = F.planes_to_images(*F.images_to_planes(images, subsampling), (64, 80), subsampling)
        none = jpeg(images, 50, subsampling=subsampling, rounding="none", pixels="float")
        torch.testing.assert_close(none, same, atol=1e-5, rtol=0)  # fused and not: float32 rounding


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_planes_are_those_of_the_layers(subsampling):
    images = torch.rand(2, 3, 37, 45, dtype=torch.float64)
    luma, chroma = F.images_to_planes(images, subsampling)
    if subsampling == "4:4:4":
        z = F.images_to_coefficients(images)
        torch.testing.assert_close(torch.cat((luma, chroma), 1), z)
    else:
        z = F.images_to_mcus(images)
        torch.testing.assert_close(chroma[:, :, :3, :3], z[:, 4:, :3, :3])
        torch.testing.assert_close(F.planes_to_images(luma, chroma, (37, 45), subsampling), F.mcus_to_images(z, (37, 45)))
    for function in (F.images_to_planes, F.images_to_coefficients, F.images_to_mcus):
        with pytest.raises(TypeError, match=r"images must be floating point, got torch\.uint8"):  # in which 255 pixels overflow
            function((images * 255).to(torch.uint8))


def test_levels_are_the_files(tmp_path):
    jpeglib = pytest.importorskip("jpeglib")
    pixels = photograph(37, 53)
    for subsampling in SAMPLINGS:
        file = tmp_path / "x.jpg"
        file.write_bytes(encoded(pixels, quality=70, subsampling=subsampling))
        stored = jpeglib.read_dct(str(file))
        levels = F.encode_levels(pixels[None], *standard_tables(70), subsampling)
        for ours, theirs in zip(levels, (stored.Y, stored.Cb, stored.Cr), strict=True):
            rows, columns = ours.shape[1:3]
            assert np.array_equal(ours[0].numpy(), theirs[:rows, :columns])


def test_infinity_is_clipped_as_any_pixel_beyond_the_range():
    images = torch.rand(1, 3, 16, 16)
    images[0, 0, 3, 3], images[0, 1, 5, 5] = torch.inf, -torch.inf
    for rounding in ("ste", "soft"):
        for differentiable in (False, True):
            output = jpeg(images.clone().requires_grad_(differentiable), 50, rounding=rounding)
            assert torch.equal(output.detach(), jpeg(images.clamp(0, 1), 50, rounding=rounding))


@pytest.mark.parametrize("openmp", [True, False])
def test_threads_share_the_work(openmp, monkeypatch):
    images, quality = torch.rand(3, 3, 70, 50), torch.tensor([20.0, 50.0, 80.0])
    upstream = torch.randn(3, 3, 70, 50)

    def everything(subsampling):
        x, q = images.clone().requires_grad_(), quality.clone().requires_grad_()
        output = jpeg(x, q, subsampling=subsampling)
        return output.detach(), *torch.autograd.grad(output, (x, q), upstream), jpeg(images.mul(255).byte(), quality)

    alone = [everything(subsampling) for subsampling in SAMPLINGS]
    monkeypatch.setattr(cpu, "_WORTH_A_THREAD", 1)
    if not openmp:
        monkeypatch.setattr(cpu, "_openmp", lambda: None)
    torch.set_num_threads(3)
    try:
        together = [everything(subsampling) for subsampling in SAMPLINGS]
    finally:
        torch.set_num_threads(1)
    for one, other in zip(alone, together, strict=True):
        assert all(torch.equal(*pair) for pair in zip(one, other, strict=True))


def test_without_numba_pytorchs_own_operations_serve(monkeypatch):
    pixels, quality = photograph(30, 41), torch.tensor(40.0, requires_grad=True)
    exact._kernels.cache_clear()
    monkeypatch.setitem(sys.modules, "jpegdl.kernels.cpu", None)
    try:
        with pytest.warns(RuntimeWarning, match="the fused kernels for cpu do not work here"):
            output = jpeg(pixels / 255, quality)
        assert torch.equal((output.detach() * 255).round().byte(), from_file(pixels, quality=40))
        with pytest.warns(RuntimeWarning, match="do not work here"):
            assert torch.autograd.grad(output.square().sum(), quality)[0].isfinite()
    finally:
        exact._kernels.cache_clear()


def test_nan_stays_within_its_image():
    images = torch.rand(3, 3, 24, 20)
    clean = images.clone()
    images[1, 0, 5, 5] = torch.nan
    for rounding in ("ste", "soft", "none", "hard"):
        for subsampling in SAMPLINGS:
            output, expected = (jpeg(x, 50, rounding=rounding, subsampling=subsampling) for x in (images, clean))
            assert output[1].isnan().all()
            assert torch.equal(output[[0, 2]], expected[[0, 2]])


def test_shapes_formats_and_devices():
    images = torch.rand(2, 3, 9, 11)
    last = images.to(memory_format=torch.channels_last)
    assert jpeg(last, 50).is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(jpeg(last, 50), jpeg(images, 50))
    assert torch.equal(jpeg(images[0], 50), jpeg(images, 50)[0])
    assert torch.equal(jpeg(images[:, :1], 50)[0], jpeg(images[0, :1], 50))
    assert jpeg(images[:0], 50).shape == (0, 3, 9, 11)
    assert torch.equal(jpeg(images, torch.tensor(50)), jpeg(images, 50))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(jpeg(images, 50), jpeg(images.clone(), 50))
        assert jpeg(images, 50, rounding="soft").dtype == torch.float32
    assert jpegdl.jpeg is jpeg


# --------------------------------------------------------------------------------------------------------------- bits


def scan_bits_of(file):
    """Bits of a baseline file after its header, without the marker at its end."""
    place = 2
    while True:
        marker, place = file[place + 1], place + 2 + int.from_bytes(file[place + 2 : place + 4], "big")
        if marker == 0xDA:  # start of scan
            assert file.endswith(b"\xff\xd9")
            return 8 * (len(file) - place - 2)


@pytest.mark.parametrize("codes", ["standard", "optimal"])
def test_bits_are_the_files(codes):
    random = np.random.default_rng(2)
    for height, width in ((1, 1), (8, 9), (24, 17), (33, 40), (50, 21), (75, 100)):
        pixels = drawn_image(random, height, width)
        for subsampling in SAMPLINGS:
            for images in (pixels, pixels[:1]):
                quality = int(random.integers(1, 101))
                output, bits = jpeg(images, quality, subsampling=subsampling, return_bits=codes)
                file = encoded(images, quality=quality, subsampling=subsampling, optimize=codes == "optimal")
                assert torch.equal(output, from_file(images, quality=quality, subsampling=subsampling))
                assert (bits.shape, bits.item()) == ((), scan_bits_of(file))


def test_bits_have_the_gradient_of_their_estimate():
    """From quality to quality tables go in jumps: over several, gradients add up to what the files gain."""
    pixels = photograph(192, 192)
    images = (pixels / 255).expand(11, -1, -1, -1).clone().requires_grad_()
    for lowest in (15, 75):
        quality = torch.arange(lowest, lowest + 11.0).requires_grad_()
        _, bits = jpeg(images, quality, return_bits=True)
        first, last = (scan_bits_of(encoded(pixels, quality=lowest + more)) for more in (0, 10))
        assert (bits[0].item(), bits[-1].item()) == (first, last)
        by_images, by_quality = torch.autograd.grad(bits.sum(), (images, quality))
        assert by_images.isfinite().all()
        assert by_quality.mean().item() == pytest.approx((last - first) / 10, rel=0.25)
    images.data[1, 0, 0, 0] = torch.nan
    assert jpeg(images, quality, return_bits=True)[1].isnan().tolist() == [i == 1 for i in range(11)]


# ---------------------------------------------------------------------------------------------------------- gradients


@pytest.mark.parametrize("subsampling", SAMPLINGS)
@pytest.mark.parametrize("rounding", ["soft", "noise", "none"])
def test_smooth_roundings_pass_gradcheck(subsampling, rounding):
    images = torch.rand(2, 3, 9, 18, dtype=torch.float64) * 0.8 + 0.1
    quality = torch.tensor([23.3, 71.9], dtype=torch.float64, requires_grad=True)
    tables = [(torch.rand(2, 8, 8, dtype=torch.float64) * 30 + 5).requires_grad_() for _ in range(2)]

    def at(**chosen):
        torch.manual_seed(1)  # the same noise
        return jpeg(chosen.pop("images", images), rounding=rounding, subsampling=subsampling, pixels="float", **chosen)

    assert torch.autograd.gradcheck(lambda x: at(images=x, quality=40), (images.clone().requires_grad_(),), fast_mode=True)
    if rounding != "none":
        assert torch.autograd.gradcheck(lambda q: at(quality=q), (quality,), fast_mode=True)
        assert torch.autograd.gradcheck(lambda a, b: at(tables=(a, b)), tables, fast_mode=True)


@pytest.mark.parametrize("subsampling", SAMPLINGS)
def test_the_straight_through_gradient_is_its_formula(subsampling):
    images = torch.rand(2, 3, 21, 18, dtype=torch.float64).requires_grad_()
    tables = [(torch.rand(2, 8, 8, dtype=torch.float64) * 30 + 5).requires_grad_() for _ in range(2)]
    upstream = torch.randn(2, 3, 21, 18, dtype=torch.float64)
    found = torch.autograd.grad(jpeg(images, tables=tuple(tables), subsampling=subsampling), (images, *tables), upstream)
    x = ((images.detach() * 255).round() / 255).requires_grad_()
    planes = F.images_to_planes(x, subsampling)
    size = (21, 18)
    by_z = torch.autograd.grad(F.planes_to_images(*planes, size, subsampling), planes, upstream)
    by_x = torch.autograd.grad(F.planes_to_images(*F.images_to_planes(x, subsampling), size, subsampling), x, upstream)
    torch.testing.assert_close(found[0], by_x[0])
    whole = F.encode_coefficients((images.detach() * 255).round().byte(), subsampling)
    for g, z, table, got in zip(by_z, (whole[:1], whole[1:]), tables, found[1:], strict=True):
        k = torch.stack([F.coefficient_levels(part, table.round()) for part in z], 1)
        rest = k - torch.stack(z, 1) / 8 / table.round()[:, None, None, None]
        torch.testing.assert_close(got, (g * rest).sum((1, 2, 3)))
    alone = torch.autograd.grad(jpeg(images, 50, subsampling=subsampling), images, upstream)
    torch.testing.assert_close(alone[0], by_x[0])


def test_hard_and_soft_gradients_are_theirs():
    images = torch.rand(2, 3, 16, 24).requires_grad_()
    quality = torch.tensor([30.0, 70.0], requires_grad=True)
    upstream = torch.randn(2, 3, 16, 24)
    by_images, by_quality = torch.autograd.grad(jpeg(images, quality, rounding="hard"), (images, quality), upstream)
    assert not by_images.any()
    assert by_quality.all()
    soft = torch.autograd.grad(jpeg(images, quality, gradient="soft"), (images, quality), upstream)
    same = torch.autograd.grad(jpeg(images, tables=standard_tables(quality), rounding="soft"), (images, quality), upstream)
    for one, other in zip(soft, same, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("rounding", ["ste", "hard"])
def test_the_kernels_gradients_are_the_readable_ones(rounding, monkeypatch):
    for height, width in ((1, 1), (5, 3), (8, 4), (16, 16), (21, 33), (40, 17), (7, 50)):
        for channels, subsampling in ((3, "4:4:4"), (3, "4:2:2"), (3, "4:2:0"), (1, "4:2:0")):
            images = torch.rand(3, channels, height, width).requires_grad_()
            tables = [(torch.rand(*shape) * 30 + 1).requires_grad_() for shape in ((3, 8, 8), (8, 8))]
            upstream = torch.randn(3, channels, height, width)
            found = []
            for kernel in (jpeg_paths.exact_gradients, lambda *_, **__: None):
                with monkeypatch.context() as patch:
                    patch.setattr(jpeg_paths, "exact_gradients", kernel)
                    output = jpeg(images, tables=tuple(tables), subsampling=subsampling, rounding=rounding)
                    found.append(torch.autograd.grad(output, (images, *tables), upstream, allow_unused=True))
            for fused, readable in zip(*found, strict=True):
                if fused is None or readable is None:  # chroma's table, of grey images
                    assert fused is None or not fused.any()
                    assert readable is None or not readable.any()
                else:
                    torch.testing.assert_close(fused, readable, rtol=1e-3, atol=1e-4)


def test_the_layers_gradient_is_the_functions():
    """Of grey images, whose coefficients are the layer's but for the integers of the DCT."""
    images = (torch.randint(256, (2, 1, 16, 24)) / 255).requires_grad_()
    table = torch.full((8, 8), 50.0)
    layer = JpegLayer(table, table, bits=None, rounding="ste")
    upstream = torch.randn(2, 1, 16, 24)
    ours = torch.autograd.grad(jpeg(images, tables=(layer.luma, layer.chroma)), (images, layer.luma), upstream)
    theirs = torch.autograd.grad(layer(images.expand(-1, 3, -1, -1)).mean(1, keepdim=True), (images, layer.luma), upstream)
    torch.testing.assert_close(ours[0], theirs[0], atol=1e-5, rtol=1e-4)
    scaled = F.block_dct(images.detach() * 255 - 128) / 50
    clear = ((scaled - scaled.round()).abs() < 0.49).flatten(0, 3).all(0)  # of ties, which a little error decides
    assert clear.sum() > 50
    torch.testing.assert_close(ours[1][clear], theirs[1][clear], atol=2e-4, rtol=1e-2)


@pytest.mark.parametrize("channels", [1, 3])
def test_without_a_kernel_hard_pixels_have_no_gradient_to_images(channels):
    images = torch.rand(1, channels, 9, 10, dtype=torch.float64, requires_grad=True)
    (found,) = torch.autograd.grad(jpeg(images, 50, rounding="hard").sum(), images)
    assert not found.any()


@pytest.mark.parametrize("rounding", ["ste", "ste-matched", "hard", *SMOOTH])
def test_gradients_are_finite_everywhere(rounding):
    flat = torch.stack([torch.full((3, 17, 18), value) for value in (0.0, 1.0, 0.5)])
    images = torch.cat((flat, torch.rand(1, 3, 17, 18))).repeat(5, 1, 1, 1).requires_grad_()
    quality = torch.tensor([1.0, 2.0, 50.0, 99.0, 100.0]).repeat_interleave(4).requires_grad_()
    output = jpeg(images, quality, rounding=rounding)
    assert output.isfinite().all()
    for gradient in torch.autograd.grad(output.square().sum(), (images, quality), allow_unused=True):
        assert gradient is None or gradient.isfinite().all()


def test_second_derivatives_and_transforms_of_functions():
    images, direction = torch.rand(2, 3, 16, 16, requires_grad=True), torch.randn(2, 3, 16, 16)
    tables = tuple(table.clone().requires_grad_() for table in standard_tables(50))
    (first,) = torch.autograd.grad(jpeg(images, tables=tables).square().sum(), images, create_graph=True)
    assert torch.autograd.grad((first * direction).sum(), images)[0].isfinite().all()
    whole = torch.func.grad(lambda x: (jpeg(x, 50) * direction).sum())(images.detach())
    torch.testing.assert_close(whole, torch.autograd.grad((jpeg(images, 50) * direction).sum(), images)[0])
    each = torch.func.vmap(lambda x: jpeg(x, 50))(images.detach())
    assert torch.equal((each * 255).round(), (jpeg(images, 50) * 255).round())


def test_compiled_it_keeps_the_kernels():
    graphs = []

    def backend(graph, inputs):
        graphs.append(str(graph.graph))
        return make_boxed_func(graph.forward)

    images, quality = torch.rand(2, 3, 16, 24, requires_grad=True), torch.tensor([20.0, 80.0], requires_grad=True)
    upstream = torch.randn(2, 3, 16, 24)
    for subsampling, wanted in (("4:4:4", (images,)), ("4:2:0", (images, quality))):
        expected = jpeg(images, quality, subsampling=subsampling)
        torch._dynamo.reset()
        compiled = torch.compile(
            lambda x, q, s=subsampling: jpeg(x, q, subsampling=s), backend=aot_autograd(fw_compiler=backend), fullgraph=True
        )
        output = compiled(images, quality if len(wanted) == 2 else quality.detach())
        assert torch.equal(output, expected)
        gradients = (torch.autograd.grad(y, wanted, upstream) for y in (output, expected))
        for one, other in zip(*gradients, strict=True):
            torch.testing.assert_close(one, other)
    assert all("jpegdl.jpeg" in graph for graph in graphs)


@pytest.mark.parametrize(
    ("settings", "dtype"),
    [
        ({"gradient": "soft"}, torch.float32),
        ({"rounding": "ste-matched"}, torch.float32),
        ({"rounding": "ste-matched", "subsampling": "4:4:4"}, torch.bfloat16),
        ({"rounding": "ste"}, torch.float64),
        ({"rounding": "hard"}, torch.float64),
    ],
)
def test_compiled_its_gradients_are_the_same_where_there_is_no_kernel_for_them(settings, dtype):
    images = torch.rand(2, 3, 16, 24).to(dtype).requires_grad_()
    quality = torch.tensor([20.0, 80.0], requires_grad=True)
    upstream = torch.randn(2, 3, 16, 24).to(dtype)
    torch._dynamo.reset()
    compiled = torch.compile(lambda x, q: jpeg(x, q, **settings), backend="aot_eager", fullgraph=True)
    output, expected = compiled(images, quality), jpeg(images, quality, **settings)
    assert torch.equal(output, expected)
    found, wanted = (
        torch.autograd.grad((y * upstream).sum(), (images, quality), retain_graph=True, materialize_grads=True)
        for y in (output, expected)
    )
    assert float(wanted[1].abs().min()) > 0
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
    assert torch.equal(compiled(images.detach(), quality.detach()), expected)


@pytest.mark.parametrize(
    "settings",
    [
        {"rounding": "ste"},
        {"rounding": "ste", "gradient": "soft"},
        {"rounding": "ste-matched", "subsampling": "4:4:4"},
        {"rounding": "hard"},
        {"rounding": "soft"},
        {"rounding": "soft", "pixels": "float"},
        {"rounding": "none"},
    ],
    ids=lambda settings: " ".join(settings.values()),
)
def test_forward_mode_says_what_backward_says(settings):
    """Along one direction, forward and back: u (J v) = (u J) v."""
    images, tables = torch.rand(2, 3, 13, 18, dtype=torch.float64), torch.rand(2, 2, 8, 8, dtype=torch.float64) * 30 + 5

    def codec(images, tables):
        return jpeg(images, tables=tuple(tables), **settings)

    ahead = torch.rand(images.shape, dtype=torch.float64) - 0.3, torch.rand(tables.shape, dtype=torch.float64)
    back = torch.randn(images.shape, dtype=torch.float64)
    values, tangent = torch.func.jvp(codec, (images, tables), ahead)
    assert torch.equal(values, codec(images, tables))
    leaves = images.requires_grad_(), tables.requires_grad_()
    found = torch.autograd.grad((codec(*leaves) * back).sum(), leaves, materialize_grads=True)
    wanted = sum(float((one * along).sum()) for one, along in zip(found, ahead, strict=True))
    assert float((tangent * back).sum()) == pytest.approx(wanted, rel=1e-6)
    assert abs(wanted) > 1e-3
    with torch.no_grad(), torch.autograd.forward_ad.dual_level():  # which has nothing to do with going back
        dual = [torch.autograd.forward_ad.make_dual(x.detach(), along) for x, along in zip(leaves, ahead, strict=True)]
        again = torch.autograd.forward_ad.unpack_dual(codec(*dual)).tangent
    assert torch.allclose(again, tangent)


def test_its_first_call_may_be_with_tensors_that_have_no_memory():
    exact._kernels.cache_clear()
    images = torch.rand(2, 3, 16, 24)
    with FakeTensorMode() as mode:
        assert jpeg(mode.from_tensor(images), 50).shape == images.shape
    assert torch.equal(jpeg(images, 50), jpeg(images, torch.tensor(50)))


@pytest.mark.parametrize("rounding", ["ste", "ste-matched", "soft"])
def test_a_default_device_of_the_users_is_for_other_tensors(rounding):
    exact._kernels.cache_clear()
    images, quality = torch.rand(2, 3, 16, 24).requires_grad_(), torch.tensor([20.0, 70.0], requires_grad=True)

    def found():
        files, bits = jpeg(images, quality, rounding=rounding, return_bits=True)
        generator = torch.Generator().manual_seed(0)
        others = jpeg(images.detach(), 50), RandomJpeg((20, 60), p=0.5, generator=generator)(images.detach())
        return files, bits, *others, *torch.autograd.grad(files.square().sum() + bits.sum(), (images, quality))

    with torch.device("meta"):
        elsewhere = found()
    for one, other in zip(elsewhere, found(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_a_number_as_quality_compiles_in_one_graph_at_the_first_call(monkeypatch, mode):
    images = torch.rand(2, 3, 16, 24)
    wanted = jpeg(images, 50)
    monkeypatch.setattr(jpeg_function, "_KNOWN", {})
    torch._dynamo.reset()
    with mode():
        assert torch.equal(torch.compile(lambda x: jpeg(x, 50), backend="aot_eager", fullgraph=True)(images), wanted)


@pytest.mark.parametrize("gradient", ["ste", "ste-matched", "hard", "soft"])
def test_gradients_pass_through_vmap(gradient):
    """Of a batched tensor nothing says that a gradient will be asked for outside."""
    images = torch.rand(3, 3, 9, 17, dtype=torch.float64, requires_grad=True)
    quality = torch.tensor([20.0, 50.0, 90.0], dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(images.shape, dtype=torch.float64)
    rounding = "soft" if gradient == "soft" else "ste"
    for settings in ({"gradient": gradient}, {"rounding": rounding}, {"rounding": gradient}):
        whole = jpeg(images, quality, **settings)
        each = torch.vmap(lambda x, q, s=settings: jpeg(x, q, **s))(images, quality)
        assert torch.allclose(each, whole)
        found, wanted = (
            torch.autograd.grad((y * upstream).sum(), (images, quality), materialize_grads=True) for y in (each, whole)
        )
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other)
    bytes_ = (images.detach() * 255).to(torch.uint8)
    assert torch.equal(torch.vmap(lambda x: jpeg(x, 50))(bytes_), jpeg(bytes_, 50))


@pytest.mark.parametrize("bad", [200.0, 0.0, torch.nan])
def test_values_out_of_range_are_refused_within_transforms_and_compiled_code(bad):
    """Clamped, they would be another quality without a word."""
    images, quality, table = torch.rand(2, 3, 8, 8), torch.tensor([50.0, bad]), torch.full((8, 8), bad)
    table[0, 0] = -1
    for transformed in (
        lambda: torch.vmap(jpeg)(images, quality),
        lambda: torch.func.grad(lambda q: jpeg(images, q).sum())(quality),
        lambda: torch.func.jvp(lambda q: jpeg(images, q, rounding="soft"), (quality,), (torch.ones(2),)),
        lambda: torch.vmap(torch.func.grad(lambda q, x: jpeg(x, q).sum()))(quality, images),
    ):
        with pytest.raises(UsageError, match=f"quality must be from 1 to 100, got {bad:g}"):
            transformed()
    with pytest.raises(UsageError, match="luma must be greater than 0"):
        torch.vmap(lambda x: jpeg(x, tables=(table, table)))(images)
    compiled = torch.compile(lambda x, q: jpeg(x, q), backend="aot_eager", fullgraph=True)
    with pytest.raises(RuntimeError, match="quality must be from 1 to 100"):
        compiled(images, quality)


def test_exported_it_needs_nothing_of_this_package():
    class Codec(torch.nn.Module):
        def forward(self, images):
            return jpeg(images, 50)

    images = torch.rand(2, 3, 20, 24)
    program = torch.export.export(Codec(), (images,))
    assert "jpegdl" not in str(program.graph)
    assert torch.equal(program.module()(images), jpeg(images, 50))


def test_quality_as_a_tensor_gives_libjpegs_tables():
    qualities = torch.arange(1, 101)
    luma, chroma = standard_tables(qualities)
    for quality in qualities.tolist():
        for one, many in zip(standard_tables(quality), (luma, chroma), strict=True):
            assert torch.equal(many[quality - 1], one)
    q = torch.tensor([20.0, 80.0], dtype=torch.float64, requires_grad=True)
    smooth = standard_tables(q, rounded=False)[0]
    assert torch.autograd.gradcheck(lambda q: standard_tables(q, rounded=False), (q,))
    assert smooth[0, 0, 0].item() == 16 * 2.5
    assert smooth[1, 0, 0].item() == 16 * 0.4
    (by_q,) = torch.autograd.grad(standard_tables(q)[0][:, 0, 0].sum(), q)
    torch.testing.assert_close(by_q, torch.tensor([-16 * 50 / 400, -16 * 0.02], dtype=torch.float64))


# ------------------------------------------------------------------------------------------------------------- errors

RGB = torch.rand(2, 3, 8, 8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quality": 0}, "quality must be a number from 1 to 100, or a tensor of such, got 0"),
        ({"quality": 101}, "got 101"),
        ({"quality": float("nan")}, "got nan"),
        ({"quality": True}, "got True"),
        ({"quality": "75"}, "got '75'"),
        ({"quality": torch.tensor([50.0, torch.nan])}, "quality must be from 1 to 100, got nan"),
        ({"quality": torch.tensor([50.0, 0.0])}, "quality must be from 1 to 100, got 0"),
        (
            {"quality": torch.tensor([50.0, 50.0, 50.0])},
            "qualities must be one for all images or one for each, got 3 for 2 images",
        ),
        ({"quality": torch.ones(2, 1)}, r"of shape \(\) or \(N,\)"),
        ({}, "give either quality or tables"),
        ({"quality": 50, "tables": standard_tables(50)}, "not both"),
        ({"tables": (torch.zeros(8, 8), torch.ones(8, 8))}, "luma must be greater than 0 and at most 255, .* got 0"),
        ({"tables": (torch.ones(8, 8), torch.full((8, 8), 256))}, "chroma must be .* got 256"),
        ({"tables": (torch.ones(8, 8), torch.full((8, 8), torch.nan))}, "chroma must be .* got nan"),
        ({"tables": (torch.ones(8, 8), torch.zeros(8, 8)), "rounding": "soft"}, "chroma must be greater than 0 and finite"),
        ({"tables": (torch.ones(8, 7), torch.ones(8, 8))}, r"luma must hold numbers, of shape \(8, 8\) or \(N, 8, 8\), got"),
        ({"tables": (torch.ones(3, 8, 8), torch.ones(8, 8))}, "tables must be one for all images or one for each, got 3 for 2"),
        ({"tables": torch.ones(8, 8)}, r"tables must be a pair \(luma, chroma\)"),
        ({"quality": 50, "subsampling": "4:1:1"}, "subsampling must be one of 4:4:4, 4:2:2, 4:2:0, got '4:1:1'"),
        ({"quality": 50, "rounding": "round"}, "rounding must be one of"),
        ({"quality": 50, "gradient": "noise"}, "gradient must be one of ste, ste-matched, hard, soft, or None"),
        ({"quality": 50, "gradient": "ste", "rounding": "soft"}, "soft has its own"),
        ({"quality": 50, "pixels": "int"}, "pixels must be rounded or float"),
        ({"quality": 50, "pixels": "float"}, "pixels='float' is for the others"),
        ({"quality": 50, "return_bits": "arithmetic"}, "codes must be standard or optimal, got 'arithmetic'"),
        ({"quality": 50, "hardness": 0}, "hardness must be a number greater than 0"),
        ({"quality": 50, "hardness": 1e300, "rounding": "soft"}, "hardness must be .* at most 1e.06"),
        ({"quality": 50, "generator": 3, "rounding": "noise"}, "generator must be a torch.Generator, got 3"),
        ({"images": torch.rand(2, 4, 8, 8), "quality": 50}, r"images must be of shape .* got \(2, 4, 8, 8\)"),
        ({"images": torch.rand(8, 8), "quality": 50}, r"got \(8, 8\)"),
        ({"images": torch.rand(3, 0, 8), "quality": 50}, r"got \(3, 0, 8\)"),
        ({"images": RGB.mul(255).byte(), "quality": torch.tensor(50.0, requires_grad=True)}, "give images.float"),
        ({"images": RGB.mul(255).byte(), "quality": 50, "rounding": "soft", "pixels": "float"}, "images.float"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(UsageError, match=message):
        jpeg(**{"images": RGB, **arguments})


def test_values_that_are_not_those_of_images_are_warned_of(monkeypatch):
    monkeypatch.setattr(jpeg_function, "_calls", itertools.count(1))
    with pytest.warns(UserWarning, match="divide them by 255"):
        jpeg(RGB * 255, 50)
    with pytest.warns(UserWarning, match="normalised already"):
        jpeg(torch.randn(2, 3, 40, 40), 50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(8):
            jpeg(RGB, 50)
            jpeg(RGB.mul(255).byte(), 50)


def test_what_is_no_image_is_refused():
    for images in (
        [[1.0]],
        torch.ones(3, 8, 8, dtype=torch.int64),
        torch.ones(3, 8, 8).to_sparse(),
        torch.ones(3, 8, 8).to(torch.float8_e4m3fn),
    ):
        for taken in (lambda x: jpeg(x, 50), JpegLayer.from_quality(50)):
            with pytest.raises(TypeError, match="images must be"):
                taken(images)


# --------------------------------------------------------------------------------------------------------- RandomJpeg


def test_random_jpeg_draws_each_image_a_quality_and_a_sampling():
    images = torch.randint(256, (64, 3, 16, 24), dtype=torch.uint8)
    transform = RandomJpeg(quality=(20, 25), p=0.75)
    torch.manual_seed(3)
    output = transform(images)
    torch.manual_seed(3)
    draws = transform.draw(64)
    assert set(draws.quality.tolist()) == set(range(20, 26))
    assert 32 < draws.applied.sum() < 60
    for i in range(64):
        chosen = {"quality": int(draws.quality[i]), "subsampling": transform.subsampling[int(draws.sampling[i])]}
        expected = from_file(images[i], **chosen) if draws.applied[i] else images[i]
        assert torch.equal(output[i], expected)
    torch.manual_seed(3)
    assert torch.equal(transform(images), output)
    own = RandomJpeg(generator=torch.Generator().manual_seed(5))
    again = RandomJpeg(generator=torch.Generator().manual_seed(5))
    state = torch.get_rng_state()
    assert torch.equal(own(images), again(images))
    assert torch.equal(torch.get_rng_state(), state)


def test_random_jpeg_is_differentiable_and_leaves_its_input_alone():
    images = torch.rand(6, 3, 16, 16, requires_grad=True)
    before = images.detach().clone()
    output = RandomJpeg(p=0.5)(images)
    output.square().sum().backward()
    assert (images.grad != 0).flatten(1).any(1).all()
    assert torch.equal(images.detach(), before)
    kept = RandomJpeg(p=0.0)(images)
    assert torch.equal(kept, images)
    assert kept.data_ptr() != images.data_ptr()


def test_random_jpeg_in_torchvisions_transforms():
    pixels = photograph(40, 40)
    compose = v2.Compose([v2.RandomCrop(32), RandomJpeg(50, "4:2:0"), v2.ToDtype(torch.float32, scale=True)])
    image, label = compose(tv_tensors.Image(pixels), 3)
    assert isinstance(image, tv_tensors.Image)
    assert (image.dtype, image.shape, label) == (torch.float32, (3, 32, 32), 3)
    boxes = tv_tensors.BoundingBoxes([[0, 0, 5, 5]], format="XYXY", canvas_size=(40, 40))
    mask = tv_tensors.Mask(torch.zeros(40, 40))
    sample = {"image": tv_tensors.Image(pixels), "boxes": boxes, "mask": mask, "other": torch.ones(3)}
    done = RandomJpeg(50, "4:2:0")(sample)
    assert torch.equal(done["image"], from_file(pixels, quality=50))
    assert type(done["image"]) is tv_tensors.Image
    for name in ("boxes", "mask", "other"):
        assert done[name] is sample[name]
    plain, target = RandomJpeg(50, "4:2:0")(pixels, torch.tensor(7))
    assert torch.equal(plain, from_file(pixels, quality=50))
    assert target == 7
    pair = RandomJpeg()(tv_tensors.Image(pixels), tv_tensors.Image(pixels))
    assert torch.equal(*pair)
    with pytest.raises(UsageError, match="no image among Image: for PIL images put v2.ToImage"):
        RandomJpeg()(Image.fromarray(pixels.permute(1, 2, 0).numpy()))


class Samples(torch.utils.data.Dataset):
    def __init__(self, transform):
        self.transform, self.pixels = transform, photograph(24, 24)

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.transform(self.pixels)


def test_random_jpeg_in_workers():
    transform = RandomJpeg((1, 100), generator=torch.Generator().manual_seed(0))
    transform.draw(3)
    for copied in (pickle.loads(pickle.dumps(transform)), copy.deepcopy(transform)):
        assert repr(copied) == repr(transform)
        assert copied.generator.initial_seed() == 0
        assert torch.equal(copied.draw(9).quality, copy.deepcopy(transform).draw(9).quality)
    # To workers that are spawned, tensors go as shared memory, and that of a passing tensor is gone when they come for it.
    assert b"storage" not in bytes(ForkingPickler.dumps(transform))

    def epoch(seed):
        torch.manual_seed(seed)
        return torch.stack(list(DataLoader(Samples(transform), batch_size=None, num_workers=2)))

    first = epoch(0)
    assert len(first.flatten(1).unique(dim=0)) > 2  # not the same in both workers
    assert torch.equal(epoch(0), first)
    assert not torch.equal(epoch(1), first)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"quality": (95, 30)}, "quality must be an integer from 1 to 100, or a pair of such, lowest first"),
        ({"quality": 0}, "got 0"),
        ({"quality": (1, 50, 100)}, "lowest first"),
        ({"quality": 50.5}, "got 50.5"),
        ({"subsampling": ()}, "at least one"),
        ({"subsampling": "4:1:0"}, "got '4:1:0'"),
        ({"subsampling": None}, "got None"),
        ({"generator": 3}, "generator must be a torch.Generator, got 3"),
        ({"p": 1.5}, "p must be a number from 0 to 1"),
        ({"rounding": "none at all"}, "rounding must be one of"),
    ],
)
def test_random_jpeg_refuses(arguments, message):
    with pytest.raises(UsageError, match=message):
        RandomJpeg(**arguments)


# -------------------------------------------------------------------------------------------------------- documentation


def test_the_pages_code_runs():
    page = (Path(__file__).parents[2] / "docs" / "how-to" / "pipeline.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 8
    names = {}
    for block in blocks:
        exec(compile(block, "docs/how-to/pipeline.md", "exec"), names)
    assert names["compressed"].shape == (4, 3, 100, 150)
    assert names["augmented"].shape == (3, 64, 64)
    assert names["quality"].grad.all()
    assert names["luma"].grad.any()
    assert 0 < (names["attacked"] - names["images"]).abs().max() <= 8 / 255 + 1e-6
    assert names["output"].shape == names["images"].shape
    assert (names["nearly"] * 255 - names["pixels"]).abs().max() < 3


def test_the_same_pixels_as_torchvisions_transform():
    pixels = photograph(40, 56)
    assert torch.equal(v2.functional.jpeg(pixels, 60), RandomJpeg(60, "4:2:0")(pixels))
