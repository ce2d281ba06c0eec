"""What the Triton kernels do to coefficients: the quantizer of each rounding, and its gradients.

``rounding`` is a number that says which: there is one :func:`quantize` and one :func:`differentiate` for all.
"""

# What Triton compiles has types of its own:
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import math

import triton
import triton.language as tl

from jpegdl.functional import DRAW_BITS, FAR, draws
from jpegdl.kernels.cuda_blocks import rounded
from jpegdl.settings import ROUNDINGS

SOFT, HARD, STE, MATCHED, NOISE, SAMPLE, NONE = (
    tl.constexpr(ROUNDINGS.index(name)) for name in ("soft", "hard", "ste", "ste-matched", "noise", "sample", "none")
)
#: Of the exact round trip, in integers: with gradients straight through the roundings, or those that it has.
EXACT, EXACT_HARD = tl.constexpr(len(ROUNDINGS)), tl.constexpr(len(ROUNDINGS) + 1)
_LOG2_E, _TWO_LN2, _FAR = tl.constexpr(math.log2(math.e)), tl.constexpr(2 * math.log(2)), tl.constexpr(FAR)


if isinstance(rounded, triton.JITFunction):

    @triton.jit
    def _exp2(x):
        return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)

    @triton.jit
    def _reciprocal(x):
        return tl.inline_asm_elementwise("rcp.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)

else:  # in Triton's interpreter, which knows no assembler

    @triton.jit
    def _exp2(x):
        return tl.exp2(x)

    @triton.jit
    def _reciprocal(x):
        return 1 / x


# ------------------------------------------------------------------------------------------------------------- draws
# See jpegdl.functional.draws.

_GOLDEN, _FIRST, _SECOND = tl.constexpr(draws.GOLDEN), tl.constexpr(draws.FIRST), tl.constexpr(draws.SECOND)
_GOLDEN_32, _SHIFT, _UNIT = tl.constexpr(draws.GOLDEN >> 32), tl.constexpr(32 - DRAW_BITS), tl.constexpr(2.0**-DRAW_BITS)


@triton.jit
def _split_mix(x):
    x += _GOLDEN
    x = (x ^ (x >> 30)) * _FIRST
    x = (x ^ (x >> 27)) * _SECOND
    return x ^ (x >> 31)


@triton.jit
def draw_key(seed, image, plane: tl.constexpr, y, x):
    """The key of the block that each line of a tile is in."""
    of_image = _split_mix(tl.load(seed).to(tl.uint64, bitcast=True) + image.to(tl.uint64) * _GOLDEN)
    place = ((y // 8).to(tl.uint64) << 20) + (x // 8).to(tl.uint64) + (plane << 40)
    return _split_mix(of_image + place * _GOLDEN)


@triton.jit
def _drawn(key, half: tl.constexpr):
    """Uniform in [0, 1), for each coefficient of half a tile."""
    line = tl.arange(0, key.shape[0]) % 8
    place = (line[:, None] * 8 + (tl.arange(0, 4) + 4 * half)[None, :]).to(tl.uint32)
    x = key.to(tl.uint32)[:, None] + place * _GOLDEN_32
    x = (x ^ (x >> 17)) * 0xED5AD4BB
    x = (x ^ (x >> 11)) * 0xAC4C1B51 + (key >> 32).to(tl.uint32)[:, None]
    x = (x ^ (x >> 15)) * 0x31848BAB
    x = x ^ (x >> 14)
    return (x >> _SHIFT).to(tl.float32) * _UNIT


# -------------------------------------------------------------------------------------------------------- quantizers
# NaN and infinity become NaN, and the gradients of what they touch too: by z - z, which is 0 for all others.


@triton.jit
def _capped(level, cap, capped: tl.constexpr):
    return tl.minimum(tl.maximum(level, -cap), cap) if capped else level


@triton.jit
def _window(z, q, inverse, alpha, cap, capped: tl.constexpr):
    """The five levels in use and their weights.

    The window is centred on the level c nearest to z that has two neighbours on each side within the cap. With u = |z / q - c|
    and d = k - c, mirrored where z / q < c, P(k | z) is proportional to w_d = exp(kappa (2 u d - d^2) - top), ``top`` the
    largest of these exponents, kappa = alpha q^2; w_-d = w_d exp(-4 kappa u d). Exponents come times log2(e), for powers of 2.

    Returns:
        c, z / q - c, kappa log2(e), w_0, w_1, w_-1, w_2, w_-2. NaN and infinite z give NaN weights.
    """
    kappa = alpha * q * q * _LOG2_E
    centre = rounded(_capped(z * inverse, cap - 2, capped), capped)
    offset = (z - q * centre) * inverse  # not scaled - centre: the difference is exact before it is scaled
    slope = kappa * tl.abs(offset)
    near, far = 2 * slope - kappa, 4 * slope - 4 * kappa
    top = tl.maximum(tl.maximum(near, far), 0.0)
    w0, w1, w2, mirror = _exp2(-top), _exp2(near - top), _exp2(far - top), _exp2(-4 * slope)
    return centre, offset, kappa, w0, w1, w1 * mirror, w2, w2 * (mirror * mirror)


@triton.jit
def _mirror(offset, x):
    return tl.where(offset < 0, -x, x)


@triton.jit
def _level(z, q, inverse):
    """|z| / (8 q) of integers to the nearest one, halves up: exactly, as float32 errs by less than the half that is added."""
    return (((tl.abs(z) + q.to(tl.int32) * 4).to(tl.float32) + 0.5) * (inverse * 0.125)).to(tl.int32)


@triton.jit
def quantize(z, q, alpha, key, cap, half: tl.constexpr, rounding: tl.constexpr, capped: tl.constexpr):
    """What becomes of coefficients; ``alpha`` and ``key`` where the rounding has to do with them."""
    inverse = _reciprocal(q)
    if rounding >= EXACT:
        level = _level(z, q, inverse) * q.to(tl.int32)
        return tl.where(z < 0, -level, level)
    elif rounding == SOFT:
        centre, offset, _, w0, p1, m1, p2, m2 = _window(z, q, inverse, alpha, cap, capped)
        mean = ((p1 - m1) + 2 * (p2 - m2)) * _reciprocal(w0 + (p1 + m1) + (p2 + m2))
        return q * (centre + _mirror(offset, mean))
    elif rounding == SAMPLE:
        centre, offset, _, w0, p1, m1, p2, m2 = _window(z, q, inverse, alpha, cap, capped)
        turned = offset < 0
        first = tl.where(turned, p2, m2)
        second = first + tl.where(turned, p1, m1)
        third = second + w0
        fourth = third + tl.where(turned, m1, p1)
        # 1 less the draw lies in (0, 1]: no level of weight 0 is drawn.
        point = (1 - _drawn(key, half)) * (fourth + tl.where(turned, m2, p2))
        level = centre - 2
        level += tl.where(first < point, 1.0, 0.0) + tl.where(second < point, 1.0, 0.0)
        level += tl.where(third < point, 1.0, 0.0) + tl.where(fourth < point, 1.0, 0.0)
        return q * level + (z - z)
    elif rounding == NOISE:
        return q * _capped(z * inverse + (_drawn(key, half) - 0.5), cap, capped) + (z - z)
    elif rounding == NONE:
        return _capped(z, q * cap, capped) + (z - z)
    else:
        return q * _capped(rounded(z * inverse, False), cap, capped) + (z - z)


@triton.jit
def differentiate(
    z, grad, q, alpha, key, cap, half: tl.constexpr, rounding: tl.constexpr, capped: tl.constexpr
):  # fmt: skip
    """dL/dz from dL/dQ, straight through for the exact ones, and what is to be summed up for the tables: dL/dq; of the soft
    ones dL/dalpha too; of ste-matched
    dL/dq within the cap, the squared errors of rounding to multiples of q, of q times FAR and of q over FAR, and dL/dq beyond
    the cap where there is one."""
    inverse = _reciprocal(q)
    upstream = grad + (z - z)
    if rounding >= EXACT:
        rest = _level(z, q, inverse).to(tl.float32)
        if rounding == EXACT:
            rest -= tl.abs(z).to(tl.float32) * (inverse * 0.125)
        return grad, (grad * tl.where(z < 0, -rest, rest),)
    elif (rounding == SOFT) | (rounding == SAMPLE):
        return _differentiate_soft(z, grad, q, inverse, alpha, cap, capped)
    elif rounding == NOISE:
        noise = _drawn(key, half) - 0.5
        noisy = z * inverse + noise
        return _straight(noisy, _capped(noisy, cap, capped), noise, upstream, capped)
    elif rounding == NONE:
        scaled = z * inverse
        return _straight(scaled, _capped(scaled, cap, capped), 0.0, upstream, capped)
    else:
        nearest = rounded(z * inverse, False)
        level = _capped(nearest, cap, capped)
        rest = (q * nearest - z) * inverse  # nearest - z / q: the difference is exact before it is scaled
        if rounding == HARD:
            return upstream * 0.0, (upstream * level,)
        elif rounding == STE:
            return _straight(nearest, level, rest, upstream, capped)
        else:
            by_z, by_q = _straight(nearest, level, rest, upstream, capped)
            usable = tl.abs(z) < 1e30  # false for NaN too: a bad pixel stays within its block
            here = _squared_error(z, q, inverse, usable)
            coarser = _squared_error(z, q * _FAR, inverse * (1 / _FAR), usable)
            finer = _squared_error(z, q * (1 / _FAR), inverse * _FAR, usable)
            if capped:
                beyond = nearest != level
                within = tl.where(beyond, 0.0, by_q[0])
                return by_z, (within, here, coarser, finer, tl.where(beyond, by_q[0], 0.0))
            else:
                return by_z, (by_q[0], here, coarser, finer)


@triton.jit
def _straight(x, level, rest, upstream, capped: tl.constexpr):
    """Gradients straight through all but the cap, which made ``level`` of x: within it, a step has ``rest``."""
    if capped:
        inside = x == level
        return tl.where(inside, upstream, upstream * 0.0), (upstream * tl.where(inside, rest, level),)
    else:
        return upstream, (upstream * rest,)


@triton.jit
def _squared_error(z, q, inverse, usable):
    error = q * rounded(z * inverse, False) - z
    return tl.where(usable, error * error, 0.0)


@triton.jit
def _differentiate_soft(z, grad, q, inverse, alpha, cap, capped: tl.constexpr):
    centre, offset, kappa, w0, p1, m1, p2, m2 = _window(z, q, inverse, alpha, cap, capped)
    share = _reciprocal(w0 + (p1 + m1) + (p2 + m2))
    mean = ((p1 - m1) + 2 * (p2 - m2)) * share
    # Var(k) and Cov(k, k^2) by way of central moments, which do not cancel where all weight lies on an outer level.
    d1, e1, d2, e2 = 1 - mean, -1 - mean, 2 - mean, -2 - mean
    v0, v1, u1, v2, u2 = w0 * mean * mean, p1 * d1 * d1, m1 * e1 * e1, p2 * d2 * d2, m2 * e2 * e2
    variance = (v0 + (v1 + u1) + (v2 + u2)) * share
    third = ((v1 * d1 + u1 * e1) + (v2 * d2 + u2 * e2) - v0 * mean) * share
    skew = third + 2 * mean * variance  # Cov(d, d^2)
    distance = tl.abs(offset)
    slope = kappa * _TWO_LN2  # 2 kappa
    mirrored = mean + slope * (distance * variance - skew)
    by_q = grad * (_mirror(offset, mirrored) + centre * (1 - slope * variance))
    by_alpha = grad * (q * q * q) * _mirror(offset, 2 * distance * variance - skew)
    return grad * (slope * variance), (by_q, by_alpha)
