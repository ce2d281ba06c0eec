"""A small language for numba: programs in vectors of float32 or of integers, which become the machine's own instructions.

:func:`vector_function` makes a function for numba of a Python function that writes the program once, while numba compiles. A
vector has one row of 8 numbers of each of ``BESIDE`` blocks that lie side by side.
"""

# mypy: disable-error-code="no-untyped-call, attr-defined"

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import numba
from llvmlite import binding, ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np import arrayobj

# No "reassoc" and no "nnan": a NaN must stay one.
FLAGS = ("contract", "nsz", "arcp")


def _blocks_beside() -> int:
    """Two where the processor that numba compiles for has registers of 512 bits."""
    named = numba.config.CPU_FEATURES
    if named is None:
        return 2 if numba.config.CPU_NAME is None and binding.get_host_cpu_features().get("avx512f") else 1
    return 2 if "+avx512f" in named else 1


#: Blocks that are worked on at a time.
BESIDE = _blocks_beside()
#: Numbers of a vector.
LANES = 8 * BESIDE
_FLOATS, _INTEGERS = ir.VectorType(ir.FloatType(), LANES), ir.VectorType(ir.IntType(32), LANES)


class Vector:
    """float32 of a program that is being written: arithmetic with it writes instructions."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    def _write(self, instruction: str, other: "Vector | float") -> "Vector":
        return Vector(self.builder, getattr(self.builder, instruction)(self.value, self.like(other).value, flags=FLAGS))

    def like(self, number: "Vector | float") -> "Vector":
        return number if isinstance(number, Vector) else Vector(self.builder, ir.Constant(_FLOATS, [number] * LANES))

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
        """Truth values; false where there is NaN."""
        return self.builder.fcmp_ordered("<", self.value, self.like(other).value)

    def __gt__(self, other: "Vector | float") -> Any:
        return self.like(other) < self

    def clamp(self, least: "Vector | float", most: "Vector | float") -> "Vector":
        """NaN becomes ``least``."""
        lifted = where(self > least, self, least)
        return where(lifted < most, lifted, most)

    def whole(self) -> "Whole":
        """As integers, what is behind the point cut off."""
        return Whole(self.builder, self.builder.fptosi(self.value, _INTEGERS))

    def bits(self) -> "Whole":
        """The same bits, as integers."""
        return Whole(self.builder, self.builder.bitcast(self.value, _INTEGERS))


class Whole:
    """Integers of 32 bits of a program that is being written, as :class:`Vector` has floats."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.builder, self.value = builder, value

    def _of(self, number: "Whole | int") -> Any:
        return number.value if isinstance(number, Whole) else ir.Constant(_INTEGERS, [_signed(number)] * LANES)

    def _write(self, instruction: str, other: "Whole | int") -> "Whole":
        return Whole(self.builder, getattr(self.builder, instruction)(self.value, self._of(other)))

    def __add__(self, other: "Whole | int") -> "Whole":
        return self._write("add", other)

    def __sub__(self, other: "Whole | int") -> "Whole":
        return self._write("sub", other)

    def __mul__(self, other: "Whole | int") -> "Whole":
        return self._write("mul", other)

    def __xor__(self, other: "Whole | int") -> "Whole":
        return self._write("xor", other)

    def __lshift__(self, bits: int) -> "Whole":
        return self._write("shl", bits)

    def __rshift__(self, bits: int) -> "Whole":
        return self._write("ashr", bits)

    def shifted_in(self, bits: int) -> "Whole":
        """To the right, zeros coming in."""
        return self._write("lshr", bits)

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

    def floats(self) -> Vector:
        return Vector(self.builder, self.builder.sitofp(self.value, _FLOATS))

    def bits(self) -> Vector:
        """The same bits, as floats."""
        return Vector(self.builder, self.builder.bitcast(self.value, _FLOATS))


def _signed(number: int) -> int:
    return (number + (1 << 31)) % (1 << 32) - (1 << 31)


V = TypeVar("V", Vector, Whole)
F = TypeVar("F", bound=Callable[..., Any])


def _shuffled(one: V, other: V, order: list[int]) -> V:
    """Of the 16 numbers that a block has in both, those in ``order``; of each block alike."""
    mask = [8 * block + (i if i < 8 else i - 8 + LANES) for block in range(BESIDE) for i in order]
    return type(one)(one.builder, one.builder.shuffle_vector(one.value, other.value, ir.Constant(_INTEGERS, mask)))


def transpose(x: list[V]) -> list[V]:
    """8x8 numbers of each block: pairs of rows interleaved, then pairs of pairs, then halves put together."""
    singles = ([0, 8, 1, 9, 4, 12, 5, 13], [2, 10, 3, 11, 6, 14, 7, 15])
    x = [_shuffled(x[i], x[i + 1], order) for i in (0, 2, 4, 6) for order in singles]
    pairs = ([0, 1, 8, 9, 4, 5, 12, 13], [2, 3, 10, 11, 6, 7, 14, 15])
    x = [_shuffled(x[i], x[i + 2], order) for i in (0, 1, 4, 5) for order in pairs]
    halves = ([0, 1, 2, 3, 8, 9, 10, 11], [4, 5, 6, 7, 12, 13, 14, 15])
    return [_shuffled(x[i], x[i + 4], order) for order in halves for i in range(4)]


def where(condition: Any, then: Vector, otherwise: Vector | float) -> Vector:
    return Vector(then.builder, then.builder.select(condition, then.value, then.like(otherwise).value))


def larger(one: Vector, other: Vector | float) -> Vector:
    return where(one > other, one, other)


def _called(name: str, x: Vector) -> Vector:
    kind = ir.FunctionType(_FLOATS, [_FLOATS])
    function = cgutils.get_or_insert_function(x.builder.module, kind, f"llvm.{name}.v{LANES}f32")
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
    return (p.bits() + (n.whole() << 23)).bits()


class Place:
    """The place in memory of an array whose numbers are read and written a vector at a time."""

    def __init__(self, builder: Any, pointer: Any) -> None:
        self.builder, self.pointer = builder, pointer

    def _at(self, index: Any, further: int) -> Any:
        place = self.builder.gep(self.pointer, [self.builder.add(index, index.type(further))])
        return self.builder.bitcast(place, _FLOATS.as_pointer())

    def load(self, index: Any, further: int = 0) -> Vector:
        return Vector(self.builder, self.builder.load(self._at(index, further), align=4))

    def whole(self, index: Any) -> Any:
        """One integer."""
        return self.builder.load(self.builder.gep(self.pointer, [index]))

    def fetch(self, index: Any) -> None:
        """Have the number's cache line brought near, which is worth it some thousand instructions before it is needed. Nothing
        comes of an index beyond the array."""
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(8).as_pointer(), *[ir.IntType(32)] * 3])
        function = cgutils.get_or_insert_function(self.builder.module, kind, "llvm.prefetch.p0i8")
        pointer = self.builder.bitcast(self.builder.gep(self.pointer, [index]), ir.IntType(8).as_pointer())
        to_read, keep, data = (ir.IntType(32)(number) for number in (0, 3, 1))
        self.builder.call(function, [pointer, to_read, keep, data])

    def store(self, vector: Vector, index: Any, further: int = 0) -> None:
        self.builder.store(vector.value, self._at(index, further), align=4)


def _splat(builder: Any, value: Any, kind: Any) -> Any:
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.IntType(32)(0))
    return builder.shuffle_vector(one, one, ir.Constant(_INTEGERS, [0] * LANES))


def lanes_of(builder: Any, numbers: list[Any]) -> Whole:
    """The lower 32 bits of integers, one for each block beside another, in each of its 8 lanes."""
    narrow = [builder.trunc(number, ir.IntType(32)) if number.type.width > 32 else number for number in numbers]
    values = [_splat(builder, number, _INTEGERS) for number in narrow]
    if len(values) == 1:
        return Whole(builder, values[0])
    order = [block * LANES + 8 * block + i for block in range(BESIDE) for i in range(8)]
    return Whole(builder, builder.shuffle_vector(values[0], values[1], ir.Constant(_INTEGERS, order)))


def counted(builder: Any) -> Whole:
    """The place of each number in its block's row: 0 to 7."""
    return Whole(builder, ir.Constant(_INTEGERS, list(range(8)) * BESIDE))


def named(name: str) -> Callable[[F], F]:
    """Give a function that a factory makes a name of its own, before it is compiled.

    numba names compiled code by qualified name, types, and a number that each process counts for itself. If two processes
    compile and cache two functions of one name, a third process, which loads both, takes the first for the second.
    """

    def rename(function: F) -> F:
        function.__qualname__ += f".{name}"
        return function

    return rename


def vector_function(result: Any = types.void) -> Callable[[Callable[..., Any]], Any]:
    """Make a function for numba of one that writes its instructions.

    The latter is given a :class:`Place` for each array, a :class:`Vector` for each float32, in each lane the same number, and
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
                        given.append(Vector(builder, _splat(builder, value, _FLOATS)))
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
