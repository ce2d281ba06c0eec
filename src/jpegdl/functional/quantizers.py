"""The quantizers with their closed-form gradients, the levels and P(k | z) behind them."""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor

from jpegdl.errors import UsageError
from jpegdl.functional.checks import derived
from jpegdl.functional.draws import uniform_draws
from jpegdl.settings import ROUNDINGS, Rounding

ALPHABET_BITS = range(2, 17)


#: The roundings that depend on alpha, and those that draw.
SOFT: tuple[Rounding, ...] = ("soft", "sample")
RANDOM: tuple[Rounding, ...] = ("sample", "noise")


def quantize(
    z: Tensor,
    q: Tensor | float,
    alpha: Tensor | float | None = None,
    rounding: str = "soft",
    *,
    bits: int | None = 8,
    window: int | None = 5,
    seed: Tensor | None = None,
    plane: int = 0,
) -> Tensor:
    """Quantize and de-quantize coefficients by one of the roundings.

    Args:
        z: coefficients, floating point, of any shape; (N, planes, h, w, 8, 8) where something is drawn.
        q: steps > 0; broadcasts to ``z``.
        alpha: sharpness of P(k | z), for soft and sample; broadcasts to ``z``.
        rounding: one of :data:`jpegdl.layer.ROUNDINGS`.
        bits, window: as in :func:`soft_quantize`.
        seed, plane: as in :func:`uniform_draws`, for sample and noise; None draws from PyTorch's own generator.

    Returns:
        Shape and dtype of ``z``; NaN for NaN and infinity.

    Raises:
        UsageError: no such rounding, or as the quantizers say: :func:`soft_quantize`, :func:`sample_quantize`,
            :func:`hard_quantize`, :func:`ste_quantize`, :func:`noise_quantize`, :func:`saturate`.
    """
    check_rounding(rounding)
    if rounding != "soft":
        # Infinity to NaN, of which a cap would make a level, and the gradient that reaches it too.
        z = z * (z.detach() - z.detach() + 1)
    if rounding == "none":
        return saturate(z, q, bits=bits)
    if rounding in ("ste", "ste-matched"):
        return ste_quantize(z, q, bits=bits, matched=rounding == "ste-matched")
    if rounding == "hard":
        return hard_quantize(z, q, bits=bits)
    draws = uniform_draws(seed, z.shape, plane=plane) if rounding in RANDOM and seed is not None else None
    if rounding == "noise":
        return noise_quantize(z, q, bits=bits, draws=draws)
    if alpha is None:
        raise UsageError(f"rounding {rounding!r} needs alpha")
    if rounding == "soft":
        return soft_quantize(z, q, alpha, bits=bits, window=window)
    return sample_quantize(z, q, alpha, bits=bits, window=window, draws=draws)


def check_rounding(rounding: str) -> None:
    """Refuse the name of a rounding that does not exist.

    Raises:
        UsageError: ``rounding`` is not one of :data:`jpegdl.layer.ROUNDINGS`.
    """
    if rounding not in ROUNDINGS:
        raise UsageError(f"rounding must be one of {', '.join(ROUNDINGS)}, got {rounding!r}")


def largest_level(bits: int | None) -> int | None:
    """Return the level cap L = 2^(bits-1) - 1 of the alphabet -L..L; None for no cap.

    Raises:
        UsageError: ``bits`` is neither None nor an integer from 2 to 16.
    """
    if bits is None:
        return None
    if isinstance(bits, bool) or not isinstance(bits, int) or bits not in ALPHABET_BITS:
        raise UsageError(f"bits must be an integer from 2 to 16, or None for no cap, got {bits!r}")
    return (1 << (bits - 1)) - 1


def check_window(bits: int | None, window: int | None) -> None:
    """Refuse a window that is even, or larger than the alphabet of ``bits``.

    Raises:
        UsageError: ``window`` is neither None nor an odd integer from 1 to 2^bits - 1, or both are None.
    """
    cap = largest_level(bits)
    if window is None:
        if cap is None:
            raise UsageError("window=None sums over the whole alphabet, which bits=None makes infinite; give one a number")
        return
    if isinstance(window, bool) or not isinstance(window, int) or window < 1 or window % 2 == 0:
        raise UsageError(f"window must be an odd positive integer, or None for the whole alphabet, got {window!r}")
    if cap is not None and window > 2 * cap + 1:
        raise UsageError(f"window must not exceed the alphabet: bits={bits} has {2 * cap + 1} levels, got window={window}")


def broadcast_like(value: Tensor | float, z: Tensor, name: str) -> Tensor:
    """Return ``value`` as a tensor of z's dtype and device that broadcasts to z."""
    if not z.is_floating_point():
        raise TypeError(f"z must be floating point, got {z.dtype}")
    if isinstance(value, (int, float)) and not 0 < value < math.inf:  # torch.compile of 2.6 knows no unions
        raise UsageError(f"{name} must be finite and greater than 0, got {value}")
    tensor = torch.as_tensor(value, dtype=z.dtype, device=z.device)
    if tensor.ndim > z.ndim or any(tensor.shape[-i] not in (1, z.shape[-i]) for i in range(1, tensor.ndim + 1)):
        raise UsageError(f"{name} of shape {tuple(tensor.shape)} does not broadcast to z of shape {tuple(z.shape)}")
    return tensor


def _levels_in_use(z: Tensor, q: Tensor, bits: int | None, window: int | None) -> tuple[Tensor, Tensor, Tensor | int, int]:
    """The levels that a soft quantizer sums over, counted from the one nearest to z.

    Returns:
        nearest: n, shaped like z, the level nearest to z inside the alphabet.
        offset: t = z/q - n, shaped like z; |t| <= 1/2 except where z lies beyond the cap.
        lowest: first level in use minus n (a number where it is the same everywhere).
        count: how many consecutive levels are in use.
    """
    cap = largest_level(bits)
    scaled = z / q
    nearest = scaled.round()
    if cap is None:
        assert window is not None
        return nearest, scaled - nearest, -(window // 2), window
    nearest = nearest.clamp(-cap, cap)
    if window is None:
        return nearest, scaled - nearest, -cap - nearest, 2 * cap + 1
    first = (nearest - window // 2).clamp(-cap, cap - window + 1)
    return nearest, scaled - nearest, first - nearest, window


def _logit(offset: Tensor, hardness: Tensor, delta: Tensor | int) -> Tensor:
    """-alpha (z - q k)^2 for level k = n + delta, minus its value at n, with hardness = alpha q^2: never above 0."""
    return hardness * delta * (2 * offset - delta)


def _moments(offset: Tensor, hardness: Tensor, lowest: Tensor | int, count: int, order: int) -> list[Tensor]:
    """E[delta], ..., E[delta^order] for delta = k - n under P(k | z), one level at a time: nothing window-sized exists."""
    total: Tensor | None = None
    sums: list[Tensor] = []
    for j in range(count):
        delta = lowest + j
        term = torch.exp(_logit(offset, hardness, delta))
        terms = [term]
        for _ in range(order):
            terms.append(terms[-1] * delta)
        if total is None:
            total, sums = terms[0], terms[1:]
        else:
            total = total + terms[0]
            sums = [s + t for s, t in zip(sums, terms[1:], strict=True)]
    assert total is not None
    return [s / total for s in sums]


def _slopes(
    z: Tensor, q: Tensor, alpha: Tensor, bits: int | None, window: int | None, *, tables: bool
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """dQ_d/dz and, for ``tables``, dQ_d/dq and dQ_d/dalpha, each shaped like z."""
    nearest, offset, lowest, count = _levels_in_use(z, q, bits, window)
    hardness = alpha * q * q
    # With k = n + delta and t = z/q - n:  Var(k) = Var(delta)  and
    # Cov(k, k^2) = 2 n Var(delta) + Cov(delta, delta^2), which takes soft_quantize's derivatives to the forms below.
    mean, square, *cube = _moments(offset, hardness, lowest, count, order=3 if tables else 2)
    variance = square - mean * mean
    by_z = 2 * hardness * variance
    if not tables:
        return by_z, None, None
    skew = cube[0] - mean * square  # Cov(delta, delta^2)
    by_q = nearest + mean + 2 * hardness * ((offset - nearest) * variance - skew)
    return by_z, by_q, q**3 * (2 * offset * variance - skew)


def _soft_quantize(z: Tensor, q: Tensor, alpha: Tensor, bits: int | None, window: int | None) -> Tensor:
    """Q_d as single operations, whose own derivatives are the closed forms too, but take far more memory."""
    nearest, offset, lowest, count = _levels_in_use(z, q, bits, window)
    (mean,) = _moments(offset, alpha * q * q, lowest, count, order=1)
    return q * (nearest + mean)


class _SoftQuantize(torch.autograd.Function):
    """Q_d with its closed-form derivatives. It saves its inputs and nothing else; its backward is made of differentiable
    operations, so second derivatives (window held fixed) are right too."""

    generate_vmap_rule = True

    forward = staticmethod(_soft_quantize)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
        z, q, alpha, ctx.bits, ctx.window = inputs
        ctx.save_for_backward(z, q, alpha)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        z, q, alpha = ctx.saved_tensors
        needs_z, needs_q, needs_alpha = ctx.needs_input_grad[:3]
        by_z, by_q, by_alpha = _slopes(z, q, alpha, ctx.bits, ctx.window, tables=needs_q or needs_alpha)
        return (
            grad * by_z if needs_z else None,
            (grad * by_q).sum_to_size(q.shape) if needs_q else None,
            (grad * by_alpha).sum_to_size(alpha.shape) if needs_alpha else None,
            None,
            None,
        )


class _SoftQuantizeBothWays(_SoftQuantize):
    """With forward-mode derivatives too: torch.compile refuses functions that have them."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
        _SoftQuantize.setup_context(ctx, inputs, output)
        ctx.save_for_forward(*inputs[:3])

    @staticmethod
    def jvp(ctx, z_tangent, q_tangent, alpha_tangent, *_):  # type: ignore[no-untyped-def]
        z, q, alpha = ctx.saved_tensors
        by_z, by_q, by_alpha = _slopes(z, q, alpha, ctx.bits, ctx.window, tables=True)
        return by_z * z_tangent + by_q * q_tangent + by_alpha * alpha_tangent


def soft_quantize(
    z: Tensor, q: Tensor | float, alpha: Tensor | float, *, bits: int | None = 8, window: int | None = 5
) -> Tensor:
    r"""Apply the soft quantizer Q_d: the mean reconstruction value under P(k | z) = softmax_k(-alpha (z - q k)^2).

    The sum runs over ``window`` consecutive levels around z/q that all lie in the alphabet -L..L, L = 2^(bits-1) - 1, or
    over the whole alphabet. Gradients (window held fixed), with E, Var, Cov under P(k | z)::

        dQ/dz     = 2 alpha q^2 Var(k)
        dQ/dq     = E(k) + 2 alpha q (z Var(k) - q Cov(k, k^2))
        dQ/dalpha = q (2 z q Var(k) - q^2 Cov(k, k^2))

    Args:
        z: coefficients of any shape, floating point, in the units of ``q``.
        q: steps > 0; broadcasts to ``z``. Not checked, since that would wait for the device.
        alpha: sharpness of P(k | z), > 0, in 1 / units of q squared; larger is harder. Broadcasts to ``z``.
        bits: alphabet of 2^bits - 1 levels, 2 to 16; None for no cap.
        window: odd number of levels summed over; None for the whole alphabet.

    Returns:
        Shape and dtype of ``z``.

    Raises:
        UsageError: ``bits`` or ``window`` out of range, or ``q`` or ``alpha`` does not broadcast to ``z``.

    Source: "JPEG Inspired Deep Learning" (ICLR 2025), Q_d; the window is that of its public implementation.
    """
    check_window(bits, window)
    compute: Any = _SoftQuantize.apply
    if not torch.compiler.is_compiling():
        if torch._C._get_tracing_state() is not None:
            compute = _soft_quantize  # a traced program has to run without Python
        elif torch.autograd.forward_ad._current_level >= 0:
            compute = _SoftQuantizeBothWays.apply
    output: Tensor = compute(z, broadcast_like(q, z, "q"), broadcast_like(alpha, z, "alpha"), bits, window)
    return output


def quantize_levels(z: Tensor, q: Tensor | float, *, bits: int | None = 8) -> Tensor:
    """Return the level of each coefficient, clamp(round(z/q), -L, L): the integers that a JPEG file stores, within the cap.

    Halves round to the even level, as :func:`torch.round` does. The gradient is 0.

    Args:
        z: coefficients of any shape, floating point.
        q: steps > 0; broadcasts to ``z``.
        bits: alphabet of 2^bits - 1 levels, 2 to 16; None for no cap.

    Returns:
        Shape and dtype of ``z``: whole numbers, as floating point.

    Raises:
        UsageError: ``bits`` out of range, or ``q`` does not broadcast to ``z``.

    Source: ITU-T T.81, A.3.4; the cap from "JPEG Inspired Deep Learning" (ICLR 2025).
    """
    cap, levels = largest_level(bits), (z / broadcast_like(q, z, "q")).round()
    return levels if cap is None else levels.clamp(-cap, cap)


def level_probabilities(
    z: Tensor, q: Tensor | float, alpha: Tensor | float, *, bits: int | None = 8, window: int | None = 5
) -> tuple[Tensor, Tensor]:
    """Compute P(k | z) = softmax_k(-alpha (z - q k)^2) over the levels that :func:`soft_quantize` sums over, and those levels.

    Differentiable in ``z``, ``q`` and ``alpha``, any number of times, with the window held fixed. Memory grows with the number
    of levels: :func:`soft_quantize` is the way to the mean alone.

    Args:
        z, q, alpha, bits, window: as in :func:`soft_quantize`.

    Returns:
        (probabilities, levels). Probabilities are ``(*z.shape, K)``, K = ``window``, or 2^bits - 1 for the whole alphabet; of
        the dtype of ``z``, sums of 1. Levels have the same shape and dtype, consecutive whole numbers k in ascending order; the
        sum of q k P(k | z) over the last axis is ``soft_quantize(z, q, alpha)``.

    Source: "JPEG Inspired Deep Learning" (ICLR 2025), the conditional probability mass function.
    """
    check_window(bits, window)
    q, alpha = broadcast_like(q, z, "q"), broadcast_like(alpha, z, "alpha")
    nearest, offset, lowest, count = _levels_in_use(z, q, bits, window)
    first = (nearest + lowest).detach()
    levels = first[..., None] + torch.arange(count, dtype=z.dtype, device=z.device)
    delta = levels - nearest.detach()[..., None]
    logits = _logit(offset[..., None], (alpha * q * q)[..., None], delta)
    return logits.softmax(dim=-1), levels


def hard_quantize(z: Tensor, q: Tensor | float, *, bits: int | None = 8) -> Tensor:
    """Apply the hard quantizer Q_u = q clamp(round(z/q), -L, L): what a JPEG encoder does, plus the level cap.

    Its gradient is the one it has almost everywhere: 0 for ``z``, the level for ``q``.

    Args:
        z: coefficients of any shape, floating point.
        q: steps > 0; broadcasts to ``z``.
        bits: alphabet of 2^bits - 1 levels, 2 to 16; None for no cap.

    Returns:
        Shape and dtype of ``z``.

    Raises:
        UsageError: ``bits`` out of range, or ``q`` does not broadcast to ``z``.

    Source: ITU-T T.81, A.3.4; the cap from "JPEG Inspired Deep Learning".
    """
    q = broadcast_like(q, z, "q")
    return q * quantize_levels(z, q, bits=bits)


def sample_quantize(
    z: Tensor,
    q: Tensor | float,
    alpha: Tensor | float,
    *,
    bits: int | None = 8,
    window: int | None = 5,
    generator: torch.Generator | None = None,
    draws: Tensor | None = None,
) -> Tensor:
    """Apply the random quantizer Q_p: q k with k drawn from the P(k | z) of :func:`soft_quantize`.

    Backward gives the gradient of its conditional mean Q_d.

    Args:
        z, q, alpha, bits, window: as in :func:`soft_quantize`.
        generator: source of randomness on z's device; None for PyTorch's own.
        draws: numbers in [0, 1) to take instead, shaped like ``z``.

    Returns:
        Shape and dtype of ``z``.

    Source: "JPEG Inspired Deep Learning" (ICLR 2025), Q_p.
    """
    soft = soft_quantize(z, q, alpha, bits=bits, window=window)
    with torch.no_grad():
        q, alpha = broadcast_like(q, z, "q"), broadcast_like(alpha, z, "alpha")
        nearest, offset, lowest, count = _levels_in_use(z, q, bits, window)
        logit = partial(_logit, offset, alpha * q * q)
        # Inverse of the distribution function, in two passes. 1 - rand lies in (0, 1]: no level of weight 0 is drawn.
        total = sum(torch.exp(logit(lowest + j)) for j in range(count))
        draw = (1 - _drawn(z, draws, generator)) * total
        passed, below = torch.zeros_like(z), torch.zeros_like(z)
        for j in range(count - 1):
            below = below + torch.exp(logit(lowest + j))
            passed = passed + (below < draw)
        sample = q * (nearest + lowest + passed) + 0 * offset  # keeps a NaN coefficient NaN
    return sample + (soft - soft.detach())


def ste_quantize(z: Tensor, q: Tensor | float, *, bits: int | None = 8, matched: bool = False) -> Tensor:
    r"""Apply the hard quantizer with a straight-through gradient: rounding passes the gradient on, the cap stops it.

    The gradient of a step is the sum of g (k - z/q). It is right about the squared error D(q) = sum (q k - z)^2 of its
    coefficients if D grows as q^2, as it does with many levels. It is wrong for a coarse step: if all levels are 0, D no longer
    depends on q, but the gradient still says that a coarser step costs more. ``matched`` scales the sum by d log D / d log q /
    2 of these coefficients. The gradient is then right about the squared error at both ends, and about the loss as far as the
    loss follows the error.

    Args:
        z, q, bits: as in :func:`hard_quantize`.
        matched: scale the gradient of each entry of ``q`` by the error of all coefficients that it quantizes.

    Returns:
        Shape and dtype of ``z``; the values of :func:`hard_quantize`.

    Source: Bengio et al. 2013 (straight-through); Esser et al. 2020 (the same for the step). ``matched`` is this library's own.
    """
    q = broadcast_like(q, z, "q")
    scaled = z / q
    if not (matched and derived(q)):
        return q * _cap(scaled.round().detach() + (scaled - scaled.detach()), bits)
    rounded = scaled.detach().round()
    levels, steps = _cap(rounded, bits), q.detach()
    inside = levels == rounded
    by_q = torch.where(inside, (levels - scaled.detach()) * _error_slope(z.detach(), steps) / 2, levels)
    passed = torch.where(inside, z - z.detach(), 0)
    return steps * levels + passed + (q - steps) * by_q


FAR = 1.2  # steps this much finer and coarser are what a slope is taken from


def error_slope(here: Tensor, coarser: Tensor, finer: Tensor) -> Tensor:
    """Compute d log D / d log q, from 0 to 3, of squared errors D.

    Args:
        here: D at steps q, any shape.
        coarser: D at ``FAR`` q, the same shape.
        finer: D at q / ``FAR``, the same shape.

    Returns:
        The same shape.
    """
    rise = (coarser - finer) / (2 * math.log(FAR))
    return (rise / here.clamp(min=torch.finfo(here.dtype).tiny)).clamp(0, 3)


def _error_slope(z: Tensor, q: Tensor) -> Tensor:
    """That of the rounding errors D(q) = sum (q round(z/q) - z)^2 of all that an entry of ``q`` stands for, without a cap;
    shaped like ``q``. Among many levels it is 2, where all levels are 0 it is 0."""

    def error(steps: Tensor) -> Tensor:
        errors = steps * (z / steps).round() - z
        return errors.nan_to_num(0, 0, 0).square().sum_to_size(q.shape)  # a bad pixel stays within its block

    return error_slope(error(q), error(q * FAR), error(q / FAR))


def _drawn(z: Tensor, draws: Tensor | None, generator: torch.Generator | None) -> Tensor:
    if draws is not None:
        return draws.to(z.dtype)
    return torch.rand(z.shape, dtype=z.dtype, device=z.device, generator=generator)


def noise_quantize(
    z: Tensor, q: Tensor | float, *, bits: int | None = 8, generator: torch.Generator | None = None, draws: Tensor | None = None
) -> Tensor:
    """Add uniform noise as wide as a step in place of rounding: q clamp(z/q + u, -L, L), u uniform in [-1/2, 1/2).

    Args:
        z, q, bits: as in :func:`hard_quantize`.
        generator: source of randomness on z's device; None for PyTorch's own.
        draws: numbers in [0, 1) to take instead, shaped like ``z``.

    Returns:
        Shape and dtype of ``z``.

    Source: Balle et al. 2017, "End-to-end optimized image compression".
    """
    q = broadcast_like(q, z, "q")
    return q * _cap(z / q + (_drawn(z, draws, generator) - 0.5), bits)


def saturate(z: Tensor, q: Tensor | float, *, bits: int | None = 8) -> Tensor:
    """Apply the level cap alone, without quantization: clamp(z, -L q, L q).

    Inside, the gradient of ``z`` is 1 and that of ``q`` 0; beyond the cap, 0 and +-L.

    Args:
        z, q, bits: as in :func:`hard_quantize`; where ``bits`` is None, nothing is capped.

    Returns:
        Shape and dtype of ``z``.
    """
    q, cap = broadcast_like(q, z, "q"), largest_level(bits)
    if cap is None:
        return z
    limit = cap * q
    return torch.where(z.detach().abs() > limit.detach(), z.detach().sign() * limit, z)


def _cap(levels: Tensor, bits: int | None) -> Tensor:
    """clamp(levels, -L, L) whose gradient is 1 on the first and the last level too, and 0 beyond.

    That of :func:`torch.clamp` at its bounds is 1 up to PyTorch 2.13 and 0 since, and all coefficients beyond the cap of a hard
    quantizer lie there.
    """
    cap = largest_level(bits)
    if cap is None:
        return levels
    values = levels.detach()
    return torch.where(values.abs() <= cap, levels, values.clamp(-cap, cap))
