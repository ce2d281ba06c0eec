"""What the CPU kernel does to 8x8 blocks, in vectors: DCT, and the quantizer of each rounding.

A DCT of all columns is a sum of rows, each a vector, and so is one of all rows once the block is transposed. Coefficients stay
transposed, vertical frequency fastest, as do the tables. As many blocks as lie ``BESIDE`` one another are one group: row v of
them all, then row v + 1.
"""

# numba infers the types of what it compiles:
# mypy: disable-error-code="no-untyped-def"

import math
from typing import Any

from llvmlite import ir
from numba.core import types

from jpegdl.functional import DRAW_BITS, mixed
from jpegdl.kernels.cpu_vectors import (
    BESIDE,
    LANES,
    Place,
    Vector,
    Whole,
    absolute,
    counted,
    exp2,
    lanes_of,
    larger,
    rint,
    transpose,
    vector_function,
    where,
)

GROUP = 8 * LANES  # coefficients of the blocks that are worked on at a time

# --------------------------------------------------------------------------------------------------------------- DCT

_C1, _C2, _C3, _C4, _C5, _C6, _C7 = (0.5 * math.cos(k * math.pi / 16) for k in range(1, 8))


def _dct(x: list[Vector]) -> list[Vector]:
    """The orthonormal 8-point DCT-II; even outputs from sums, odd ones from differences, of mirrored inputs."""
    s0, s1, s2, s3 = (x[i] + x[7 - i] for i in range(4))
    d0, d1, d2, d3 = (x[i] - x[7 - i] for i in range(4))
    e0, e1, e2, e3 = s0 + s3, s1 + s2, s0 - s3, s1 - s2
    return [
        (e0 + e1) * _C4,
        d0 * _C1 + d1 * _C3 + d2 * _C5 + d3 * _C7,
        e2 * _C2 + e3 * _C6,
        d0 * _C3 - d1 * _C7 - d2 * _C1 - d3 * _C5,
        (e0 - e1) * _C4,
        d0 * _C5 - d1 * _C1 + d2 * _C7 + d3 * _C3,
        e2 * _C6 - e3 * _C2,
        d0 * _C7 - d1 * _C5 + d2 * _C3 - d3 * _C1,
    ]


def _idct(z: list[Vector]) -> list[Vector]:
    """The inverse of _dct, which is its transpose."""
    z0, z1, z2, z3, z4, z5, z6, z7 = z
    e0, e1, e2, e3 = (z0 + z4) * _C4, (z0 - z4) * _C4, z2 * _C2 + z6 * _C6, z2 * _C6 - z6 * _C2
    s = [e0 + e2, e1 + e3, e1 - e3, e0 - e2]
    d = [
        z1 * _C1 + z3 * _C3 + z5 * _C5 + z7 * _C7,
        z1 * _C3 - z3 * _C7 - z5 * _C1 - z7 * _C5,
        z1 * _C5 - z3 * _C1 + z5 * _C7 + z7 * _C3,
        z1 * _C7 - z3 * _C5 + z5 * _C3 - z7 * _C1,
    ]
    return [s[i] + d[i] for i in range(4)] + [s[i] - d[i] for i in (3, 2, 1, 0)]


@vector_function()
def analyze(plane, x, width, z):
    """The coefficients of the blocks from column x of a (8, width) plane on to z, GROUP, vertical frequency fastest."""
    zero = x.type(0)
    rows = [plane.load(plane.builder.add(x, plane.builder.mul(width, x.type(y)))) for y in range(8)]
    for v, column in enumerate(_dct(transpose(_dct(rows)))):
        z.store(column, zero, LANES * v)


@vector_function()
def synthesize(z, plane, x, width):
    """The inverse of analyze, which is its transpose."""
    columns = [z.load(x.type(0), LANES * v) for v in range(8)]
    for y, row in enumerate(_idct(transpose(_idct(columns)))):
        plane.store(row, plane.builder.add(x, plane.builder.mul(width, x.type(y))))


# -------------------------------------------------------------------------------------------------------- quantizers
# Coefficients a vector at a time, number i and on of a group. The roundings differ in two functions each: what becomes of a
# coefficient, and its gradients from dL/dQ. NaN and infinity become NaN, and the gradients of what they touch too.

TABLES = 6 * GROUP  # of a plane: q, 1/q, kappa log2(e) with kappa = alpha q^2, and the constants of _near
SUMS = 5 * GROUP  # of a plane, at most: dL/dq and dL/dalpha; for "ste-matched" dL/dq in two parts, and three squared errors
_LOG2_E = math.log2(math.e)
_TWO_LN2 = 2 * math.log(2)


@vector_function()
def derive(table, i):
    """The other tables from q and, in the place of 1/q, alpha."""
    q, alpha = table.load(i), table.load(i, GROUP)
    kappa = alpha * q * q * _LOG2_E
    table.store(q.like(1.0) / q, i, GROUP)
    table.store(kappa, i, 2 * GROUP)
    # Where these would make no difference they are 0, so that no product is too small for a float32, which is slow.
    table.store(where(kappa < 40.0, exp2(kappa * -2.0, -125.0), 0.0), i, 3 * GROUP)
    table.store(where(kappa < 18.0, exp2(kappa * -2.0, -125.0), 0.0), i, 4 * GROUP)
    table.store(where(kappa < 18.0, exp2(kappa * -6.0, -125.0), 0.0), i, 5 * GROUP)


def _bad(z: Vector) -> Vector:
    """0, and NaN for NaN and infinity."""
    return z - z


def _store_sums(sums: Place, i: Any, *parts: Vector) -> None:
    for place, part in enumerate(parts):
        sums.store(sums.load(i, place * GROUP) + part, i, place * GROUP)


# The hard ones: a level that may lie beyond the cap.


@vector_function()
def quantize_hard(z, i, table, cap):
    """q clamp(round(z / q), -L, L)."""
    value, q = z.load(i), table.load(i)
    z.store(q * rint(value / q).clamp(-cap, cap) + _bad(value), i)


@vector_function()
def gradients_hard(z, grad, i, table, sums, cap):
    """dL/dQ to dL/dz in place, which is 0; dL/dq is added to ``sums``."""
    value, q = z.load(i), table.load(i)
    upstream = grad.load(i) + _bad(value)
    grad.store(upstream * 0.0, i)
    _store_sums(sums, i, upstream * rint(value / q).clamp(-cap, cap))


@vector_function()
def gradients_ste(z, grad, i, table, sums, cap):
    """Straight through the rounding, not through the cap."""
    value, q = z.load(i), table.load(i)
    upstream, scaled = grad.load(i) + _bad(value), value / q
    rounded = rint(scaled)
    level = rounded.clamp(-cap, cap)
    beyond = absolute(rounded) > cap
    grad.store(where(beyond, upstream * 0.0, upstream), i)
    _store_sums(sums, i, upstream * where(beyond, level, level - scaled))


@vector_function()
def gradients_matched(z, grad, i, table, sums, cap, far):
    """The same, with dL/dq in two parts, within the cap and beyond; and the squared errors of rounding to multiples of q, of q
    times ``far`` and of q over ``far``, from which the scale of the first is to be had."""
    value, q = z.load(i), table.load(i)
    upstream, scaled = grad.load(i) + _bad(value), value / q
    rounded = rint(scaled)
    level = rounded.clamp(-cap, cap)
    beyond = absolute(rounded) > cap
    grad.store(where(beyond, upstream * 0.0, upstream), i)
    by_q = upstream * where(beyond, level, level - scaled)
    zero = value.like(0.0)
    errors = [step * rint(value / step) - value for step in (q, q * far, q / far)]
    usable = absolute(value) < 1e30  # false for NaN too: a bad pixel stays within its block
    squares = [where(usable, error * error, zero) for error in errors]
    _store_sums(sums, i, where(beyond, zero, by_q), where(beyond, by_q, zero), *squares)


@vector_function()
def saturate(z, i, table, cap):
    """clamp(z, -L q, L q)."""
    value, q = z.load(i), table.load(i)
    limit = q * cap
    z.store(value.clamp(-limit, limit) + _bad(value), i)


@vector_function()
def gradients_saturated(z, grad, i, table, sums, cap):
    value, q = z.load(i), table.load(i)
    upstream, limit = grad.load(i) + _bad(value), q * cap
    beyond = absolute(value) > limit
    nothing = upstream * 0.0
    grad.store(where(beyond, nothing, upstream), i)
    sign = where(value < 0.0, -upstream, upstream)
    _store_sums(sums, i, where(beyond, sign * cap, nothing))


# Random numbers, by the number of the block and the place in it: see jpegdl.functional.draws.


def _drawn(i: Any, keys: Place, builder: Any) -> Vector:
    """Uniform in [0, 1), from the two halves of each block's key, ``keys`` (2 BESIDE)."""
    first, second = (lanes_of(builder, [keys.whole(i.type(half + 2 * block)) for block in range(BESIDE)]) for half in range(2))
    row = lanes_of(builder, [builder.sdiv(i, i.type(BESIDE))] * BESIDE)  # 8 v, for i = LANES v
    number: Whole = mixed(first, second, row + counted(builder))
    return number.shifted_in(32 - DRAW_BITS).floats() * 2.0**-DRAW_BITS


@vector_function()
def quantize_noisy(z, i, table, cap, keys):
    """q clamp(z / q + u, -L, L), u uniform in [-1/2, 1/2)."""
    value, q = z.load(i), table.load(i)
    noisy = value / q + (_drawn(i, keys, z.builder) - 0.5)
    z.store(q * noisy.clamp(-cap, cap) + _bad(value), i)


@vector_function()
def gradients_noisy(z, grad, i, table, sums, cap, keys):
    value, q = z.load(i), table.load(i)
    upstream, noise = grad.load(i) + _bad(value), _drawn(i, keys, z.builder) - 0.5
    noisy = value / q + noise
    beyond = absolute(noisy) > cap
    grad.store(where(beyond, upstream * 0.0, upstream), i)
    _store_sums(sums, i, upstream * where(beyond, noisy.clamp(-cap, cap), noise))


# The soft ones. Of the five levels in use, the one that offsets are counted from has two neighbours on each side: the level
# nearest to z, or, near the cap, the centre of the window. The four weights beside its own are called by their offsets, up or
# down, in the direction in which z lies.


@vector_function(types.boolean)
def all_near(z, i, table, limit):
    """Whether all levels nearest to z are at least two away from the cap (``limit`` is the cap less 2)."""
    beyond = z.builder.bitcast(absolute(z.load(i) * table.load(i, GROUP)) > limit, ir.IntType(LANES))
    return z.builder.icmp_unsigned("==", beyond, beyond.type(0))


def _near(z: Vector, table: Place, i: Any) -> tuple[Vector, Vector, list[Vector]]:
    """Nearest level, z / q less that, and the weights of 0, up 1, down 1, up 2, down 2, away from the cap.

    With u = |z / q - level| <= 1/2 and a = exp(-kappa (1 - 2 u)), the weights are 1, a, e2 / a, a^2 e2 and e2^3 / a^2 with
    e2 = exp(-2 kappa); here they come times a^2.
    """
    q, inverse, kappa = table.load(i), table.load(i, GROUP), table.load(i, 2 * GROUP)
    level = rint(z * inverse)
    offset = (z - q * level) * inverse  # not z / q - level: the difference is exact before it is scaled
    u = absolute(offset)
    a = exp2(kappa * (u + u - 1.0), -40.0)
    square = a * a
    e2, e2_of_up, e6 = (table.load(i, place * GROUP) for place in (3, 4, 5))
    return level, offset, [square, a * square, a * e2, square * e2_of_up * square, e6]


def _windowed(z: Vector, table: Place, i: Any, limit: Vector) -> tuple[Vector, Vector, list[Vector]]:
    """The same near the cap: centre of the window, z / q less that, and the weights around the centre.

    With u = |z / q - centre|, the weight of d is exp(kappa (2 u d - d^2) - top), ``top`` the largest of these exponents.
    """
    q, inverse, kappa = table.load(i), table.load(i, GROUP), table.load(i, 2 * GROUP)
    centre = rint((z * inverse).clamp(-limit, limit))
    offset = (z - q * centre) * inverse
    slope = kappa * absolute(offset)
    one, two = slope + slope - kappa, (slope - kappa) * 4.0
    top = larger(larger(one, two), 0.0)
    up1, up2, mirror = exp2(one - top, -40.0), exp2(two - top, -40.0), exp2(slope * -4.0, -40.0)
    return centre, offset, [exp2(-top, -40.0), up1, up1 * mirror, up2, up2 * mirror * mirror]


def _mean(level: Vector, offset: Vector, weights: list[Vector], q: Vector) -> Vector:
    """q times the mean level."""
    here, up1, down1, up2, down2 = weights
    total = here + (up1 + down1) + (up2 + down2)
    mean = ((up1 - down1) + 2.0 * (up2 - down2)) / total
    return q * (level + where(offset < 0.0, -mean, mean))


def _sample(level: Vector, offset: Vector, weights: list[Vector], q: Vector, draw: Vector) -> Vector:
    """q times a level, by inverting the distribution function."""
    here, up1, down1, up2, down2 = weights
    turned = offset < 0.0
    shares = [where(turned, up2, down2), where(turned, up1, down1), here, where(turned, down1, up1)]
    passed = shares[0]
    sums = [passed, *(passed := passed + share for share in shares[1:])]
    # 1 - draw lies in (0, 1]: no level of weight 0 is drawn.
    point = (1.0 - draw) * (passed + where(turned, down2, up2))
    one, none = here.like(1.0), here.like(0.0)
    return q * sum((where(below < point, one, none) for below in sums), level - 2.0)


def _gradients(
    grad: Vector, q: Vector, kappa: Vector, level: Vector, offset: Vector, weights: list[Vector]
) -> tuple[Vector, Vector, Vector]:
    """dL/dz, dL/dq and dL/dalpha from dL/dQ."""
    here, up1, down1, up2, down2 = weights
    share = here.like(1.0) / (here + (up1 + down1) + (up2 + down2))
    here, up1, down1, up2, down2 = shares = [weight * share for weight in weights]
    mean = (up1 - down1) + 2.0 * (up2 - down2)
    # Var(k) and Cov(k, k^2) by way of central moments, which do not cancel where all weight lies on an outer level.
    distances = [d - mean for d in (0.0, 1.0, -1.0, 2.0, -2.0)]
    squares = [p * d * d for p, d in zip(shares, distances, strict=True)]
    variance = sum(squares[1:], squares[0])
    third = sum((s * d for s, d in zip(squares[1:], distances[1:], strict=True)), squares[0] * distances[0])
    skew = third + 2.0 * mean * variance
    slope, distance = kappa * _TWO_LN2, absolute(offset)  # slope: 2 kappa
    mirrored = mean + slope * (distance * variance - skew)
    by_q = where(offset < 0.0, -mirrored, mirrored) + level * (1.0 - slope * variance)
    by_alpha = 2.0 * distance * variance - skew
    by_alpha = where(offset < 0.0, -by_alpha, by_alpha) * (q * q * q)
    return grad * (slope * variance), grad * by_q, grad * by_alpha


@vector_function()
def quantize_near(z, i, table):
    z.store(_mean(*_near(z.load(i), table, i), table.load(i)), i)


@vector_function()
def quantize_windowed(z, i, table, limit):
    value = z.load(i)
    z.store(_mean(*_windowed(value, table, i, limit), table.load(i)) + _bad(value), i)


@vector_function()
def sample_near(z, i, table, keys):
    z.store(_sample(*_near(z.load(i), table, i), table.load(i), _drawn(i, keys, z.builder)), i)


@vector_function()
def sample_windowed(z, i, table, limit, keys):
    value = z.load(i)
    drawn = _sample(*_windowed(value, table, i, limit), table.load(i), _drawn(i, keys, z.builder))
    z.store(drawn + _bad(value), i)


def _store_gradients(found: tuple[Vector, Vector, Vector], grad: Place, sums: Place, i: Any) -> None:
    grad.store(found[0], i)
    _store_sums(sums, i, *found[1:])


@vector_function()
def gradients_near(z, grad, i, table, sums):
    """dL/dQ to dL/dz in place; dL/dq and dL/dalpha are added to ``sums``."""
    value = z.load(i)
    upstream = grad.load(i) + _bad(value)
    _store_gradients(_gradients(upstream, table.load(i), table.load(i, 2 * GROUP), *_near(value, table, i)), grad, sums, i)


@vector_function()
def gradients_windowed(z, grad, i, table, sums, limit):
    value = z.load(i)
    upstream = grad.load(i) + _bad(value)
    found = _gradients(upstream, table.load(i), table.load(i, 2 * GROUP), *_windowed(value, table, i, limit))
    _store_gradients(found, grad, sums, i)
