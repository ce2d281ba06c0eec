import re
import sys
import warnings

import numba
import numpy as np
import pytest
import torch
from conftest import ORACLE, ORACLE_CASES
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from jpegdl import JpegLayer
from jpegdl.errors import UsageError
from jpegdl.kernels import dispatch, eager_round_trip, round_trip
from jpegdl.kernels.trip import Trip
from jpegdl.layer import SubsampledJpegLayer
from jpegdl.settings import ROUNDINGS
from jpegdl.tables import standard_tables

cpu = pytest.importorskip("jpegdl.kernels.cpu")
cpu_vectors, cpu_strips, cpu_exact, cpu_exact_gradients = (
    pytest.importorskip(f"jpegdl.kernels.cpu_{name}") for name in ("vectors", "strips", "exact", "exact_gradients")
)
cuda = pytest.importorskip("jpegdl.kernels.cuda")  # without a GPU in Triton's interpreter, on CPU tensors
ON_GPU = torch.cuda.is_available()


@pytest.fixture
def triton_kernel(monkeypatch):
    """The Triton kernels take all calls, and tensors are made where they run."""
    monkeypatch.setattr(dispatch, "_kernels", lambda device, subsampled: cuda)
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
    fused = _gradients(lambda *x: round_trip(*x, bits=bits, window=5), images, q, alpha, upstream)
    exact = _gradients(
        lambda *x: eager_round_trip(*x, None, Trip(bits=bits)), images.double(), q.double(), alpha.double(), upstream.double()
    )
    return zip(fused, exact, strict=True)


@pytest.fixture
def calls(monkeypatch, kernel):
    """How often the fused kernels ran: forward, backward, and whether the latter was asked for the image gradient."""
    dispatch._kernels(torch.device("cpu"), False)  # which tries them out
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
def test_agrees_with_the_published_layer(calls, name):
    file = np.load(ORACLE / f"{name}.npz")
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


def _configurations(images, side):
    """At most so many images with sides of at most so many pixels."""
    return given(
        seed=st.integers(0, 2**31),
        size=st.tuples(st.integers(1, images), st.integers(5, side), st.integers(5, side)),
        step=st.floats(-3, 4),
        hardness=st.floats(0.05, 40),
        bits=st.sampled_from([None, 3, 4, 8, 11, 16]),
    )


@_configurations(3, 40)
@settings(max_examples=200, deadline=None)
def test_on_the_cpu_it_is_the_readable_path_to_float32_rounding(seed, size, step, hardness, bits):
    _check_agreement(seed, size, step, hardness, bits)


# 5 where every kernel is interpreted, of at most two programs; 200 have passed there too, of up to five.
@_configurations(*((3, 40) if ON_GPU else (2, 24)))
@settings(max_examples=200 if ON_GPU else 5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


def _family(rounding, subsampling, size, *, n=3, each=False, count=3, channels=3, bits=None, whole=False, seed=0):
    """The fused results and gradients beside those of the readable path in float64, of one round trip."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape):
        return torch.rand(shape, generator=generator, device="cpu").to(torch.get_default_device())

    images = rand(n, channels, *size)
    if whole:  # well inside the bins of pixels, where float32 rounds as float64 does
        images = ((images * 255).round() + 0.6 * (rand(*images.shape) - 0.5)) / 255
    q = 3 + 30 * rand(*((n,) if each else ()), count, 8, 8)
    trip = Trip(rounding, subsampling, bits, 5, whole)
    inputs = [images, q, 1.3 / q**2] if trip.soft else [images, q]
    upstream, drawn = rand(*images.shape) - 0.5, torch.tensor(seed + 12345)
    options = {"rounding": rounding, "subsampling": subsampling, "bits": bits, "window": 5, "whole": whole, "seed": drawn}
    found = []
    for call, dtype in (
        (lambda *x: round_trip(*x, **options), torch.float32),
        (lambda x, q, alpha=None: eager_round_trip(x, q, alpha, drawn, trip), torch.float64),
    ):
        given = [tensor.to(dtype).requires_grad_() for tensor in inputs]
        output = call(*given)
        found.append((output.detach(), *torch.autograd.grad(output, given, upstream.to(dtype), materialize_grads=True)))
    return zip(*found, strict=True)


def _check_family(pairs, rounding):
    for number, (fused, exact) in enumerate(pairs):
        assert fused.shape == exact.shape
        error, scale = (fused.double() - exact).abs(), exact.abs().max().clamp_min(1 if number < 2 else 1e-1)
        # Where a coefficient, or a draw, lies on the border of two levels, it may fall to either side: rare, and a step large.
        assert error.flatten().quantile(0.97) < 1e-3 * scale, (number, rounding)
        if rounding in ("soft", "noise", "none"):
            assert error.max() < 1e-2 * scale, (number, rounding)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_every_rounding_and_sampling_is_the_readable_path(rounding, subsampling):
    sizes = ((16, 32), (17, 33), (1, 1), (3, 9), (40, 7), (8, 4), (9, 24))
    for number, size in enumerate(sizes):
        each, bits = number % 2 == 1, (None, 3, 8)[number % 3]
        _check_family(_family(rounding, subsampling, size, each=each, count=2 + number % 2, bits=bits, seed=number), rounding)
    _check_family(_family(rounding, subsampling, (21, 18), channels=1, count=2, seed=9), rounding)


_EACH, _GREY, _WHOLE = {"each": True, "count": 2}, {"channels": 1, "count": 2}, {"whole": True}


@pytest.mark.parametrize(
    ("rounding", "subsampling", "size", "options"),
    [
        ("soft", "4:2:0", (17, 9), {**_EACH, "bits": 4}),
        ("sample", "4:4:4", (9, 17), _EACH),
        ("sample", "4:2:2", (9, 7), {"bits": 8}),
        ("hard", "4:4:4", (17, 9), {"bits": 3}),
        ("hard", "4:2:0", (9, 3), {}),
        ("ste", "4:4:4", (8, 24), {**_EACH, "bits": 3}),
        ("ste", "4:2:0", (16, 32), {}),
        ("ste-matched", "4:4:4", (9, 9), {"bits": 3}),
        ("ste-matched", "4:2:0", (18, 17), _EACH),
        ("ste-matched", "4:4:4", (15, 8), _GREY),
        ("noise", "4:2:0", (18, 17), {**_EACH, "bits": 3}),
        ("noise", "4:2:0", (9, 9), {**_GREY, "each": True}),
        ("none", "4:2:2", (5, 20), {"bits": 3}),
        ("none", "4:2:0", (3, 5), _WHOLE),
        ("none", "4:4:4", (1, 1), {**_GREY, **_WHOLE}),
    ],
)
def test_in_triton_every_rounding_and_sampling_is_the_readable_path(triton_kernel, rounding, subsampling, size, options):
    _check_family(_family(rounding, subsampling, size, n=2, **options), rounding)


def test_in_triton_programs_work_through_many_tiles(triton_kernel, monkeypatch):
    monkeypatch.setattr(cuda, "_processors", lambda device: 1)
    monkeypatch.setattr(cuda, "BLOCKS", 2)
    _check_family(_family("ste-matched", "4:2:0", (33, 8), n=2, each=True), "ste-matched")


@pytest.mark.parametrize("rounding", ["soft", "noise", "none"])
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
def test_whole_pixels_are_the_readable_path(rounding, subsampling):
    for channels in (3, 1):
        fused, exact = next(iter(_family(rounding, subsampling, (19, 35), channels=channels, count=2, whole=True)))
        levels = (fused.double() - exact).mul(255).abs().round()
        assert (levels > 0).float().mean() < 1e-3  # half-way between two of them
        assert levels.max() <= 1
        assert torch.equal(fused, (fused * 255).round() / 255)


@pytest.mark.parametrize("rounding", ["noise", "sample"])
def test_draws_are_the_same_on_any_number_of_threads_and_in_any_batch(monkeypatch, rounding):
    monkeypatch.setattr(cpu, "_WORTH_A_THREAD", 1)
    images, q = torch.rand(3, 3, 40, 50), torch.full((2, 8, 8), 30.0)
    options = {"rounding": rounding, "subsampling": "4:2:0", "bits": None, "window": 5, "seed": torch.tensor(7)}
    threads, found = torch.get_num_threads(), []
    for count in (1, 3):
        torch.set_num_threads(count)
        found.append(round_trip(images, q, 1 / q**2, **options))
    torch.set_num_threads(threads)
    assert torch.equal(*found)
    assert torch.equal(round_trip(images[:1], q, 1 / q**2, **options), found[0][:1])
    other = round_trip(images, q, 1 / q**2, **{**options, "seed": torch.tensor(8)})
    assert not torch.equal(other, found[0])
    torch.manual_seed(3)
    del options["seed"]
    drawn = [round_trip(images, q, 1 / q**2, **options) for _ in range(2)]
    torch.manual_seed(3)
    assert torch.equal(round_trip(images, q, 1 / q**2, **options), drawn[0])
    assert not torch.equal(*drawn)


def test_every_rounding_of_the_layers_is_fused(calls):
    """And by what the layers are, for subclasses too: whatever of theirs the kernel stands for is marked where it stands."""
    images = torch.rand(1, 3, 24, 16, requires_grad=True)
    kinds = [JpegLayer, SubsampledJpegLayer] if dispatch._kernels(torch.device("cpu"), True) is cpu else []
    count = 0
    for kind in kinds:
        for rounding in ROUNDINGS:
            layer = kind(9.0, 12.0, rounding=rounding)
            layer(images).sum().backward()
            count += 1
            assert calls["forward"] == count == len(calls["backward"]), (kind, rounding)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("rounding", ["noise", "ste"])
def test_compiled_models_keep_the_family(rounding):
    torch._dynamo.reset()
    layer = SubsampledJpegLayer(*standard_tables(50), rounding=rounding)
    images = torch.rand(2, 3, 17, 24).requires_grad_()
    found = []
    for call in (layer, torch.compile(layer, fullgraph=True, backend="aot_eager")):
        torch.manual_seed(1)
        found.append(torch.autograd.grad(call(images).square().sum(), [images, layer.luma]))
    for eager, traced in zip(*found, strict=True):
        torch.testing.assert_close(traced, eager)
    q = torch.stack(standard_tables(50)).requires_grad_()
    seed = torch.tensor(3) if rounding == "noise" else None
    torch.library.opcheck(torch.ops.jpegdl.round_trip.default, (images, q, None, seed, rounding, "4:2:0", None, True))


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:0"])
def test_nan_stays_within_its_image(rounding, subsampling):
    _check_nan(rounding, subsampling)


def test_in_triton_nan_stays_within_its_image(triton_kernel):
    _check_nan("ste-matched", "4:2:0")


def _check_nan(rounding, subsampling):
    images, q = torch.rand(2, 3, 24, 24), torch.full((2, 2, 8, 8), 20.0, requires_grad=True)
    images[1, 0, 3, 20] = float("nan")
    options = {"rounding": rounding, "subsampling": subsampling, "bits": None, "window": 5}
    for whole in (True, False):
        output = round_trip(images, q, 1 / q.detach() ** 2, whole=whole, **options)
        output.sum().backward()
        assert output[0].isfinite().all()
        assert output[1].isnan().all() if whole else output[1, :, 3, 20].isnan().all()
        assert whole or output[1, :, 20:].isfinite().all()
        assert q.grad[0].isfinite().all()


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
    output = round_trip(pixels, layer.steps, layer.alpha, bits=8, window=5)
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
    # So that the blocks are many times what the programs take at once.
    monkeypatch.setattr(cuda, "_processors", lambda device: 1)
    interpreted = kernel is cuda and not ON_GPU
    if interpreted:
        monkeypatch.setattr(cuda, "BLOCKS", 2)
    layer = JpegLayer(*standard_tables(50), alpha=0.01, trainable_alpha=True)
    images = torch.rand(*(2, 3, 16, 40) if interpreted else (3, 3, 64, 96))
    first, second = (torch.autograd.grad(layer(images).square().sum(), list(layer.parameters())) for _ in range(2))
    assert all(torch.equal(one, two) for one, two in zip(first, second, strict=True))
    exact = eager_round_trip(images.double(), layer.steps.double(), layer.alpha.double(), None, Trip())
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


class _Coarser(JpegLayer):
    @property
    def steps(self):
        return 2 * super().steps


class _Sharper(SubsampledJpegLayer):
    @property
    def alpha(self):
        return 2 * super().alpha


@pytest.mark.parametrize("kind", [JpegLayer, SubsampledJpegLayer, _Coarser, _Sharper])
def test_calls_without_gradients_are_the_same(kind):
    """They hand the kernel their tables as these lie, if they are the layer's own and within their range."""

    def luma(values):
        return lambda layer: setattr(layer.luma, "data", values)

    steps = torch.rand(8, 8) * 30 + 5
    changes = {
        "none": lambda layer: None,
        "below": luma(torch.where(steps < 10, torch.tensor(1e-9), steps)),
        "beyond": luma(torch.where(steps < 10, torch.tensor(1e9), steps)),
        "nan": luma(torch.where(steps < 10, torch.tensor(torch.nan), steps)),
        "other strides": luma(steps.t()),
        "float64": lambda layer: layer.double(),
        "frozen": lambda layer: [luma(steps * 1e4)(layer), layer.requires_grad_(False)],
    }
    images = torch.rand(2, 3, 21, 18)
    options = [{"rounding": "soft"}, {"rounding": "hard"}, {"rounding": "none"}, {"bits": 3}, {"window": 3}, {"bits": None}]
    for chosen in [*options, {"hardness": 3.0}, {"trainable_alpha": True}]:
        for name, change in changes.items():
            layer = kind(9.0, 12.0, **chosen)
            change(layer)
            for x in (images, images[..., :3], images.double(), (images * 255).byte(), images.transpose(2, 3)):
                expected = layer(x).detach()
                with torch.no_grad():
                    found = layer(x)
                assert torch.equal(found.nan_to_num(9), expected.nan_to_num(9)), (chosen, name, x.dtype)


@pytest.mark.parametrize("openmp", [True, False])
@pytest.mark.parametrize("kind", [JpegLayer, SubsampledJpegLayer])
def test_sums_do_not_depend_on_the_number_of_threads(monkeypatch, openmp, kind):
    monkeypatch.setattr(cpu, "_WORTH_A_THREAD", 1)
    if not openmp:  # as where PyTorch is built with another library
        monkeypatch.setattr(cpu, "_openmp", lambda: None)
    layer = kind(*standard_tables(50), alpha=0.01, trainable_alpha=True)
    images = torch.rand(3, 3, 60, 50)
    found = []
    threads = torch.get_num_threads()
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        found.append((layer(images), *torch.autograd.grad(layer(images).square().sum(), list(layer.parameters()))))
    torch.set_num_threads(threads)
    for other in found[1:]:
        # The upstream gradient is PyTorch's own elementwise work, the same for any number of threads.
        assert all(torch.equal(one, two) for one, two in zip(found[0], other, strict=True))


# Ctrl+C comes while the threads work, and again while their end is awaited. What they work on must stay until they are done.
_INTERRUPTED = """
import signal, threading, weakref
import torch
from jpegdl.kernels import cpu
from jpegdl.kernels.trip import Trip

interrupts, gone, both, found = 0, threading.Event(), threading.Barrier(2), []

def interrupt(*_):
    global interrupts
    interrupts += 1
    if interrupts <= 2:
        raise KeyboardInterrupt

signal.signal(signal.SIGINT, interrupt)
share_out = cpu._share_out

def watched(team, job, strips, held):
    watched.tensors = {name: weakref.ref(tensor) for name, tensor in held.items()}
    share_out(team, job, strips, held)

def native(job):  # in the place of the compiled function
    both.wait()
    while not gone.wait(0.01):
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    found.append([name for name, tensor in watched.tensors.items() if tensor() is None])

cpu._share_out, cpu._openmp, cpu._native = watched, lambda: None, lambda team: native
torch.set_num_threads(2)
try:
    cpu.forward(torch.rand(4, 3, 64, 64), torch.ones(3, 8, 8), torch.ones(3, 8, 8), None, Trip())
except KeyboardInterrupt as error:
    del error
gone.set()
for thread in threading.enumerate():
    if thread is not threading.main_thread():
        thread.join()
print(interrupts >= 2, bool(found), any(found))
"""


def test_interrupted_twice_it_frees_nothing_that_threads_work_on(fresh):
    done = fresh(_INTERRUPTED)
    assert done.stdout.strip() == "True True False", (done.stdout, done.stderr)


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
    for call in (lambda *x: round_trip(*x, bits=8, window=5), lambda *x: eager_round_trip(*x, None, Trip())):
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
        torch.ops.jpegdl.round_trip.default,
        (
            images[:1, :, :9, :8].detach().requires_grad_(),
            layer.steps.detach().requires_grad_(),
            layer.alpha,
            None,
            "soft",
            "4:4:4",
            8,
            False,
        ),
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
        return round_trip(images, q, alpha, bits=8, window=5).square().sum()

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


@pytest.mark.parametrize("options", [{"window": 3}, {"window": None, "bits": 4}])
def test_other_windows_take_the_readable_path(calls, options):
    JpegLayer(**options)(torch.rand(1, 3, 8, 8))
    assert calls["forward"] == 0


@pytest.fixture
def no_kernels_yet():
    """As in a new process, before and after."""
    dispatch._kernels.cache_clear()
    yield
    dispatch._kernels.cache_clear()


@pytest.mark.parametrize(
    "broken",
    [
        ("forward", OSError(28, "No space left on device")),
        ("backward", RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")),
        (None, ImportError("jpegdl.kernels.cpu")),
    ],
)
def test_where_the_compiler_does_not_work_the_readable_path_serves(monkeypatch, no_kernels_yet, broken):
    layer, images = JpegLayer(*standard_tables(50), alpha=0.01), torch.rand(1, 3, 16, 16)
    fused = layer(images)
    assert type(fused.grad_fn).__name__ == "_FusedBackward"
    dispatch._kernels.cache_clear()
    name, error = broken

    def failing(*args, **kwargs):
        raise error

    if name is None:
        monkeypatch.setitem(sys.modules, "jpegdl.kernels.cpu", None)
    else:
        monkeypatch.setattr(cpu, name, failing)
    with pytest.warns(RuntimeWarning, match=re.escape(str(error))) as warned:
        readable = layer(images)
    assert len(warned) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        again = layer(images)
        torch.autograd.grad(again.sum(), layer.luma)
    assert type(again.grad_fn).__name__ != "_FusedBackward"
    torch.testing.assert_close(readable, fused, atol=1e-4, rtol=0)


def test_a_full_memory_is_not_taken_for_a_broken_compiler(monkeypatch, no_kernels_yet):
    def failing(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(cpu, "forward", failing)
        with pytest.raises(torch.OutOfMemoryError):
            JpegLayer()(torch.rand(1, 3, 8, 8))
    assert type(JpegLayer()(torch.rand(1, 3, 8, 8)).grad_fn).__name__ == "_FusedBackward"


def test_where_nothing_is_writable_but_temporary_folders(fresh, tmp_path):
    done = fresh(
        "import os, tempfile, warnings\n"
        f"tempfile.tempdir = {str(tmp_path)!r}\n"
        "os.environ['NUMBA_OPT'] = '0'\n"  # in half the time; numba warns that such code is not for its cache
        "warnings.simplefilter('ignore')\n"
        "from numba.core import caching\n"
        "caching.CacheImpl._locator_classes = [caching.UserProvidedCacheLocator]\n"
        "import torch\n"
        "from jpegdl import JpegLayer\n"
        "images, ones = torch.full((1, 3, 8, 8), 0.25), torch.ones(8, 8)\n"
        "with torch.no_grad():\n"
        "    found = JpegLayer(ones, ones, rounding='hard', bits=None)(images)\n"
        "assert torch.allclose(found, images, atol=0.01)\n"
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("jpegdl-numba-*"))


# ------------------------------------------------------------------------------------------------- whatever is given

# In a process of its own: a kernel that reads where there is no memory takes the tests down with it.
_STAND_INS = """
import torch
from torch._subclasses import FakeTensorMode
from jpegdl.errors import UsageError
from jpegdl.kernels import round_trip

class Wrapped(torch.Tensor):
    # As DTensor: the storage is elsewhere.
    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        unwrap = lambda value: value.inner if isinstance(value, Wrapped) else value
        return function(*torch.utils._pytree.tree_map(unwrap, args), **torch.utils._pytree.tree_map(unwrap, kwargs or {}))

images, q, alpha = torch.rand(2, 3, 64, 64), torch.full((3, 8, 8), 2.5), torch.full((3, 8, 8), 0.2)
expected = round_trip(images, q, alpha, bits=8, window=5)
fake = FakeTensorMode(allow_non_fake_inputs=True)
for stand_in in (Wrapped, fake.from_tensor, torch._efficientzerotensor):
    for place in range(3):
        tensors = [images, q, alpha]
        tensors[place] = stand_in(tensors[place].shape if stand_in is torch._efficientzerotensor else tensors[place])
        found = round_trip(*tensors, bits=8, window=5)
        assert found.shape == images.shape
        if stand_in is Wrapped:
            torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
for tables in ((q.to("meta"), alpha), (q, alpha.to("meta"))):
    try:
        round_trip(images, *tables, bits=8, window=5)
        raise SystemExit("not refused")
    except UsageError as error:
        assert "is on meta and the images are on cpu" in str(error), error
        assert "layer.to_empty(device='cpu'), then load_state_dict" in str(error), error
assert round_trip(images.to("meta"), q, alpha, bits=8, window=5).device.type == "meta"
output = round_trip(images, q.requires_grad_(), alpha, bits=8, window=5)
upstream = torch.rand_like(output)
(expected,) = torch.autograd.grad(output, q, upstream, retain_graph=True)
(found,) = torch.autograd.grad(output, q, Wrapped(upstream), retain_graph=True)
torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
print("alive")
"""


def test_stand_ins_for_tensors_do_not_kill_the_process(fresh):
    done = fresh(_STAND_INS)
    assert done.stdout.strip() == "alive", (done.returncode, done.stderr)


@pytest.mark.parametrize("window", [5, 3])
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"images": torch.rand(2, 4, 8, 8)}, r"images must be of shape \(N, 3, H, W\).*\(2, 4, 8, 8\)"),
        ({"images": torch.rand(3, 8, 8)}, "images must be of shape"),
        ({"images": torch.rand(2, 3, 0, 8)}, "images must be of shape"),
        ({"images": torch.zeros(2, 3, 8, 8, dtype=torch.int64)}, "images must be floating point.*torch.int64"),
        ({"q": torch.ones(8, 8)}, r"q must be of shape \(3, 8, 8\).*\(8, 8\)"),
        ({"alpha": torch.ones(1, 8, 8)}, "alpha must be of shape"),
        ({"alpha": torch.ones(3, 8, 8, dtype=torch.int32)}, "alpha must be floating point"),
        ({"bits": 17}, "bits must be an integer from 2 to 16"),
        ({"bits": 2, "window": 7}, "window must not exceed the alphabet"),
        ({"window": 4}, "window must be an odd"),
        ({"rounding": "round"}, "rounding must be one of soft, hard"),
        ({"subsampling": "4:1:1"}, "subsampling must be one of 4:4:4"),
        ({"alpha": None}, "rounding 'soft' needs alpha"),
        ({"q": torch.ones(3, 3, 8, 8), "alpha": torch.ones(3, 3, 8, 8)}, "q must be of shape.*each of 2 images.*3, 3, 8, 8"),
    ],
)
def test_the_same_is_refused_on_every_path(window, change, named):
    tables = {"q": torch.ones(3, 8, 8), "alpha": torch.ones(3, 8, 8)}
    given = {"images": torch.rand(2, 3, 8, 8), "bits": 8, "window": window} | tables | change
    with pytest.raises((UsageError, TypeError), match=named):
        round_trip(**given)


def _tables():
    return torch.full((3, 8, 8), 2.5), torch.full((3, 8, 8), 0.2)


class _Last(TorchDispatchMode):
    """Takes note of the operations."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen.add(str(function))
        return function(*args, **kwargs or {})


def test_tracers_see_ordinary_operations(calls):
    q, alpha = _tables()
    first, second = torch.rand(2, 3, 17, 24), torch.rand(2, 3, 17, 24)

    def call(images):
        return round_trip(images, q, alpha, bits=8, window=5)

    expected = eager_round_trip(second, q, alpha, None, Trip())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # the size of the images is fixed, as in any trace
        torch.testing.assert_close(torch.jit.trace(call, first, check_trace=False)(second), expected)
    torch.testing.assert_close(make_fx(call)(first)(second), expected)
    steps = q.clone().requires_grad_()
    with FlopCounterMode(display=False) as counter, _Last() as mode:
        mode.seen = set()
        torch.testing.assert_close(round_trip(second, steps, alpha, bits=8, window=5).detach(), expected)
    assert counter.get_total_flops() > 0
    assert "aten.exp.default" in mode.seen
    assert not any("jpegdl" in name for name in mode.seen)
    assert calls["forward"] == 0
    # Where the mode is there in the backward pass alone.
    output = round_trip(second, steps, alpha, bits=8, window=5)
    assert calls["forward"] == 1
    with _Last() as mode:
        mode.seen = set()
        output.sum().backward()
    assert "aten.exp.default" in mode.seen
    assert calls["backward"] == []


def test_batches_of_gradients(calls):
    q, alpha = (table.requires_grad_() for table in _tables())
    images = torch.rand(2, 3, 17, 24, requires_grad=True)
    output = round_trip(images, q, alpha, bits=8, window=5)
    upstream = torch.randn(3, *output.shape)
    singly = [torch.autograd.grad(output, [images, q, alpha], one, retain_graph=True) for one in upstream]
    assert len(calls["backward"]) == 3
    batched = torch.autograd.grad(output, [images, q, alpha], upstream, is_grads_batched=True, retain_graph=True)

    def pull_back(one):
        return torch.autograd.grad(output, [images, q, alpha], one, retain_graph=True)

    for found in (batched, torch.func.vmap(pull_back)(upstream)):
        for one, *others in zip(found, *singly, strict=True):
            torch.testing.assert_close(one, torch.stack(others), rtol=1e-3, atol=1e-3 * one.abs().max().item())
    assert len(calls["backward"]) == 3


def test_batches_of_channels_last_images():
    q, alpha = _tables()
    images = torch.rand(3, 2, 16, 24, 3).permute(0, 1, 4, 2, 3)
    found = torch.func.vmap(lambda each: round_trip(each, q, alpha, bits=8, window=5))(images)
    expected = torch.stack([round_trip(each, q, alpha, bits=8, window=5) for each in images])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)


def test_float64_is_not_rounded(calls):
    q, alpha = (table.double() * (1 + 1e-9) for table in _tables())
    images = torch.rand(1, 3, 8, 16, dtype=torch.float64)
    inputs = [tensor.requires_grad_() for tensor in (images, q, alpha)]
    torch.testing.assert_close(round_trip(*inputs, bits=8, window=5), eager_round_trip(*inputs, None, Trip()), rtol=0, atol=0)
    assert not torch.equal(
        round_trip(images, q, alpha, bits=8, window=5), round_trip(images, q.float(), alpha.float(), bits=8, window=5)
    )
    assert torch.autograd.gradcheck(lambda *x: round_trip(*x, bits=8, window=5), inputs, fast_mode=True)
    assert calls["forward"] == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_tables_of_other_dtypes(calls, dtype):
    images, (q, alpha) = torch.rand(1, 3, 13, 16), _tables()
    other = [table.to(dtype).requires_grad_() for table in (q, alpha)]
    same = [table.detach().float().requires_grad_() for table in other]
    outputs = [round_trip(images, *tables, bits=8, window=5) for tables in (other, same)]
    assert torch.equal(*outputs)
    assert calls["forward"] == 2
    upstream = torch.randn_like(images)
    for found, expected in zip(
        *(torch.autograd.grad(*pair, upstream) for pair in zip(outputs, (other, same), strict=True)), strict=True
    ):
        assert found.dtype == dtype
        torch.testing.assert_close(found, expected.to(dtype))


@pytest.mark.parametrize("rounding", ROUNDINGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # fused, and readable
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_bad_pixel_stays_within_its_block(value, dtype, rounding):
    layer = JpegLayer(*standard_tables(50), rounding=rounding)
    images = torch.rand(2, 3, 24, 24, dtype=dtype)
    images[1, 0, 3, 20] = value
    images.requires_grad_()
    output = layer(images)
    output.sum().backward()
    clean = torch.ones(2, 3, 24, 24, dtype=torch.bool)
    clean[1, :, :8, 16:] = False
    for found in (output, images.grad):
        assert found[clean].isfinite().all()
        assert not found[~clean].isfinite().any()
    if rounding != "none" or dtype == torch.float32:
        assert layer.luma.grad.isnan().all()  # loud: whoever looks at the loss or the tables sees it


def test_numbers_of_images_are_no_reason_to_compile_again(fresh):
    done = fresh(
        "import os\n"
        "os.environ.pop('TRITON_INTERPRET', None)\n"
        "from jpegdl.kernels import cuda\n"
        "for kernel in (cuda._forward_kernel, cuda._backward_kernel):\n"
        "    print(*(p.name for p in kernel.params if not (p.do_not_specialize or p.is_constexpr)))\n"
    )
    forward, backward = (set(line.split()) for line in done.stdout.splitlines())
    both = {"images", "samples", "q", "alpha", "seed", "cap", *(f"{i}{axis}" for i in "so" for axis in "nchw")}
    assert forward == both | {"output", "bad"}, done.stderr
    assert backward == both | {"grad", "grad_images", "partial", "gn", "gc", "gh", "gw"}


def test_the_exponential():
    @cpu_vectors.vector_function()
    def exponential(x, i):
        x.store(cpu_vectors.exp2(x.load(i), -125.0), i)

    @numba.njit
    def in_place(x):
        for i in range(0, len(x), cpu_vectors.LANES):
            exponential(x, i)

    exact = -np.concatenate([[0.0], np.logspace(-8, np.log10(125), 20000 - 1)]).astype(np.float32).astype(np.float64)
    extremes = np.array([-1e30, -np.inf, np.nan, -126, 1e-7, 0, -125, -125])
    x = np.concatenate([exact, extremes, extremes]).astype(np.float32)
    in_place(x)
    assert np.max(np.abs(x[:20000] / 2**exact - 1)) < 2.5e-7
    assert (x[20000:].reshape(2, -1) == np.float32([2**-125, 2**-125, 2**-125, 2**-125, 1, 1, 2**-125, 2**-125])).all()
