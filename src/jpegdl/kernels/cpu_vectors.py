"""A small language for numba: programs in vectors of 8 float32, which become vector instructions on whatever the machine has.

:func:`vector_function` makes a function for numba of a Python function that writes the program once, while numba compiles.
"""

# mypy: disable-error-code="no-untyped-call, attr-defined"

import inspect
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np import arrayobj

# No "reassoc" and no "nnan": a NaN must stay one.
FLAGS = ("contract", "nsz", "arcp")
_FLOATS, _INTEGERS = ir.VectorType(ir.FloatType(), 8), ir.VectorType(ir.IntType(32), 8)


class Vector:
    """8 float32 of a program that is being written: arithmetic with it writes instructions."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    def _write(self, instruction: str, other: "Vector | float") -> "Vector":
        return Vector(self.builder, getattr(self.builder, instruction)(self.value, self.like(other).value, flags=FLAGS))

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
