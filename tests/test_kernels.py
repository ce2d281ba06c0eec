import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ORACLE_CASES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jpegdl import JpegLayer, kernels
from jpegdl.kernels import eager_round_trip, soft_round_trip
from jpegdl.tables import standard_tables

cpu = pytest.importorskip("jpegdl.kernels.cpu")
cuda = pytest.importorskip("jpegdl.kernels.cuda")  # without a GPU in Triton's interpreter, on CPU tensors
ON_GPU = torch.cuda.is_available()


@pytest.fixture
def triton_kernel(monkeypatch):
    """The Triton kernels take all calls, and tensors are made where they run."""
    monkeypatch.setattr(kernels, "_kernels", lambda device: cuda)
    with torch.device("cuda" if ON_GPU else "cpu"):
        yield cuda


@pytest.fixture(params=["cpu", "cuda"])
def kernel(request):
    """Each of the two kernels in turn."""
    return cpu if request.param == "cpu" else request.getfixturevalue("triton_kernel")


def _gradients(call, images, q, alpha, upstream):
    inputs = [tensor.detach().clone().requires_grad_() for tensor in (images, q, alpha)]
    output = call(*inputs)
    return [output.detach(), *torch.autograd.grad(output, inputs, upstream.to(output.dtype))]


def _compare(images, q, alpha, bits):
    """The fused float32 results beside those of the readable path, in float64 for the same numbers."""
    upstream = torch.randn(images.shape, generator=torch.Generator().manual_seed(5), device="cpu").to(images.device)
    fused = _gradients(lambda *x: soft_round_trip(*x, bits=bits, window=5), images, q, alpha, upstream)
    exact = _gradients(lambda *x: eager_round_trip(*x, bits, 5), images.double(), q.double(), alpha.double(), upstream.double())
    return zip(fused, exact, strict=True)


@pytest.fixture
def calls(monkeypatch, kernel):
    """How often the fused kernels ran: forward, backward, and whether the latter was asked for the image gradient."""
    counted = {"forward": 0, "backward": []}
    forward, backward = kernel.forward, kernel.backward

    def counting_forward(*args):
        counted["forward"] += 1
        return forward(*args)

    def counting_backward(*args, want_images):
        counted["backward"].append(want_images)
        return backward(*args, want_images=want_images)

    monkeypatch.setattr(kernel, "forward", counting_forward)
    monkeypatch.setattr(kernel, "backward", counting_backward)
    return counted


# ------------------------------------------------------------------------------------------------------- same results


@pytest.mark.parametrize("name", [name for name in ORACLE_CASES if name != "window3"])
def test_agrees_with_the_published_layer(shared, calls, name):
    file = np.load(shared / "oracle" / f"{name}.npz")
    case = {key: torch.from_numpy(np.asarray(value)).to(torch.get_default_device()) for key, value in file.items()}
    layer = JpegLayer(bits=int(case["bits"]), trainable_alpha=True)
    parameters = {"luma": "q_luma", "chroma": "q_chroma", "alpha_luma": "alpha_luma", "alpha_chroma": "alpha_chroma"}
    layer.load_state_dict({ours: case[theirs].float() for ours, theirs in parameters.items()})
    image = (case["image"] / 255).requires_grad_()
    output = layer(image) * 255
    output.backward(case["grad_output"].float())
    assert calls == {"forward": 1, "backward": [True]}

    def error(ours, theirs):
        return ((ours.double() - theirs).abs().max() / theirs.abs().max()).item()

    assert (output.double() - case["output"]).abs().max() < 1e-2  # grey levels
    # Half-way between two levels a coefficient's rounding error, about 3e-5, moves its gradient by 2 alpha q times that: up to
    # 2 % of it for the coarsest steps here.
    assert error(image.grad / 255, case["grad_image"]) < 5e-3
    for ours, theirs in parameters.items():
        assert error(getattr(layer, ours).grad, case[f"grad_{theirs}"]) < 5e-3, ours


_CONFIGURATIONS = given(
    seed=st.integers(0, 2**31),
    size=st.tuples(st.integers(1, 3), st.integers(5, 40), st.integers(5, 40)),
    step=st.floats(-3, 4),
    hardness=st.floats(0.05, 40),
    bits=st.sampled_from([None, 3, 4, 8, 11, 16]),
)


@_CONFIGURATIONS
@settings(max_examples=200, deadline=None)
def test_on_the_cpu_it_is_the_readable_path_to_float32_rounding(seed, size, step, hardness, bits):
    _check_agreement(seed, size, step, hardness, bits)


# 20 where every kernel is interpreted; 200 have passed there too.
@_CONFIGURATIONS
@settings(max_examples=200 if ON_GPU else 20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_in_triton_it_is_the_readable_path_to_float32_rounding(triton_kernel, seed, size, step, hardness, bits):
    _check_agreement(seed, size, step, hardness, bits)


def _check_agreement(seed, size, step, hardness, bits):
    generator = torch.Generator().manual_seed(seed)
    n, height, width = size
    images = torch.rand(n, 3, height, width, generator=generator, device="cpu")
    q = 2 ** (step + torch.rand(3, 8, 8, generator=generator, device="cpu"))
    images, q = images.to(torch.get_default_device()), q.to(torch.get_default_device())
    alpha = hardness / q**2
    # What each is measured against at least: 1 for images and their gradient (upstream is of size 1), as small gradients of a
    # pixel repeated into the padding are what large ones left when they cancelled.
    for (fused, exact), least in zip(_compare(images, q, alpha, bits), (1, 1, 1e-2, 1e-2), strict=True):
        error, scale = (fused.double() - exact).abs(), exact.abs().max().clamp_min(least)
        # A coefficient's rounding error, about 3e-5 of at most 1000, is multiplied by up to 2 hardness / q on its way to a
        # gradient. Within it of the middle between two levels, a coefficient may fall to the other side, where the window moves
        # by one level: rare, and at a hardness of 1.5 or more the levels it loses and gains have no weight.
        assert error.flatten().quantile(0.9) < 1e-3 * scale
        if hardness >= 1.5:
            assert error.max() < 0.05 * scale


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_other_dtypes_are_computed_in_float32(calls, dtype):
    layer = JpegLayer(*standard_tables(50), alpha=0.01)
    images = torch.rand(2, 3, 16, 24).to(dtype).requires_grad_()
    output = layer(images)
    assert output.dtype == dtype
    torch.testing.assert_close(output, layer(images.float()).to(dtype))
    output.float().sum().backward()
    assert images.grad.dtype == dtype
    assert calls["forward"] == 2


def test_pixels_of_8_bits(calls):
    layer = JpegLayer(*standard_tables(50), alpha=0.01)
    pixels = torch.randint(0, 256, (2, 3, 13, 24), dtype=torch.uint8)
    output = soft_round_trip(pixels, layer.steps, layer.alpha, bits=8, window=5)
    assert output.dtype == torch.float32
    expected = layer(pixels.float() / 255)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=0)
    upstream = torch.rand_like(output)
    found, exact = (torch.autograd.grad(out, layer.luma, upstream)[0] for out in (output, expected))
    torch.testing.assert_close(found, exact, rtol=1e-3, atol=1e-3)
    assert calls["forward"] == 2


def test_any_strides(calls):
    layer = JpegLayer(*standard_tables(50), alpha=0.01)
    images = torch.rand(2, 40, 48, 6)[:, ::2, ::3, ::2].permute(0, 3, 1, 2)
    for strided in (images, images.contiguous(memory_format=torch.channels_last), images.flip(3)):
        expected = layer(strided.clone(memory_format=torch.contiguous_format))
        torch.testing.assert_close(layer(strided), expected, atol=0, rtol=0)
    assert calls["forward"] == 6


def test_the_same_at_every_call(kernel, monkeypatch):
    monkeypatch.setattr(
        cuda, "_processors", lambda device: 1
    )  # so that the blocks are many times what the programs take at once
    layer = JpegLayer(*standard_tables(50), alpha=0.01, trainable_alpha=True)
    images = torch.rand(3, 3, 64, 96)
    first, second = (torch.autograd.grad(layer(images).square().sum(), list(layer.parameters())) for _ in range(2))
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))
    exact = eager_round_trip(images.double(), layer.steps.double(), layer.alpha.double(), 8, 5)
    for one, two in zip(first, torch.autograd.grad(exact.square().sum(), list(layer.parameters())), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3 * two.abs().max().item())


def test_whatever_new_tensors_are_by_default(calls):
    layer, images = JpegLayer(*standard_tables(50), alpha=0.01, bits=4), torch.rand(1, 3, 16, 24)
    found = []
    for dtype in (torch.float32, torch.float64):
        torch.set_default_dtype(dtype)
        try:
            output = layer(images)
            found.append((output, *torch.autograd.grad(output.sum(), list(layer.parameters()))))
        finally:
            torch.set_default_dtype(torch.float32)
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def test_negated_views(calls):
    """Complex numbers' conjugates hand out real views whose memory holds the negative."""
    layer = JpegLayer(*standard_tables(50), alpha=0.01)
    images, upstream = torch.rand(1, 3, 16, 24), torch.randn(1, 3, 16, 24)
    for lazy in (torch._neg_view(-images), torch.complex(torch.zeros_like(images), -images).conj().imag):
        assert lazy.is_neg()
        torch.testing.assert_close(layer(lazy), layer(images), atol=1e-6, rtol=0)
    output = layer(images)
    expected = torch.autograd.grad(output, layer.luma, upstream, retain_graph=True)[0]
    torch.testing.assert_close(torch.autograd.grad(output, layer.luma, torch._neg_view(-upstream))[0], expected)


@pytest.mark.parametrize("openmp", [True, False])
def test_sums_do_not_depend_on_the_number_of_threads(monkeypatch, openmp):
    monkeypatch.setattr(cpu, "_WORTH_A_THREAD", 1)
    if not openmp:  # as where PyTorch is built with another library
        monkeypatch.setattr(cpu, "_openmp", lambda: None)
    layer = JpegLayer(*standard_tables(50), alpha=0.01, trainable_alpha=True)
    images = torch.rand(3, 3, 30, 50)
    found = []
    threads = torch.get_num_threads()
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        found.append((layer(images), *torch.autograd.grad(layer(images).square().sum(), list(layer.parameters()))))
    torch.set_num_threads(threads)
    for other in found[1:]:
        # The upstream gradient is PyTorch's own elementwise work, the same for any number of threads.
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


# ---------------------------------------------------------------------------------------------------- what is computed


def test_the_image_gradient_on_demand_alone(calls):
    layer = JpegLayer()
    layer(torch.rand(1, 3, 8, 8)).sum().backward()
    layer(torch.rand(1, 3, 8, 8, requires_grad=True)).sum().backward()
    assert calls["backward"] == [False, True]


def test_the_image_alone_is_kept():
    kept = []
    images = torch.rand(4, 3, 32, 32)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda tensor: tensor):
        JpegLayer()(images)
    assert sum(kept) <= images.numel() + 2 * 3 * 64


def test_second_derivatives_take_the_readable_path(calls):
    images = torch.rand(1, 3, 8, 16, requires_grad=True)
    q, alpha = torch.full((3, 8, 8), 2.3, requires_grad=True), torch.full((3, 8, 8), 0.2)
    second = []
    for call in (lambda *x: soft_round_trip(*x, bits=8, window=5), lambda *x: eager_round_trip(*x, 8, 5)):
        (first,) = torch.autograd.grad(call(images, q, alpha).square().sum(), images, create_graph=True)
        second.append(torch.autograd.grad(first.square().sum(), [images, q]))
    for fused, eager in zip(*second, strict=True):
        torch.testing.assert_close(fused, eager, rtol=1e-2, atol=1e-2 * eager.abs().max().item())
    assert calls["forward"] == 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_models_keep_the_fused_kernels(calls):
    torch._dynamo.reset()
    layer = JpegLayer(*standard_tables(50), alpha=0.01)
    model = torch.nn.Sequential(layer, torch.nn.Conv2d(3, 4, 3))
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    images = torch.rand(2, 3, 17, 24).requires_grad_()
    found = [torch.autograd.grad(call(images).square().sum(), [images, layer.luma]) for call in (model, compiled)]
    for eager, traced in zip(*found, strict=True):
        torch.testing.assert_close(traced, eager)
    assert calls == {"forward": 2, "backward": [True, True]}
    torch.library.opcheck(
        torch.ops.jpegdl.soft_round_trip.default, (images, layer.steps.detach().requires_grad_(), layer.alpha, 8)
    )


def test_exported_models_need_no_kernels(calls):
    layer, images = JpegLayer(*standard_tables(50), alpha=0.01), torch.rand(1, 3, 16, 24)
    exported = torch.export.export(layer, (images,)).module()
    torch.testing.assert_close(exported(images), layer(images), atol=1e-4, rtol=0)
    assert calls["forward"] == 1


def test_transforms_take_the_readable_path(calls):
    q, alpha = torch.full((3, 8, 8), 2.3), torch.full((3, 8, 8), 0.2)
    images = torch.rand(4, 1, 3, 8, 8)

    def total(images, q):
        return soft_round_trip(images, q, alpha, bits=8, window=5).square().sum()

    per_sample = torch.func.vmap(torch.func.grad(total, argnums=1), in_dims=(0, None))(images, q)
    assert calls["forward"] == 0
    for image, gradient in zip(images, per_sample, strict=True):
        steps = q.clone().requires_grad_()
        total(image, steps).backward()
        torch.testing.assert_close(gradient, steps.grad, rtol=1e-3, atol=1e-3)
    assert calls["forward"] == 4


def test_the_layer_in_transforms():
    layer, images = JpegLayer(*standard_tables(50), alpha=0.01), torch.rand(3, 3, 17, 9)
    torch.testing.assert_close(torch.func.vmap(lambda image: layer(image[None])[0])(images), layer(images), atol=1e-4, rtol=0)
    # Forward and reverse mode agree: v . (J u) = (J^T v) . u
    u, v = torch.randn_like(images), torch.randn_like(images)
    _, forward = torch.func.jvp(layer, (images,), (u,))
    _, reverse = torch.func.vjp(layer, images)
    torch.testing.assert_close((v * forward).sum(), (reverse(v)[0] * u).sum(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("options", [{"window": 3}, {"window": None, "bits": 4}, {"rounding": "hard"}])
def test_other_quantizers_take_the_readable_path(calls, options):
    JpegLayer(**options)(torch.rand(1, 3, 8, 8))
    assert calls["forward"] == 0


def test_without_numba_the_readable_path_serves(monkeypatch, calls):
    layer, images = JpegLayer(*standard_tables(50), alpha=0.01), torch.rand(1, 3, 16, 16)
    fused = layer(images)
    monkeypatch.setattr(kernels, "_COMPILERS", {})
    torch.testing.assert_close(layer(images), fused, atol=1e-4, rtol=0)
    assert calls["forward"] == 1


def test_where_nothing_is_writable_but_temporary_folders():
    script = (
        "from numba.core import caching\n"
        "caching.CacheImpl._locator_classes = [caching.UserProvidedCacheLocator]\n"
        "import torch\n"
        "from jpegdl import JpegLayer, kernels\n"
        "JpegLayer()(torch.rand(1, 3, 8, 8))\n"
        'print(kernels._kernels("cpu").__name__)\n'
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "jpegdl.kernels.cpu", done.stderr


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_bad_pixel_stays_within_its_block(value):
    layer = JpegLayer(*standard_tables(50))
    images = torch.rand(2, 3, 24, 24)
    images[1, 0, 3, 20] = value
    images.requires_grad_()
    output = layer(images)
    output.sum().backward()
    clean = torch.ones(2, 3, 24, 24, dtype=torch.bool)
    clean[1, :, :8, 16:] = False
    assert output[clean].isfinite().all()
    assert not output[~clean].isfinite().any()
    assert images.grad[clean].isfinite().all()
    assert layer.luma.grad.isnan().all()  # loud: whoever looks at the loss or the tables sees it


def test_the_exponential():
    x = np.concatenate([-np.logspace(-8, np.log10(87), 20001), [0.0]]).astype(np.float32)
    exp = cpu._exp
    ours = np.array([exp(value) for value in x], dtype=np.float64)
    exact = np.exp(x.astype(np.float64))
    assert np.max(np.abs(ours - exact) / exact) < 2.5e-7
    assert exp(np.float32(-1e30)) < 1e-37
