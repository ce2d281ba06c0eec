import math

import numpy as np
import pytest
import torch
from conftest import ORACLE, ORACLE_CASES
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

import reference
from jpegdl import functional as F
from jpegdl.errors import UsageError
from jpegdl.functional import quantizers, transforms

# ------------------------------------------------------------------------------------------------ the published layer


def run_oracle(case: dict[str, np.ndarray], dtype: torch.dtype) -> dict[str, Tensor]:
    """Our round trip on an oracle case, under the oracle's names and in its units (0..255)."""
    given = {name: torch.from_numpy(np.asarray(case[name])).to(dtype) for name in case}
    image = (given["image"] / 255).requires_grad_()
    q_luma, q_chroma, a_luma, a_chroma = (
        given[name].requires_grad_() for name in ("q_luma", "q_chroma", "alpha_luma", "alpha_chroma")
    )
    z = F.images_to_coefficients(image)
    q, alpha = torch.stack((q_luma, q_chroma, q_chroma)), torch.stack((a_luma, a_chroma, a_chroma))
    quantized = F.soft_quantize(z, q[:, None, None], alpha[:, None, None], bits=int(case["bits"]), window=int(case["window"]))
    output = F.coefficients_to_images(quantized, (image.shape[-2], image.shape[-1])) * 255
    output.backward(given["grad_output"])
    return {
        "coefficients": z,
        "quantized": quantized,
        "output": output,
        "grad_image": image.grad / 255,
        "grad_q_luma": q_luma.grad,
        "grad_q_chroma": q_chroma.grad,
        "grad_alpha_luma": a_luma.grad,
        "grad_alpha_chroma": a_chroma.grad,
    }


@pytest.mark.parametrize("name", ORACLE_CASES)
@pytest.mark.parametrize(
    ("dtype", "values", "gradients"),
    # float32: outputs to 2e-5 of the largest; gradients to 1e-3 of it, since where a coefficient lies half-way between two
    # levels its rounding error is multiplied by alpha q z.
    [(torch.float64, 1e-9, 1e-9), (torch.float32, 2e-5, 1e-3)],
    ids=["float64", "float32"],
)
def test_agrees_with_the_published_layer(name, dtype, values, gradients):
    case = dict(np.load(ORACLE / f"{name}.npz"))
    for quantity, ours in run_oracle(case, dtype).items():
        theirs = torch.from_numpy(case[quantity])
        error = (ours.detach().double() - theirs).abs().max() / theirs.abs().max()
        assert error < (gradients if quantity.startswith("grad") else values), quantity


@pytest.mark.parametrize("name", ORACLE_CASES)
def test_float32_output_is_within_a_hundredth_of_a_grey_level(name):
    case = dict(np.load(ORACLE / f"{name}.npz"))
    output = run_oracle(case, torch.float32)["output"].detach().double()
    assert (output - torch.from_numpy(case["output"])).abs().max() < 1e-2


# -------------------------------------------------------------------------------------------------------- transforms


def test_colour_is_jfif():
    rgb = torch.rand(2, 3, 4, 4, dtype=torch.float64) * 255 - 128
    r, g, b = rgb.unbind(1)
    y, cb, cr = F.rgb_to_ycbcr(rgb).unbind(1)
    torch.testing.assert_close(y, 0.299 * r + 0.587 * g + 0.114 * b)
    # JFIF 1.02 prints the chroma rows to four digits.
    torch.testing.assert_close(cb, -0.1687 * r - 0.3313 * g + 0.5 * b, atol=0.02, rtol=0)
    torch.testing.assert_close(cr, 0.5 * r - 0.4187 * g - 0.0813 * b, atol=0.02, rtol=0)
    torch.testing.assert_close(F.ycbcr_to_rgb(F.rgb_to_ycbcr(rgb)), rgb)


def test_grey_has_no_chroma():
    grey = torch.full((1, 3, 8, 8), 77.0, dtype=torch.float64)
    assert F.rgb_to_ycbcr(grey)[:, 1:].abs().max() < 1e-12


def test_dct_is_that_of_the_standard():
    x = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    expected = torch.tensor(reference.dct(x[0, 0].tolist()), dtype=torch.float64)
    torch.testing.assert_close(F.block_dct(x)[0, 0, 0, 0], expected)


def test_blocks_lie_where_they_belong_and_rows_are_the_vertical_frequency():
    x = torch.zeros(1, 1, 16, 24, dtype=torch.float64)
    x[0, 0, 8:, 16:] = torch.cos((2 * torch.arange(8.0, dtype=torch.float64) + 1) * math.pi / 16)[:, None]  # varies downwards
    z = F.block_dct(x)
    assert z.shape == (1, 1, 2, 3, 8, 8)
    assert z[0, 0, 1, 2, 1, 0].item() == pytest.approx(4 * math.sqrt(2))  # = the norm of the block
    z[0, 0, 1, 2, 1, 0] = 0
    assert z.abs().max() < 1e-12


def test_dct_is_orthonormal_and_inverts():
    x = torch.randn(2, 3, 16, 24, dtype=torch.float64)
    z = F.block_dct(x)
    torch.testing.assert_close(z.square().sum(), x.square().sum())
    torch.testing.assert_close(F.block_idct(z), x)
    flat = F.block_dct(torch.full((1, 1, 8, 8), 5.0, dtype=torch.float64))
    torch.testing.assert_close(flat[0, 0, 0, 0, 0, 0].item(), 40.0)


def test_dct_refuses_sizes_that_are_no_multiple_of_8():
    with pytest.raises(UsageError, match="multiples of 8"):
        F.block_dct(torch.zeros(1, 3, 8, 12))


def test_matrix_made_in_inference_mode_serves_training_later():
    transforms._DCT_MATRICES.clear()
    with torch.inference_mode():
        F.block_dct(torch.zeros(1, 1, 8, 8))
    x = torch.randn(1, 1, 8, 8, requires_grad=True)
    F.block_dct(x).sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("transform", [torch.func.grad, lambda f: torch.func.vmap(f, in_dims=1)])
def test_matrix_made_in_a_transform_does_not_outlive_it(transform):
    transforms._DCT_MATRICES.clear()
    x = torch.randn(1, 1, 8, 8)
    transform(lambda x: F.block_dct(x.reshape(1, 1, 8, 8)).square().sum())(x)
    assert not transforms._DCT_MATRICES
    F.block_dct(x)
    assert torch.equal(transforms._DCT_MATRICES[torch.float32, x.device], torch.from_numpy(transforms._DCT_2D).float())


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_tracing_first_gives_what_tracing_later_gives():
    transforms._DCT_MATRICES.clear()
    x, other = torch.randn(2, 1, 1, 8, 8)
    traced = torch.jit.trace(F.block_dct, x)  # runs twice, and raises where the two differ
    torch.testing.assert_close(traced(other), F.block_dct(other))


# -------------------------------------------------------------------------------------------------------- quantizers

Z = st.floats(-1100, 1100)
Q = st.floats(1e-3, 100)
ALPHA = st.floats(1e-4, 20)


@given(Z, Q, ALPHA, st.integers(3, 8), st.sampled_from([1, 3, 5, 7]))
@settings(max_examples=200, deadline=None)
def test_soft_is_the_reference(z, q, alpha, bits, window):
    ours = F.soft_quantize(torch.tensor([z], dtype=torch.float64), q, alpha, bits=bits, window=window).item()
    assert ours == pytest.approx(reference.soft(z, q, alpha, bits, window), rel=1e-9, abs=1e-9)


@given(Z, Q, ALPHA, st.integers(2, 10))
@settings(max_examples=40, deadline=None)
def test_the_whole_alphabet_is_the_reference(z, q, alpha, bits):
    ours = F.soft_quantize(torch.tensor([z], dtype=torch.float64), q, alpha, bits=bits, window=None).item()
    assert ours == pytest.approx(reference.soft(z, q, alpha, bits, None), rel=1e-9, abs=1e-9)


@given(Z, Q, st.integers(2, 16))
@settings(max_examples=100, deadline=None)
def test_hard_is_the_reference(z, q, bits):
    z64 = torch.tensor([z], dtype=torch.float64)
    expected = pytest.approx(reference.hard(z, q, bits), rel=1e-12, abs=1e-12)
    assert F.hard_quantize(z64, q, bits=bits).item() == expected
    assert F.ste_quantize(z64, q, bits=bits).item() == expected
    steps = torch.tensor(q, dtype=torch.float64, requires_grad=True)
    assert F.ste_quantize(z64, steps, bits=bits, matched=True).item() == expected


@given(Z, Q, st.integers(3, 8))
@settings(max_examples=100, deadline=None)
def test_soft_becomes_hard_as_alpha_grows(z, q, bits):
    cap = 2 ** (bits - 1) - 1
    distance = abs(z / q - math.floor(z / q) - 0.5)
    if distance < 1e-3 and abs(z / q) < cap:
        return  # half-way between two levels they differ, as they should
    z64 = torch.tensor([z], dtype=torch.float64)
    soft = F.soft_quantize(z64, q, 1e5 / q**2, bits=bits)
    torch.testing.assert_close(soft, F.hard_quantize(z64, q, bits=bits))


def test_a_tiny_hardness_makes_the_window_an_identity_with_saturation():
    z = torch.linspace(-300, 300, 601, dtype=torch.float64)
    soft = F.soft_quantize(z, 1.0, 1e-9, bits=8, window=5)
    expected = z.round().clamp(-125, 125)  # the window's mean: L - 2 at the cap
    torch.testing.assert_close(soft, expected, atol=1e-4, rtol=0)


def test_without_a_cap_levels_go_on():
    z = torch.tensor([1000.2, -1000.2], dtype=torch.float64)
    assert F.hard_quantize(z, 1.0, bits=None).tolist() == [1000, -1000]
    assert F.hard_quantize(z, 1.0, bits=8).tolist() == [127, -127]
    torch.testing.assert_close(F.soft_quantize(z, 1.0, 50.0, bits=None), torch.tensor([1000, -1000], dtype=torch.float64))


@pytest.mark.parametrize(("bits", "window"), [(8, 5), (3, 5), (4, None), (None, 3), (8, 1)])
def test_gradcheck_soft(bits, window):
    # Away from rounding boundaries, where the window jumps; some beyond the cap.
    z = torch.tensor([0.2, -3.3, 7.1, 14.8, -40.4, 0.9], dtype=torch.float64).reshape(2, 3).requires_grad_()
    q = torch.tensor([1.0, 2.3, 0.7], dtype=torch.float64, requires_grad=True)
    alpha = torch.tensor([0.6, 0.2, 1.1], dtype=torch.float64, requires_grad=True)

    def quantize(z, q, alpha):
        return F.soft_quantize(z, q, alpha, bits=bits, window=window)

    assert torch.autograd.gradcheck(quantize, (z, q, alpha), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(quantize, (z, q, alpha))
    assert torch.autograd.gradcheck(quantize, (z, q[:1].detach().requires_grad_(), alpha))


# ------------------------------------------------------------------------------------------------- levels and P(k | z)


@given(Z, Q, st.integers(2, 16))
@settings(max_examples=100, deadline=None)
def test_levels_are_whole_numbers_within_the_cap(z, q, bits):
    level = F.quantize_levels(torch.tensor([z], dtype=torch.float64), q, bits=bits).item()
    assert level == reference.level(z, q, bits)
    assert F.quantize_levels(torch.tensor([z], dtype=torch.float64), q, bits=None).item() == round(z / q)


def test_hard_quantizer_is_step_times_level():
    z, q = torch.randn(50, 8, 8) * 100, torch.rand(8, 8) * 5 + 0.1
    levels = F.quantize_levels(z, q, bits=6)
    assert levels.dtype == torch.float32
    assert torch.equal(F.hard_quantize(z, q, bits=6), q * levels)
    assert (levels.min(), levels.max()) == (-31, 31)


@given(Z, Q, ALPHA, st.integers(3, 8), st.sampled_from([1, 3, 5, 7, None]))
@settings(max_examples=200, deadline=None)
def test_probabilities_are_the_reference(z, q, alpha, bits, window):
    z64 = torch.tensor([z], dtype=torch.float64)
    probabilities, levels = F.level_probabilities(z64, q, alpha, bits=bits, window=window)
    expected = reference.probabilities(z, q, alpha, bits, window)
    assert levels[0].tolist() == list(expected)
    assert probabilities[0].tolist() == pytest.approx(list(expected.values()), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("bits", "window"), [(8, 5), (3, 5), (4, None), (None, 3)])
def test_the_mean_of_the_probabilities_is_the_soft_quantizer(bits, window):
    shapes = [(4, 3, 2, 2, 8, 8), (3, 1, 1, 8, 8), (8, 8)]
    z, q, alpha = (torch.rand(shape, dtype=torch.float64) + 0.2 for shape in shapes)
    z = ((z - 0.7) * 60).requires_grad_()
    inputs = [z, q.requires_grad_(), alpha.requires_grad_()]
    probabilities, levels = F.level_probabilities(*inputs, bits=bits, window=window)
    assert probabilities.shape == levels.shape == (*z.shape, window or 15)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones_like(z))
    mean = (q[..., None] * levels * probabilities).sum(-1)
    soft = F.soft_quantize(*inputs, bits=bits, window=window)
    torch.testing.assert_close(mean, soft)
    weights = torch.randn_like(soft)
    for ours, theirs in zip(
        torch.autograd.grad(mean, inputs, weights), torch.autograd.grad(soft, inputs, weights), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("bits", "window"), [(8, 5), (3, 5), (4, None), (None, 3)])
def test_gradcheck_of_the_probabilities(bits, window):
    z = torch.tensor([0.2, -3.3, 7.1, 14.8, -40.4, 0.9], dtype=torch.float64).reshape(2, 3).requires_grad_()
    q = torch.tensor([1.0, 2.3, 0.7], dtype=torch.float64, requires_grad=True)
    alpha = torch.tensor([0.6, 0.2, 1.1], dtype=torch.float64, requires_grad=True)

    def probabilities(z, q, alpha):
        return F.level_probabilities(z, q, alpha, bits=bits, window=window)[0]

    assert torch.autograd.gradcheck(probabilities, (z, q, alpha), check_forward_ad=True)
    assert torch.autograd.gradgradcheck(probabilities, (z, q, alpha))


@pytest.mark.parametrize("alpha", [1e-9, 1.0, 1e9, 1e12])
@pytest.mark.parametrize("window", [5, None])
def test_probabilities_are_finite_for_any_sharpness(alpha, window):
    z = torch.tensor([0.0, 0.5, -63.7, 1e6, -1e6], requires_grad=True)
    q = torch.tensor(1.0, requires_grad=True)
    probabilities, levels = F.level_probabilities(z, q, alpha, window=window)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(5))
    assert levels.abs().max() == 127
    probabilities.square().sum().backward()
    assert z.grad.isfinite().all()
    assert q.grad.isfinite()


def test_gradients_of_the_other_quantizers():
    z = torch.tensor([0.2, -3.3, 40.4], dtype=torch.float64, requires_grad=True)
    q = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64, requires_grad=True)
    F.hard_quantize(z, q, bits=4).sum().backward()
    assert z.grad.tolist() == [0, 0, 0]
    assert q.grad.tolist() == [0, -2, 7]
    z.grad = q.grad = None
    F.ste_quantize(z, q, bits=4).sum().backward()
    assert z.grad.tolist() == [1, 1, 0]  # the last lies beyond the cap of 7
    torch.testing.assert_close(q.grad, torch.tensor([0 - 0.2, -2 + 1.65, 7], dtype=torch.float64))


def _squared_error(z, q, **options):
    return (F.ste_quantize(z, q, bits=None, **options) - z).square().sum()


def test_a_matched_step_is_told_what_the_error_does():
    """From far below the spread of the coefficients to beyond all of them, where plain straight-through is wrong."""
    z = torch.distributions.Laplace(0.0, 10.0).sample((200_000,)).double()
    for step in (1.0, 10.0, 30.0, 60.0, 120.0, 400.0):
        q = torch.tensor([step], dtype=torch.float64, requires_grad=True)
        (told,) = torch.autograd.grad(_squared_error(z, q, matched=True), q)
        (straight,) = torch.autograd.grad(_squared_error(z, q), q)
        with torch.no_grad():
            true = (_squared_error(z, q * 1.02) - _squared_error(z, q / 1.02)) / (2 * math.log(1.02) * step)
        assert told.item() == pytest.approx(true.item(), rel=0.05, abs=1e-6)
        if step == 1:
            assert told.item() == pytest.approx(straight.item(), rel=0.05)
        if step >= 60:
            assert straight.item() > 2 * told.item()


def test_matched_entries_each_have_their_own_scale():
    """Of (2,) steps for coefficients (n, 2); what is capped, and what z is told, is as without."""
    spread = torch.tensor([1.0, 30.0], dtype=torch.float64)
    z = (torch.randn(1000, 2, dtype=torch.float64) * spread).requires_grad_()
    q = torch.tensor([20.0, 2.0], dtype=torch.float64, requires_grad=True)
    weights = torch.randn(1000, 2, dtype=torch.float64)
    by_z, by_q = torch.autograd.grad((weights * F.ste_quantize(z, q, bits=4, matched=True)).sum(), [z, q])
    straight_z, straight_q = torch.autograd.grad((weights * F.ste_quantize(z, q, bits=4)).sum(), [z, q])
    torch.testing.assert_close(by_z, straight_z)
    assert by_q[0] == 0  # all its levels are 0 far and wide
    assert straight_q[0] != 0
    beyond = (z / q).round().abs() > 7
    levels = (z / q).round()
    scale = by_q[1] - (weights * levels.clamp(-7, 7))[:, 1][beyond[:, 1]].sum()
    rest = (weights * (levels - z / q))[:, 1][~beyond[:, 1]].sum()
    assert 0.9 < (scale / rest).item() < 1.1  # a fine step
    assert F.ste_quantize(z.detach()[:0], q, matched=True).shape == (0, 2)


def test_gradcheck_of_the_other_quantizers():
    z = torch.tensor([0.2, -3.3, 7.1, 14.8, -40.4], dtype=torch.float64, requires_grad=True)
    q = torch.tensor([1.0, 2.3, 0.7, 1.1, 3.0], dtype=torch.float64, requires_grad=True)

    def noise(z, q):
        return F.noise_quantize(z, q, bits=5, generator=torch.Generator().manual_seed(1))

    assert torch.autograd.gradcheck(lambda z, q: F.hard_quantize(z, q, bits=5), (z, q))
    assert torch.autograd.gradcheck(noise, (z, q))


def test_only_the_gradients_asked_for_are_computed(monkeypatch):
    z, q = torch.randn(4, 8, 8), torch.ones(8, 8, requires_grad=True)
    orders = []
    moments = quantizers._moments
    monkeypatch.setattr(quantizers, "_moments", lambda *args, order: orders.append(order) or moments(*args, order=order))
    F.soft_quantize(z, q, 1.0).sum().backward()
    assert z.grad is None
    assert q.grad is not None
    F.soft_quantize(z.requires_grad_(), q.detach(), 1.0).sum().backward()
    assert orders == [1, 3, 1, 2]  # the image gradient needs no third moment


def test_backward_keeps_the_coefficients_alone():
    kept = []
    z, q = torch.randn(16, 8, 8, requires_grad=True), torch.rand(8, 8).add(0.5).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda tensor: tensor):
        F.soft_quantize(z, q, 1.0)
    assert sum(kept) == z.numel() + q.numel() + 1  # z itself, the steps, alpha


def test_sample_follows_p_and_has_soft_as_its_mean():
    z, q, alpha, draws = 3.4, 2.0, 0.3, 40_000
    z64 = torch.full((draws,), z, dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    levels = (F.sample_quantize(z64, q, alpha, generator=generator) / q).round().long()
    expected = reference.probabilities(z, q, alpha, 8, 5)
    counts = [int((levels == k).sum()) for k in expected]
    assert sum(counts) == draws
    assert stats.chisquare(counts, [draws * p for p in expected.values()]).pvalue > 1e-3
    soft = reference.soft(z, q, alpha, 8, 5)
    error = q * levels.double().std().item() / math.sqrt(draws)
    assert q * levels.double().mean().item() == pytest.approx(soft, abs=4 * error)


def test_sample_never_draws_a_level_of_no_weight():
    z = torch.full((100_000,), 10.0)
    assert (F.sample_quantize(z, 1.0, 1e4) == 10).all()
    beyond = torch.full((1000,), 1e6)
    assert (F.sample_quantize(beyond, 1.0, 5.0) == 127).all()


def test_sample_has_the_gradient_of_its_mean():
    inputs = [torch.randn(50), torch.rand(50) + 0.5, torch.rand(50) + 0.5]
    inputs = [tensor.double().requires_grad_() for tensor in inputs]
    sampled = torch.autograd.grad(F.sample_quantize(*inputs).sum(), inputs)
    soft = torch.autograd.grad(F.soft_quantize(*inputs).sum(), inputs)
    assert all(torch.equal(one, other) for one, other in zip(sampled, soft, strict=True))


def test_noise_is_uniform_and_a_step_wide():
    z = torch.zeros(50_000, dtype=torch.float64)
    noise = F.noise_quantize(z, 3.0, generator=torch.Generator().manual_seed(2))
    assert stats.kstest(noise.numpy(), stats.uniform(-1.5, 3).cdf).pvalue > 1e-3
    assert F.noise_quantize(torch.tensor([1e4]), 1.0, bits=8).item() == 127


def test_a_nan_stays_where_it_is():
    z = torch.zeros(4)
    z[1], z[2] = float("nan"), float("inf")
    for quantized in (F.soft_quantize(z, 1.0, 5.0), F.sample_quantize(z, 1.0, 5.0), F.hard_quantize(z, 1.0)):
        assert quantized[1].isnan()
        assert quantized[[0, 3]].isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 4}, "odd"),
        ({"window": 0}, "odd"),
        ({"window": -3}, "odd"),
        ({"window": 5.0}, "odd"),
        ({"bits": 2, "window": 5}, "3 levels"),
        ({"bits": 1}, "from 2 to 16"),
        ({"bits": 17}, "from 2 to 16"),
        ({"bits": 8.0}, "from 2 to 16"),
        ({"bits": None, "window": None}, "infinite"),
    ],
)
def test_bad_alphabets_are_refused(options, message):
    for call in (F.soft_quantize, F.sample_quantize, F.level_probabilities):
        with pytest.raises(UsageError, match=message):
            call(torch.zeros(3), 1.0, 1.0, **options)


def test_bad_values_and_shapes_are_refused():
    for call in (F.soft_quantize, F.sample_quantize, F.level_probabilities):
        with pytest.raises(TypeError, match="z must be floating point"):
            call(torch.arange(5), 1.0, 1.0)
        with pytest.raises(UsageError, match="q must be finite and greater than 0, got 0"):
            call(torch.zeros(3), 0, 1.0)
        with pytest.raises(UsageError, match="alpha.*0, got -1"):
            call(torch.zeros(3), 1.0, -1.0)
    for colour in (F.rgb_to_ycbcr, F.ycbcr_to_rgb):
        with pytest.raises(UsageError, match=r"\(N, 3, H, W\)"):
            colour(torch.zeros(3, 8, 8))
    with pytest.raises(UsageError, match=r"\(N, C, H, W\)"):
        F.block_dct(torch.zeros(8, 8))
    with pytest.raises(UsageError, match="8, 8"):
        F.block_idct(torch.zeros(1, 3, 8, 8))


def test_steps_that_do_not_broadcast_are_refused():
    with pytest.raises(UsageError, match=r"q of shape \(3,\)"):
        F.soft_quantize(torch.zeros(2, 2), torch.ones(3), 1.0)
    with pytest.raises(UsageError, match="alpha of shape"):
        F.soft_quantize(torch.zeros(2), 1.0, torch.ones(2, 2))


def test_func_transforms():
    z, q = torch.randn(5, 4, dtype=torch.float64), torch.tensor(0.8, dtype=torch.float64)

    def total(z, q):
        return F.soft_quantize(z, q, 1.3).sum()

    per_sample = torch.func.vmap(torch.func.grad(total, argnums=1), in_dims=(0, None))(z, q)
    expected = torch.stack([torch.func.grad(total, argnums=1)(row, q) for row in z])
    torch.testing.assert_close(per_sample, expected)


# ------------------------------------------------------------------------------------- saturation alone, companders, edges


@given(Z, Q, st.integers(2, 16))
@settings(max_examples=50, deadline=None)
def test_saturation_is_the_cap_alone(z, q, bits):
    cap = 2 ** (bits - 1) - 1
    z64 = torch.tensor([z], dtype=torch.float64)
    assert F.saturate(z64, q, bits=bits).item() == pytest.approx(min(max(z, -cap * q), cap * q), rel=1e-12)
    assert F.saturate(z64, q, bits=None).item() == z


def test_saturations_gradient():
    z = torch.tensor([[0.2, -3.3], [40.4, -9.0]], dtype=torch.float64, requires_grad=True)
    q = torch.tensor([1.0, 0.1], dtype=torch.float64, requires_grad=True)
    F.saturate(z, q, bits=4).sum().backward()
    assert z.grad.tolist() == [[1, 0], [0, 0]]
    assert q.grad.tolist() == [7, -14]
    assert torch.autograd.gradcheck(lambda z, q: F.saturate(z, q, bits=4), (z, q))


@given(Z, st.floats(1e-3, 1e5))
@settings(max_examples=100, deadline=None)
def test_companders_are_their_formulas(z, c):
    z64 = torch.tensor([z], dtype=torch.float64)
    log = math.copysign(c * math.log1p(abs(z) / c), z)
    assert F.log_compand(z64, c).item() == pytest.approx(log, rel=1e-9, abs=1e-12)
    assert F.tanh_compand(z64, c).item() == pytest.approx(c * math.tanh(z / c), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("compand", [F.log_compand, F.tanh_compand])
def test_gradcheck_of_companders(compand):
    z = torch.tensor([0.2, -3.3, 7.1, 1e-3, -40.4], dtype=torch.float64, requires_grad=True)
    c = torch.tensor([1.0, 2.3, 0.7, 5.0, 3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(compand, (z, c))
    assert torch.autograd.gradgradcheck(compand, (z, c))


@pytest.mark.parametrize("compand", [F.log_compand, F.tanh_compand])
def test_companders_are_the_identity_near_zero(compand):
    z = torch.tensor([0.0, 1e-30, -1e-30], requires_grad=True)  # flat blocks have coefficients of exactly 0
    c = torch.tensor(3.0, requires_grad=True)
    compand(z, c).sum().backward()
    assert z.grad.tolist() == [1, 1, 1]
    assert c.grad == 0


def test_dc_goes_and_the_rest_stays():
    z = torch.randn(2, 3, 1, 2, 8, 8)
    without = F.remove_dc(z)
    assert (without[..., 0, 0] == 0).all()
    assert torch.equal((z - without).flatten(-2)[..., 1:], torch.zeros(2, 3, 1, 2, 63))


def test_edges_are_repeated_to_whole_units():
    x = torch.arange(6.0).view(1, 1, 2, 3)
    assert F.repeat_edges(x, 4, 2)[0, 0].tolist() == [[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [3, 4, 5, 5]]
    assert torch.equal(F.repeat_edges(x, 2, 3), x)


# -------------------------------------------------------------------------------------------------- chroma subsampling


def test_chroma_is_averaged_and_brought_back_by_a_triangle():
    chroma = torch.zeros(1, 3, 16, 16, dtype=torch.float64)
    chroma[0, 1, :, 4:6] = 40  # one column of the half-resolution Cb
    images = (F.ycbcr_to_rgb(chroma) + 128) / 255
    z = F.images_to_mcus(images)
    assert z.shape == (1, 6, 1, 1, 8, 8)
    cb = F.block_idct(z[:, 4:5])[0, 0]
    torch.testing.assert_close(cb[3], torch.tensor([0, 0, 40, 0, 0, 0, 0, 0], dtype=torch.float64))
    back = F.rgb_to_ycbcr(F.mcus_to_images(z, (16, 16)) * 255 - 128)[0, 1, 7]
    torch.testing.assert_close(back, torch.tensor([0, 0, 0, 10, 30, 30, 10, *[0] * 9], dtype=torch.float64))


def test_luma_blocks_lie_in_reading_order():
    images = torch.full((1, 3, 32, 16), 0.5)
    images[:, :, 16:24, 8:] = 1  # upper right block of the second unit
    dc = F.images_to_mcus(images)[0, :4, :, 0, 0, 0] + 4  # 127.5 - 128 = -0.5: a DC of -4
    assert dc.nonzero().tolist() == [[1, 1]]


def test_coefficients_of_another_size_are_refused():
    with pytest.raises(UsageError, match=r"33x8 images.*\(N, 6, 3, 1, 8, 8\), got \(1, 6, 2, 1, 8, 8\)"):
        F.mcus_to_images(torch.zeros(1, 6, 2, 1, 8, 8), (33, 8))
