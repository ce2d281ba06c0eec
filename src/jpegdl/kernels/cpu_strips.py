"""What numba compiles for the CPU: strips of 8 pixel rows, which stay in the cache from the load to the store.

Colour is a loop over whole rows, which the compiler turns into vector instructions. What is done to a block is written in
vectors of 8 float32, one for each row or column of the block, whatever the machine has for them: both DCTs are sums of such
vectors, and in between the block is transposed.
"""

# numba infers the types of what it compiles:
# mypy: disable-error-code="no-untyped-def, no-untyped-call, call-arg, var-annotated, attr-defined"

import ctypes
import inspect
import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import float32
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np import arrayobj

from jpegdl.functional import KB, KG, KR

# No "reassoc" and no "nnan": a NaN must stay one.
_FLAGS = ("contract", "nsz", "arcp")
_compiled: Callable[..., Any] = numba.njit(fastmath=set(_FLAGS), error_model="numpy", nogil=True, cache=True)

_R, _G, _B = float32(KR), float32(KG), float32(KB)
_TO_CB, _TO_CR = float32(0.5 / (1 - KB)), float32(0.5 / (1 - KR))
_CB_TO_B, _CR_TO_R = float32(2 * (1 - KB)), float32(2 * (1 - KR))
_CB_TO_G, _CR_TO_G = float32(2 * (1 - KB) * KB / KG), float32(2 * (1 - KR) * KR / KG)


# ----------------------------------------------------------------------------------------------------------- vectors

_FLOATS, _INTEGERS = ir.VectorType(ir.FloatType(), 8), ir.VectorType(ir.IntType(32), 8)


class Vector:
    """8 float32 of a program that is being written: arithmetic with it writes instructions."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    def _write(self, instruction: str, other: "Vector | float") -> "Vector":
        return Vector(self.builder, getattr(self.builder, instruction)(self.value, self.like(other).value, flags=_FLAGS))

    def like(self, number: "Vector | float") -> "Vector":
        return number if isinstance(number, Vector) else Vector(self.builder, ir.Constant(_FLOATS, [number] * 8))

    def __add__(self, other: "Vector | float") -> "Vector":
        return self._write("fadd", other)

    def __sub__(self, other: "Vector | float") -> "Vector":
        return self._write("fsub", other)

    def __mul__(self, other: "Vector | float") -> "Vector":
        return self._write("fmul", other)

    def __truediv__(self, other: "Vector | float") -> "Vector":
        return self._write("fdiv", other)

    __radd__, __rmul__ = __add__, __mul__

    def __rsub__(self, other: "Vector | float") -> "Vector":
        return self.like(other) - self

    def __neg__(self) -> "Vector":
        return Vector(self.builder, self.builder.fneg(self.value))

    def __lt__(self, other: "Vector | float") -> Any:
        """8 truth values; false where there is NaN."""
        return self.builder.fcmp_ordered("<", self.value, self.like(other).value)

    def __gt__(self, other: "Vector | float") -> Any:
        return self.like(other) < self

    def clamp(self, least: "Vector | float", most: "Vector | float") -> "Vector":
        """NaN becomes ``least``."""
        lifted = where(self > least, self, least)
        return where(lifted < most, lifted, most)

    def shuffled(self, other: "Vector", order: list[int]) -> "Vector":
        """Of the 16 numbers of both, those in ``order``."""
        mask = ir.Constant(_INTEGERS, order)
        return Vector(self.builder, self.builder.shuffle_vector(self.value, other.value, mask))


def where(condition: Any, then: Vector, otherwise: Vector | float) -> Vector:
    return Vector(then.builder, then.builder.select(condition, then.value, then.like(otherwise).value))


def larger(one: Vector, other: Vector | float) -> Vector:
    return where(one > other, one, other)


def _called(name: str, x: Vector) -> Vector:
    kind = ir.FunctionType(_FLOATS, [_FLOATS])
    function = cgutils.get_or_insert_function(x.builder.module, kind, f"llvm.{name}.v8f32")
    return Vector(x.builder, x.builder.call(function, [x.value]))


def rint(x: Vector) -> Vector:
    """To the nearest integer, ties to even, as torch.round does."""
    return _called("rint", x)


def absolute(x: Vector) -> Vector:
    return _called("fabs", x)


def exp2(x: Vector, least: float) -> Vector:
    """2^x for x <= 0, to 2 units in the last place; 2^least below ``least`` (at least -125), and for NaN.

    2^(x - n) with n the integer nearest to x, by a minimax polynomial; then n is added to the exponent.
    """
    x = x.clamp(least, 0.0)
    n = rint(x)
    f = x - n
    p = f * 1.326472746e-3 + 9.671512859e-3
    p = ((p * f + 5.550733744e-2) * f + 2.402224208e-1) * f + 6.931469776e-1
    p = p * f + 1.0
    builder = x.builder
    exponent = builder.shl(builder.fptosi(n.value, _INTEGERS), ir.Constant(_INTEGERS, [23] * 8))
    return Vector(builder, builder.bitcast(builder.add(builder.bitcast(p.value, _INTEGERS), exponent), _FLOATS))


class Place:
    """Where in memory an array lies whose numbers are read and written 8 at a time."""

    def __init__(self, builder: Any, pointer: Any) -> None:
        self.builder, self.pointer = builder, pointer

    def _at(self, index: Any, further: int) -> Any:
        place = self.builder.gep(self.pointer, [self.builder.add(index, index.type(further))])
        return self.builder.bitcast(place, _FLOATS.as_pointer())

    def load(self, index: Any, further: int = 0) -> Vector:
        return Vector(self.builder, self.builder.load(self._at(index, further), align=4))

    def store(self, vector: Vector, index: Any, further: int = 0) -> None:
        self.builder.store(vector.value, self._at(index, further), align=4)


def vector_function(result: Any = types.void) -> Callable[[Callable[..., Any]], Any]:
    """Make a function for numba of one that writes its instructions.

    The latter is given a :class:`Place` for each array, a :class:`Vector` for each float32, 8 times the same number, and
    integers as they are.
    """

    def decorate(write: Callable[..., Any]) -> Any:
        def typed(typing: Any, *kinds: Any) -> Any:
            def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
                given: list[Any] = []
                for kind, value in zip(kinds, values, strict=True):
                    if isinstance(kind, types.Array):
                        given.append(Place(builder, arrayobj.make_array(kind)(context, builder, value).data))
                    elif kind == types.float32:
                        one = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), value, ir.IntType(32)(0))
                        splat = builder.shuffle_vector(one, one, ir.Constant(_INTEGERS, [0] * 8))
                        given.append(Vector(builder, splat))
                    else:
                        given.append(context.cast(builder, value, kind, types.int64))
                written = write(*given)
                return context.get_dummy_value() if written is None else written

            return result(*kinds), code

        typed.__name__ = write.__name__
        first = inspect.Parameter("typing", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        typed.__signature__ = inspect.Signature([first, *inspect.signature(write).parameters.values()])
        return intrinsic(typed)

    return decorate


# ------------------------------------------------------------------------------------------- one strip of 8 pixel rows

_ZERO = float32(0)


@_compiled
def _load(image, top, planes):
    """(3, H, W) in [0, 1] to level-shifted Y, Cb, Cr of one strip, (3, 8, 8 C); edges repeated."""
    height, width = image.shape[1:]
    for y in range(8):
        row = min(top + y, height - 1)
        for x in range(width):
            r, g, b = image[0, row, x] * float32(255), image[1, row, x] * float32(255), image[2, row, x] * float32(255)
            luma = _R * r + _G * g + _B * b
            planes[0, y, x] = luma - float32(128)
            planes[1, y, x] = (b - luma) * _TO_CB
            planes[2, y, x] = (r - luma) * _TO_CR
        for x in range(width, planes.shape[2]):
            for c in range(3):
                planes[c, y, x] = planes[c, y, width - 1]


@_compiled
def _store(planes, image, top):
    """The inverse of _load, where the image is."""
    height, width = image.shape[1:]
    for y in range(min(8, height - top)):
        for x in range(width):
            luma, cb, cr = planes[0, y, x] + float32(128), planes[1, y, x], planes[2, y, x]
            image[0, top + y, x] = (luma + cr * _CR_TO_R) * float32(1 / 255)
            image[1, top + y, x] = (luma - cb * _CB_TO_G - cr * _CR_TO_G) * float32(1 / 255)
            image[2, top + y, x] = (luma + cb * _CB_TO_B) * float32(1 / 255)


@_compiled
def _store_transposed(grad, top, planes):
    """The transpose of _store: gradients of the image to those of the planes; 0 where there is no image."""
    height, width = grad.shape[1:]
    planes[:] = _ZERO
    for y in range(min(8, height - top)):
        for x in range(width):
            r, g, b = grad[0, top + y, x], grad[1, top + y, x], grad[2, top + y, x]
            planes[0, y, x] = (r + g + b) * float32(1 / 255)
            planes[1, y, x] = (b * _CB_TO_B - g * _CB_TO_G) * float32(1 / 255)
            planes[2, y, x] = (r * _CR_TO_R - g * _CR_TO_G) * float32(1 / 255)


@_compiled
def _load_transposed(planes, grad, top):
    """The transpose of _load: what reached a repeated edge goes back to the pixel it was repeated from."""
    height, width = grad.shape[1:]
    rows = min(8, height - top)
    for c in range(3):
        for y in range(8):
            for x in range(width, planes.shape[2]):
                planes[c, y, width - 1] += planes[c, y, x]
        for y in range(rows, 8):
            for x in range(width):
                planes[c, rows - 1, x] += planes[c, y, x]
    for y in range(rows):
        for x in range(width):
            cb, cr = planes[1, y, x] * _TO_CB, planes[2, y, x] * _TO_CR
            luma = planes[0, y, x] - cb - cr
            grad[0, top + y, x] = (_R * luma + cr) * float32(255)
            grad[1, top + y, x] = _G * luma * float32(255)
            grad[2, top + y, x] = (_B * luma + cb) * float32(255)


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
def _analyze(plane, x, width, z):
    """The coefficients of the block at column x of a (8, width) plane to z: 64, vertical frequency fastest."""
    zero = x.type(0)
    rows = [plane.load(plane.builder.add(x, plane.builder.mul(width, x.type(y)))) for y in range(8)]
    for v, column in enumerate(_dct(_transpose(_dct(rows)))):
        z.store(column, zero, 8 * v)


@vector_function()
def _synthesize(z, plane, x, width):
    """The inverse of _analyze, which is its transpose."""
    columns = [z.load(x.type(0), 8 * v) for v in range(8)]
    for y, row in enumerate(_idct(_transpose(_idct(columns)))):
        plane.store(row, plane.builder.add(x, plane.builder.mul(width, x.type(y))))


# --------------------------------------------------------------------------------------------------------- quantizer
# Coefficients 8 at a time, number i to i + 7 of a block. Of the five levels in use, the one that offsets are counted from has
# two neighbours on each side: the level nearest to z, or, near the cap, the centre of the window. The four weights beside its
# own are called by their offsets, up or down, in the direction in which z lies.

_TABLES = 6 * 64  # of a plane: q, 1/q, kappa log2(e) with kappa = alpha q^2, and the constants of _near
_LOG2_E = math.log2(math.e)
_TWO_LN2 = 2 * math.log(2)


@vector_function()
def _derive(table, i):
    """The other tables from q and, in the place of 1/q, alpha."""
    q, alpha = table.load(i), table.load(i, 64)
    kappa = alpha * q * q * _LOG2_E
    table.store(q.like(1.0) / q, i, 64)
    table.store(kappa, i, 128)
    # Where these would make no difference they are 0, so that no product is too small for a float32, which is slow.
    table.store(where(kappa < 40.0, exp2(kappa * -2.0, -125.0), 0.0), i, 192)
    table.store(where(kappa < 18.0, exp2(kappa * -2.0, -125.0), 0.0), i, 256)
    table.store(where(kappa < 18.0, exp2(kappa * -6.0, -125.0), 0.0), i, 320)


@_compiled
def _prepare(q, alpha, tables):
    """Tables of all planes, vertical frequency fastest, from steps and alpha (3, 8, 8)."""
    for c in range(3):
        for u in range(8):
            for v in range(8):
                tables[c, 8 * v + u], tables[c, 64 + 8 * v + u] = q[c, u, v], alpha[c, u, v]
        for i in range(0, 64, 8):
            _derive(tables[c], i)


@vector_function(types.boolean)
def _all_near(z, i, table, limit):
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
def _quantize_near(z, i, table):
    level, offset, weights = _near(z.load(i), table, i)
    z.store(_quantized(table.load(i), level, offset, weights), i)


@vector_function()
def _quantize_windowed(z, i, table, limit):
    value = z.load(i)
    level, offset, weights = _windowed(value, table, i, limit)
    z.store(_quantized(table.load(i), level, offset, weights) + (value - value), i)  # NaN and infinity become NaN


def _store_gradients(found: tuple[Vector, Vector, Vector], grad: Place, sums: Place, i: Any) -> None:
    grad.store(found[0], i)
    sums.store(sums.load(i) + found[1], i)
    sums.store(sums.load(i, 64) + found[2], i, 64)


@vector_function()
def _gradients_near(z, grad, i, table, sums):
    """dL/dQ to dL/dz in place; dL/dq and dL/dalpha are added to the two halves of ``sums``."""
    value = z.load(i)
    level, offset, weights = _near(value, table, i)
    upstream = grad.load(i) + (value - value)
    _store_gradients(_gradients(upstream, table.load(i), table.load(i, 128), level, offset, weights), grad, sums, i)


@vector_function()
def _gradients_windowed(z, grad, i, table, sums, limit):
    value = z.load(i)
    level, offset, weights = _windowed(value, table, i, limit)
    upstream = grad.load(i) + (value - value)
    _store_gradients(_gradients(upstream, table.load(i), table.load(i, 128), level, offset, weights), grad, sums, i)


# ------------------------------------------------------------------------------------------------------------ strips


@_compiled
def _forward_strips(images, output, tables, limit, start, stop):
    strips, width = (images.shape[2] + 7) // 8, (images.shape[3] + 7) // 8 * 8
    planes, z = np.empty((3, 8, width), np.float32), np.empty(64, np.float32)
    for strip in range(start, stop):
        n, top = strip // strips, strip % strips * 8
        _load(images[n], top, planes)
        for c in range(3):
            plane, table = planes[c], tables[c]
            for x in range(0, width, 8):
                _analyze(plane, x, width, z)
                for i in range(0, 64, 8):
                    if _all_near(z, i, table, limit):
                        _quantize_near(z, i, table)
                    else:
                        _quantize_windowed(z, i, table, limit)
                _synthesize(z, plane, x, width)
        _store(planes, output[n], top)


@_compiled
def _backward_strips(images, grad, grad_images, partial, tables, limit, start, stop):
    strips, width = (images.shape[2] + 7) // 8, (images.shape[3] + 7) // 8 * 8
    planes, grad_planes = np.empty((3, 8, width), np.float32), np.empty((3, 8, width), np.float32)
    z, grad_z = np.empty(64, np.float32), np.empty(64, np.float32)
    for strip in range(start, stop):
        n, top = strip // strips, strip % strips * 8
        _load(images[n], top, planes)
        _store_transposed(grad[n], top, grad_planes)
        for c in range(3):
            plane, grad_plane, table, sums = planes[c], grad_planes[c], tables[c], partial[strip, c]
            for x in range(0, width, 8):
                _analyze(plane, x, width, z)
                _analyze(grad_plane, x, width, grad_z)
                for i in range(0, 64, 8):
                    if _all_near(z, i, table, limit):
                        _gradients_near(z, grad_z, i, table, sums)
                    else:
                        _gradients_windowed(z, grad_z, i, table, sums, limit)
                if grad_images.shape[0]:
                    _synthesize(grad_z, grad_plane, x, width)
        if grad_images.shape[0]:
            _load_transposed(grad_planes, grad_images[n], top)


# ------------------------------------------------------------------------------------------------------------- a job


class Job(ctypes.Structure):
    """What a team of threads works on. All of them are given the same one, and take pieces of it until none is left."""

    _fields_ = (
        ("taken", ctypes.c_int64),  # pieces so far; the first, as _take finds it there
        ("pieces", ctypes.c_int64),
        ("strips", ctypes.c_int64),
        *((name, ctypes.c_int64) for name in ("n", "height", "width")),
        ("cap", ctypes.c_float),
        # Where float32 lie: of (n, 3, height, width), of (3, 8, 8), and of (strips, 3, 128). 0 for what there is not.
        *((name, ctypes.c_int64) for name in ("images", "output", "grad", "grad_images", "q", "alpha", "partial")),
    )


JOB = types.CPointer(numba.from_dtype(np.dtype(Job)))


@intrinsic
def _take(typing: Any, job: Any) -> Any:
    """The number of pieces that were taken, which grows by one, whoever else takes one at the same time."""

    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        taken = builder.bitcast(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", taken, ir.IntType(64)(1), "monotonic")

    return types.int64(job), code


@intrinsic
def _floats_at(typing: Any, address: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(types.int64), code


@_compiled
def _tables_of(job):
    tables = np.empty((3, _TABLES), np.float32)
    _prepare(numba.carray(_floats_at(job.q), (3, 8, 8)), numba.carray(_floats_at(job.alpha), (3, 8, 8)), tables)
    return tables


def forward_team(pointer):
    """What each thread does in the forward pass."""
    job = numba.carray(pointer, 1)[0]
    shape = (job.n, 3, job.height, job.width)
    images, output = numba.carray(_floats_at(job.images), shape), numba.carray(_floats_at(job.output), shape)
    tables, limit = _tables_of(job), job.cap - float32(2)
    piece = _take(pointer)
    while piece < job.pieces:
        start, stop = job.strips * piece // job.pieces, job.strips * (piece + 1) // job.pieces
        _forward_strips(images, output, tables, limit, start, stop)
        piece = _take(pointer)


def backward_team(pointer):
    """What each thread does in the backward pass."""
    job = numba.carray(pointer, 1)[0]
    shape = (job.n, 3, job.height, job.width)
    images, grad = numba.carray(_floats_at(job.images), shape), numba.carray(_floats_at(job.grad), shape)
    wanted = job.n if job.grad_images else 0
    grad_images = numba.carray(_floats_at(job.grad_images), (wanted, 3, job.height, job.width))
    partial = numba.carray(_floats_at(job.partial), (job.strips, 3, 128))
    tables, limit = _tables_of(job), job.cap - float32(2)
    piece = _take(pointer)
    while piece < job.pieces:
        start, stop = job.strips * piece // job.pieces, job.strips * (piece + 1) // job.pieces
        _backward_strips(images, grad, grad_images, partial, tables, limit, start, stop)
        piece = _take(pointer)
