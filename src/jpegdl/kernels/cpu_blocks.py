"""What the CPU kernel does to an 8x8 block, in vectors of 8: DCT and soft quantizer.

A DCT of all columns is a sum of rows, each a vector, and so is one of all rows once the block is transposed. Coefficients stay
transposed, vertical frequency fastest, as do the tables.
"""

# numba infers the types of what it compiles:
# mypy: disable-error-code="no-untyped-def"

import math
from typing import Any

from llvmlite import ir
from numba.core import types

from jpegdl.kernels.cpu_vectors import Place, Vector, absolute, exp2, larger, rint, vector_function, where

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


def _transpose(x: list[Vector]) -> list[Vector]:
    """8x8 numbers: pairs of rows interleaved, then pairs of pairs, then halves put together."""
    singles = ([0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15])
    x = [x[i].shuffled(x[i + 1], order) for i in (0, 2, 4, 6) for order in singles]
    pairs = ([0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15])
    x = [x[i].shuffled(x[i + 2], order) for i in (0, 1, 4, 5) for order in pairs]
    halves = ([0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15])
    return [x[i].shuffled(x[i + 4], order) for order in halves for i in range(4)]


@vector_function()
def analyze(plane, x, width, z):
    """The coefficients of the block at column x of a (8, width) plane to z: 64, vertical frequency fastest."""
    zero = x.type(0)
    rows = [plane.load(plane.builder.add(x, plane.builder.mul(width, x.type(y)))) for y in range(8)]
    for v, column in enumerate(_dct(_transpose(_dct(rows)))):
        z.store(column, zero, 8 * v)


@vector_function()
def synthesize(z, plane, x, width):
    """The inverse of analyze, which is its transpose."""
    columns = [z.load(x.type(0), 8 * v) for v in range(8)]
    for y, row in enumerate(_idct(_transpose(_idct(columns)))):
        plane.store(row, plane.builder.add(x, plane.builder.mul(width, x.type(y))))


# --------------------------------------------------------------------------------------------------------- quantizer
# Coefficients 8 at a time, number i to i + 7 of a block. Of the five levels in use, the one that offsets are counted from has
# two neighbours on each side: the level nearest to z, or, near the cap, the centre of the window. The four weights beside its
# own are called by their offsets, up or down, in the direction in which z lies.

TABLES = 6 * 64  # of a plane: q, 1/q, kappa log2(e) with kappa = alpha q^2, and the constants of _near
_LOG2_E = math.log2(math.e)
_TWO_LN2 = 2 * math.log(2)


@vector_function()
def derive(table, i):
    """The other tables from q and, in the place of 1/q, alpha."""
    q, alpha = table.load(i), table.load(i, 64)
    kappa = alpha * q * q * _LOG2_E
    table.store(q.like(1.0) / q, i, 64)
    table.store(kappa, i, 128)
    # Where these would make no difference they are 0, so that no product is too small for a float32, which is slow.
    table.store(where(kappa < 40.0, exp2(kappa * -2.0, -125.0), 0.0), i, 192)
    table.store(where(kappa < 18.0, exp2(kappa * -2.0, -125.0), 0.0), i, 256)
    table.store(where(kappa < 18.0, exp2(kappa * -6.0, -125.0), 0.0), i, 320)


@vector_function(types.boolean)
def all_near(z, i, table, limit):
    """Whether all levels nearest to z are at least two away from the cap (``limit`` is the cap less 2)."""
    beyond = z.builder.bitcast(absolute(z.load(i) * table.load(i, 64)) > limit, ir.IntType(8))
    return z.builder.icmp_unsigned("==", beyond, beyond.type(0))


def _near(z: Vector, table: Place, i: Any) -> tuple[Vector, Vector, list[Vector]]:
    """Nearest level, z / q less that, and the weights of 0, up 1, down 1, up 2, down 2, away from the cap.

    With u = |z / q - level| <= 1/2 and a = exp(-kappa (1 - 2 u)), the weights are 1, a, e2 / a, a^2 e2 and e2^3 / a^2 with
    e2 = exp(-2 kappa); here they come times a^2.
    """
    q, inverse, kappa = table.load(i), table.load(i, 64), table.load(i, 128)
    level = rint(z * inverse)
    offset = (z - q * level) * inverse  # not z / q - level: the difference is exact before it is scaled
    u = absolute(offset)
    a = exp2(kappa * (u + u - 1.0), -40.0)
    square = a * a
    return level, offset, [square, a * square, a * table.load(i, 192), square * table.load(i, 256) * square, table.load(i, 320)]


def _windowed(z: Vector, table: Place, i: Any, limit: Vector) -> tuple[Vector, Vector, list[Vector]]:
    """The same near the cap: centre of the window, z / q less that, and the weights around the centre.

    With u = |z / q - centre|, the weight of d is exp(kappa (2 u d - d^2) - top), ``top`` the largest of these exponents.
    """
    q, inverse, kappa = table.load(i), table.load(i, 64), table.load(i, 128)
    centre = rint((z * inverse).clamp(-limit, limit))
    offset = (z - q * centre) * inverse
    slope = kappa * absolute(offset)
    one, two = slope + slope - kappa, (slope - kappa) * 4.0
    top = larger(larger(one, two), 0.0)
    up1, up2, mirror = exp2(one - top, -40.0), exp2(two - top, -40.0), exp2(slope * -4.0, -40.0)
    return centre, offset, [exp2(-top, -40.0), up1, up1 * mirror, up2, up2 * mirror * mirror]


def _quantized(q: Vector, level: Vector, offset: Vector, weights: list[Vector]) -> Vector:
    here, up1, down1, up2, down2 = weights
    total = here + (up1 + down1) + (up2 + down2)
    mean = ((up1 - down1) + 2.0 * (up2 - down2)) / total
    return q * (level + where(offset < 0.0, -mean, mean))


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
    level, offset, weights = _near(z.load(i), table, i)
    z.store(_quantized(table.load(i), level, offset, weights), i)


@vector_function()
def quantize_windowed(z, i, table, limit):
    value = z.load(i)
    level, offset, weights = _windowed(value, table, i, limit)
    z.store(_quantized(table.load(i), level, offset, weights) + (value - value), i)  # NaN and infinity become NaN


def _store_gradients(found: tuple[Vector, Vector, Vector], grad: Place, sums: Place, i: Any) -> None:
    grad.store(found[0], i)
    sums.store(sums.load(i) + found[1], i)
    sums.store(sums.load(i, 64) + found[2], i, 64)


@vector_function()
def gradients_near(z, grad, i, table, sums):
    """dL/dQ to dL/dz in place; dL/dq and dL/dalpha are added to the two halves of ``sums``."""
    value = z.load(i)
    level, offset, weights = _near(value, table, i)
    upstream = grad.load(i) + (value - value)
    _store_gradients(_gradients(upstream, table.load(i), table.load(i, 128), level, offset, weights), grad, sums, i)


@vector_function()
def gradients_windowed(z, grad, i, table, sums, limit):
    value = z.load(i)
    level, offset, weights = _windowed(value, table, i, limit)
    upstream = grad.load(i) + (value - value)
    _store_gradients(_gradients(upstream, table.load(i), table.load(i, 128), level, offset, weights), grad, sums, i)
