"""The DCT and levels of a JPEG file for numba: programs in vectors of 8 integers of 32 bits, and what is done to a block.

The formulas are those of :mod:`jpegdl.functional.exact`, whose DCT is used here with the processor's vectors in place of
tensors.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined"

from collections.abc import Callable
from typing import Any

import numba
from llvmlite import ir
from numba import float32, int32

from jpegdl.functional.exact import forward_pass, inverse_pass
from jpegdl.kernels.cpu_vectors import Place, Vector, vector_function

# Without fast math: pixels are to be rounded as PyTorch rounds them, and NaN is to be seen.
compiled: Callable[..., Any] = numba.njit(error_model="numpy", nogil=True)

_INTEGERS, _FLOATS = ir.VectorType(ir.IntType(32), 8), ir.VectorType(ir.FloatType(), 8)


class Whole:
    """8 integers of 32 bits of a program that is being written, as :class:`jpegdl.kernels.cpu_vectors.Vector` has floats."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    @classmethod
    def load(cls, place: Place, index: Any, further: int = 0) -> "Whole":
        return cls(place.builder, place.builder.bitcast(place.load(index, further).value, _INTEGERS))

    def store(self, place: Place, index: Any, further: int = 0) -> None:
        place.store(Vector(self.builder, self.builder.bitcast(self.value, _FLOATS)), index, further)

    def _of(self, number: "Whole | int") -> Any:
        return number.value if isinstance(number, Whole) else ir.Constant(_INTEGERS, [number] * 8)

    def _write(self, instruction: str, other: "Whole | int") -> "Whole":
        return Whole(self.builder, getattr(self.builder, instruction)(self.value, self._of(other)))

    def __add__(self, other: "Whole | int") -> "Whole":
        return self._write("add", other)

    def __sub__(self, other: "Whole | int") -> "Whole":
        return self._write("sub", other)

    def __mul__(self, other: "Whole | int") -> "Whole":
        return self._write("mul", other)

    def __lshift__(self, bits: int) -> "Whole":
        return self._write("shl", bits)

    def __rshift__(self, bits: int) -> "Whole":
        return self._write("ashr", bits)

    def where(self, condition: str, than: "Whole | int", otherwise: "Whole | int") -> "Whole":
        """This where it compares so, and ``otherwise`` elsewhere."""
        truth = self.builder.icmp_signed(condition, self.value, self._of(than))
        return Whole(self.builder, self.builder.select(truth, self.value, self._of(otherwise)))

    def where_not_negative(self, other: "Whole") -> "Whole":
        """This, and less this where the other is negative."""
        negative = self.builder.icmp_signed("<", other.value, self._of(0))
        return Whole(self.builder, self.builder.select(negative, (self * -1).value, self.value))

    def clamp(self, least: int, most: int) -> "Whole":
        lifted = self.where(">", least, least)
        return lifted.where("<", most, most)

    def shuffled(self, other: "Whole", order: list[int]) -> "Whole":
        """Of the 16 numbers of both, those in ``order``."""
        return Whole(self.builder, self.builder.shuffle_vector(self.value, other.value, ir.Constant(_INTEGERS, order)))


def _transpose(x: list[Whole]) -> list[Whole]:
    """8x8 numbers: pairs of rows interleaved, then pairs of pairs, then halves put together."""
    singles = ([0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15])
    x = [x[i].shuffled(x[i + 1], order) for i in (0, 2, 4, 6) for order in singles]
    pairs = ([0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15])
    x = [x[i].shuffled(x[i + 2], order) for i in (0, 1, 4, 5) for order in pairs]
    halves = ([0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15])
    return [x[i].shuffled(x[i + 4], order) for order in halves for i in range(4)]


@vector_function()
def code(plane, x, width, steps, inverses):
    """The block at column x of a (8, width) plane of samples 0..255 to what a decoder makes of it, in place.

    ``steps`` are q and half of 8 q, (2, 64), whole numbers; ``inverses`` 1 / (8 q).
    """
    builder, zero = plane.builder, x.type(0)
    place = [builder.add(x, builder.mul(width, x.type(y))) for y in range(8)]
    rows = [Whole.load(plane, place[y]) - 128 for y in range(8)]
    z = forward_pass(_transpose(forward_pass(_transpose(rows), first=True)), first=False)
    for v in range(8):
        q, half = Whole.load(steps, zero, 8 * v), Whole.load(steps, zero, 64 + 8 * v)
        magnitude = z[v].where(">", 0, z[v] * -1) + half
        # Exact: the quotient's error is smaller than 2^-23 of it, and that of whole numbers less than 2^22 lies, with the half
        # that is added, at least 1 / (16 q) from the next whole number.
        quotient = Vector(builder, builder.sitofp(magnitude.value, _FLOATS)) + 0.5
        level = Whole(builder, builder.fptosi((quotient * inverses.load(zero, 8 * v)).value, _INTEGERS))
        value = level * q
        z[v] = value.where_not_negative(z[v])
    samples = _transpose(inverse_pass(_transpose(inverse_pass(z, first=True)), first=False))
    for y in range(8):
        (samples[y] + 128).clamp(0, 255).store(plane, place[y])


@vector_function()
def residuals(plane, x, width, steps, inverses, straight, out):
    """What a step's gradient is made of, from the block at column x of a plane of samples: k - z / q of each coefficient to
    ``out``, 64, vertical frequency fastest; where ``straight`` is 0 in place of 1, k alone."""
    builder, zero = plane.builder, x.type(0)
    rows = [Whole.load(plane, builder.add(x, builder.mul(width, x.type(y)))) - 128 for y in range(8)]
    z = forward_pass(_transpose(forward_pass(_transpose(rows), first=True)), first=False)
    found = []
    for v in range(8):
        half, inverse = Whole.load(steps, zero, 64 + 8 * v), inverses.load(zero, 8 * v)
        magnitude = z[v].where(">", 0, z[v] * -1)
        level = Vector(builder, builder.sitofp((magnitude + half).value, _FLOATS)) + 0.5
        level = Vector(builder, builder.sitofp(builder.fptosi((level * inverse).value, _INTEGERS), _FLOATS))
        rest = level - Vector(builder, builder.sitofp(magnitude.value, _FLOATS)) * inverse * straight
        negative = builder.icmp_signed("<", z[v].value, ir.Constant(_INTEGERS, [0] * 8))
        signed = Vector(builder, builder.select(negative, (-rest).value, rest.value))
        found.append(Whole(builder, builder.bitcast(signed.value, _INTEGERS)))
    for u, column in enumerate(_transpose(found)):
        column.store(out, zero, 8 * u)


@compiled
def prepare(table, steps, inverses):
    for v in range(8):
        for u in range(8):
            q = int32(table[v, u])
            steps[0, 8 * v + u], steps[1, 8 * v + u] = q, 4 * q
            inverses[8 * v + u] = float32(1) / float32(8 * q)
