"""What the Triton kernels do to 8x8 blocks: the DCT of a tile's numbers in registers.

A thread holds 8 pixels of a row, so that each 8-point DCT is arithmetic on a thread's own registers (by its symmetry, about 5
operations a number); between rows and columns the block is transposed. No matrix unit, so no TF32.
"""

# What Triton compiles has types of its own:
# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import math

import triton
import triton.language as tl

from jpegdl.functional import exact

_C1, _C2, _C3, _C4, _C5, _C6, _C7 = (tl.constexpr(0.5 * math.cos(k * math.pi / 16)) for k in range(1, 8))
_ONE, _FINE, _KEPT = tl.constexpr(1), tl.constexpr(exact.CONSTANT_BITS), tl.constexpr(exact.PASS_BITS)
_F0298, _F0390, _F0541, _F0765, _F0899, _F1175, _F1501, _F1847, _F1961, _F2053, _F2562, _F3072 = (
    tl.constexpr(number)
    for number in (
        *(exact.F0298, exact.F0390, exact.F0541, exact.F0765, exact.F0899, exact.F1175),
        *(exact.F1501, exact.F1847, exact.F1961, exact.F2053, exact.F2562, exact.F3072),
    )
)


@triton.jit
def rounded(x, small: tl.constexpr):
    """To the nearest whole number, halves to even; ``small`` where |x| < 2^22 or x is NaN."""
    whole = (x + 12582912.0) - 12582912.0  # 1.5 2^23 leaves a float no room for a fraction
    return whole if small else tl.where(tl.abs(x) < 4194304.0, whole, x)


# --------------------------------------------------------------------------------------------------------------- DCT
# Eight columns stand for a tile's (rows, 8) pixels or coefficients: one number of each in every thread.


@triton.jit
def _split4(x, rows: tl.constexpr):
    """The columns of (rows, 4)."""
    even, odd = tl.split(tl.reshape(x, (rows, 2, 2)))
    x0, x2 = tl.split(even)
    x1, x3 = tl.split(odd)
    return x0, x1, x2, x3


@triton.jit
def _join4(x0, x1, x2, x3, rows: tl.constexpr):
    return tl.reshape(tl.join(tl.join(x0, x2), tl.join(x1, x3)), (rows, 4))


@triton.jit
def _split8(x, rows: tl.constexpr):
    """The columns of (rows, 8)."""
    even, odd = tl.split(tl.reshape(x, (rows, 4, 2)))
    x0, x2, x4, x6 = _split4(even, rows)
    x1, x3, x5, x7 = _split4(odd, rows)
    return x0, x1, x2, x3, x4, x5, x6, x7


@triton.jit
def _join8(x0, x1, x2, x3, x4, x5, x6, x7, rows: tl.constexpr):
    return tl.reshape(tl.join(_join4(x0, x2, x4, x6, rows), _join4(x1, x3, x5, x7, rows)), (rows, 8))


@triton.jit
def _dct(x0, x1, x2, x3, x4, x5, x6, x7):
    """The orthonormal 8-point DCT-II; even outputs from sums, odd ones from differences, of mirrored inputs."""
    s0, s1, s2, s3 = x0 + x7, x1 + x6, x2 + x5, x3 + x4
    d0, d1, d2, d3 = x0 - x7, x1 - x6, x2 - x5, x3 - x4
    e0, e1, e2, e3 = s0 + s3, s1 + s2, s0 - s3, s1 - s2
    return (
        (e0 + e1) * _C4,
        d0 * _C1 + d1 * _C3 + d2 * _C5 + d3 * _C7,
        e2 * _C2 + e3 * _C6,
        d0 * _C3 - d1 * _C7 - d2 * _C1 - d3 * _C5,
        (e0 - e1) * _C4,
        d0 * _C5 - d1 * _C1 + d2 * _C7 + d3 * _C3,
        e2 * _C6 - e3 * _C2,
        d0 * _C7 - d1 * _C5 + d2 * _C3 - d3 * _C1,
    )


@triton.jit
def _idct(z0, z1, z2, z3, z4, z5, z6, z7):
    """The inverse of _dct, which is its transpose."""
    e0, e1, e2, e3 = (z0 + z4) * _C4, (z0 - z4) * _C4, z2 * _C2 + z6 * _C6, z2 * _C6 - z6 * _C2
    s0, s1, s2, s3 = e0 + e2, e1 + e3, e1 - e3, e0 - e2
    d0 = z1 * _C1 + z3 * _C3 + z5 * _C5 + z7 * _C7
    d1 = z1 * _C3 - z3 * _C7 - z5 * _C1 - z7 * _C5
    d2 = z1 * _C5 - z3 * _C1 + z5 * _C7 + z7 * _C3
    d3 = z1 * _C7 - z3 * _C5 + z5 * _C3 - z7 * _C1
    return s0 + d0, s1 + d1, s2 + d2, s3 + d3, s3 - d3, s2 - d2, s1 - d1, s0 - d0


# Those of jpegdl.functional.exact, in integers of 32 bits.


@triton.jit
def _shifted(x, bits: tl.constexpr):
    """x / 2^bits, halves up."""
    return (x + (_ONE << (bits - 1))) >> bits


@triton.jit
def _odd_part(x0, x1, x2, x3):
    z1, z2, z3, z4 = x0 + x3, x1 + x2, x0 + x2, x1 + x3
    z5 = (z3 + z4) * _F1175
    z1, z2, z3, z4 = z1 * -_F0899, z2 * -_F2562, z3 * -_F1961 + z5, z4 * -_F0390 + z5
    return x0 * _F0298 + z1 + z3, x1 * _F2053 + z2 + z4, x2 * _F3072 + z2 + z3, x3 * _F1501 + z1 + z4


@triton.jit
def _whole_dct(x0, x1, x2, x3, x4, x5, x6, x7, first: tl.constexpr):
    bits: tl.constexpr = _FINE - _KEPT if first else _FINE + _KEPT
    s0, s1, s2, s3 = x0 + x7, x1 + x6, x2 + x5, x3 + x4
    e0, e3, e1, e2 = s0 + s3, s0 - s3, s1 + s2, s1 - s2
    turned = (e2 + e3) * _F0541
    if first:
        y0, y4 = (e0 + e1) << _KEPT, (e0 - e1) << _KEPT
    else:
        y0, y4 = _shifted(e0 + e1, _KEPT), _shifted(e0 - e1, _KEPT)
    y7, y5, y3, y1 = _odd_part(x3 - x4, x2 - x5, x1 - x6, x0 - x7)
    y2, y6 = turned + e3 * _F0765, turned - e2 * _F1847
    y1, y2, y3 = _shifted(y1, bits), _shifted(y2, bits), _shifted(y3, bits)
    return y0, y1, y2, y3, y4, _shifted(y5, bits), _shifted(y6, bits), _shifted(y7, bits)


@triton.jit
def _whole_idct(z0, z1, z2, z3, z4, z5, z6, z7, first: tl.constexpr):
    bits: tl.constexpr = _FINE - _KEPT if first else _FINE + _KEPT + 3
    turned = (z2 + z6) * _F0541
    low, high = turned - z6 * _F1847, turned + z2 * _F0765
    e0, e1 = (z0 + z4) << _FINE, (z0 - z4) << _FINE
    s0, s1, s2, s3 = e0 + high, e1 + low, e1 - low, e0 - high
    d3, d2, d1, d0 = _odd_part(z7, z5, z3, z1)
    x0, x1, x2, x3 = _shifted(s0 + d0, bits), _shifted(s1 + d1, bits), _shifted(s2 + d2, bits), _shifted(s3 + d3, bits)
    x4, x5, x6, x7 = _shifted(s3 - d3, bits), _shifted(s2 - d2, bits), _shifted(s1 - d1, bits), _shifted(s0 - d0, bits)
    return x0, x1, x2, x3, x4, x5, x6, x7


@triton.jit
def _analyzed(x0, x1, x2, x3, x4, x5, x6, x7, first: tl.constexpr, whole: tl.constexpr):
    if whole:
        return _whole_dct(x0, x1, x2, x3, x4, x5, x6, x7, first)
    else:
        return _dct(x0, x1, x2, x3, x4, x5, x6, x7)


@triton.jit
def _synthesized(z0, z1, z2, z3, z4, z5, z6, z7, first: tl.constexpr, whole: tl.constexpr):
    if whole:
        return _whole_idct(z0, z1, z2, z3, z4, z5, z6, z7, first)
    else:
        return _idct(z0, z1, z2, z3, z4, z5, z6, z7)


@triton.jit
def _transpose(x, blocks: tl.constexpr):
    return tl.reshape(tl.permute(tl.reshape(x, (blocks, 8, 8)), (0, 2, 1)), (blocks * 8, 8))


@triton.jit
def to_coefficients(left, right, blocks: tl.constexpr, whole: tl.constexpr):
    """Rows of pixels to coefficients, in each row a column of the block; both in halves, (rows, 4). With ``whole`` they are
    integers, and coefficients come times 8."""
    rows: tl.constexpr = blocks * 8
    x0, x1, x2, x3 = _split4(left, rows)
    x4, x5, x6, x7 = _split4(right, rows)
    x0, x1, x2, x3, x4, x5, x6, x7 = _analyzed(x0, x1, x2, x3, x4, x5, x6, x7, True, whole)
    turned = _transpose(_join8(x0, x1, x2, x3, x4, x5, x6, x7, rows), blocks)
    x0, x1, x2, x3, x4, x5, x6, x7 = _split8(turned, rows)
    x0, x1, x2, x3, x4, x5, x6, x7 = _analyzed(x0, x1, x2, x3, x4, x5, x6, x7, False, whole)
    return _join4(x0, x1, x2, x3, rows), _join4(x4, x5, x6, x7, rows)


@triton.jit
def to_pixels(low, high, kept_rows, kept_columns, blocks: tl.constexpr, fold: tl.constexpr, whole: tl.constexpr):
    """The inverse of to_coefficients. With ``fold``, gradients that reached a repeated edge go back to where it came from."""
    rows: tl.constexpr = blocks * 8
    x0, x1, x2, x3 = _split4(low, rows)
    x4, x5, x6, x7 = _split4(high, rows)
    x0, x1, x2, x3, x4, x5, x6, x7 = _synthesized(x0, x1, x2, x3, x4, x5, x6, x7, True, whole)
    x = _join8(x0, x1, x2, x3, x4, x5, x6, x7, rows)
    if fold:
        x = _fold(x, kept_rows)
    x0, x1, x2, x3, x4, x5, x6, x7 = _split8(_transpose(x, blocks), rows)
    x0, x1, x2, x3, x4, x5, x6, x7 = _synthesized(x0, x1, x2, x3, x4, x5, x6, x7, False, whole)
    if fold:
        x = _fold(_join8(x0, x1, x2, x3, x4, x5, x6, x7, rows), kept_columns)
        x0, x1, x2, x3, x4, x5, x6, x7 = _split8(x, rows)
    return _join4(x0, x1, x2, x3, rows), _join4(x4, x5, x6, x7, rows)


@triton.jit
def _fold(x, kept):
    """Along rows of 8, what lies at ``kept`` or beyond is added to the number before: the transpose of repeating it."""
    column = tl.arange(0, 8)[None, :]
    beyond = tl.sum(tl.where(column >= kept[:, None], x, 0.0), axis=1)
    return x + tl.where(column == kept[:, None] - 1, beyond[:, None], 0.0)
