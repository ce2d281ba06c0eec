"""Bounds and choices of settings as the types of their fields, and the one check that holds settings against them."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from jpegdl.errors import UsageError


@dataclass(frozen=True)
class Range:
    """Bounds of a number, for the type of a field: ``Annotated[int, Range(1)]``. No number that is not finite is within any.

    Args:
        low: the least.
        high: the largest.
        above: leave out ``low`` itself.
        below: leave out ``high`` itself.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, number: float) -> bool:
        low = self.low < number if self.above else self.low <= number
        high = number < self.high if self.below else number <= self.high
        return math.isfinite(number) and low and high

    def __repr__(self) -> str:
        low = f"{'greater than' if self.above else 'at least'} {_number(self.low)}"
        high = f"{'less than' if self.below else 'at most'} {_number(self.high)}"
        if self.low == -math.inf or self.high == math.inf:
            return high if self.low == -math.inf else low
        return f"{low} and {high}" if self.above or self.below else f"from {_number(self.low)} to {_number(self.high)}"


def _number(value: float) -> str:
    return str(int(value)) if math.isfinite(value) and value == int(value) else f"{value:g}"


#: Types of fields that many settings have.
Positive = Annotated[float, Range(0, above=True)]
NotNegative = Annotated[float, Range(0)]
Count = Annotated[int, Range(1)]
Quality = Annotated[int, Range(1, 100)]
LARGEST_SEED = 2**32 - 1  # that NumPy takes
Seed = Annotated[int, Range(0, LARGEST_SEED)]

#: The quantizers of a layer; :class:`jpegdl.JpegLayer` says what each does.
Rounding = Literal["soft", "hard", "sample", "ste", "ste-matched", "noise", "none"]
ROUNDINGS: tuple[Rounding, ...] = get_args(Rounding)


def check_fields(config: Any, prefix: str = "") -> None:
    """Refuse settings, in a dataclass with others in it, that are out of the bounds or not among the choices of their types.

    Args:
        config: a dataclass, with others in it.
        prefix: of the settings' names, with a dot at its end.

    Raises:
        UsageError: names the first such setting, what it is and what it may be.
    """
    for name, kind in _kinds(type(config)).items():  # type: ignore[arg-type]  # a class can be hashed
        value = getattr(config, name)
        if is_dataclass(value):
            check_fields(value, f"{prefix}{name}.")
        else:
            check_value(value, kind, f"{prefix}{name}")


def check_value(value: Any, kind: Any, name: str) -> None:
    """Refuse a value that is out of the bounds or not among the choices of a type; of other types, any.

    Args:
        value: in question.
        kind: the type.
        name: of the setting.

    Raises:
        UsageError: names the setting, what it is and what it may be.
    """
    if wrong := _wrong(value, kind):
        raise UsageError(f"{name} must {wrong}")


@cache
def _kinds(config: Any) -> dict[str, Any]:
    hints = get_type_hints(config, include_extras=True)
    return {field.name: hints[field.name] for field in fields(config)}


def _wrong(value: Any, kind: Any) -> str | None:
    """What a value must be in place of what it is, after ``must``; None where nothing is wrong with it."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return None if value in parts else f"be one of {', '.join(map(str, parts))}, got {value!r}"
    if origin is Annotated:
        bounds = next((part for part in parts[1:] if isinstance(part, Range)), None)
        wanted, words = (Integral, "a whole number") if parts[0] is int else (Real, "a number")
        if bounds is None:
            return _wrong(value, parts[0])
        if not isinstance(value, wanted) or isinstance(value, bool):
            return f"be {words}, got {value!r}"
        finite = "" if math.isfinite(float(value)) else "finite and "
        return None if float(value) in bounds else f"be {finite}{bounds}, got {value!r}"
    if origin is list:
        if isinstance(value, str) or not isinstance(value, Sequence):
            return f"be a list, got {value!r}"
        wrong = next((wrong for item in value if (wrong := _wrong(item, parts[0]))), None)
        return wrong and f"each {wrong.removeprefix('each ')}"
    if origin in (Union, UnionType):
        if value is None and NoneType in parts:
            return None
        found = [_wrong(value, part) for part in parts if part is not NoneType and _may_be(value, part)]
        wrong = found[-1] if found and all(found) else None
        return wrong and (wrong.replace(", got ", ", or null, got ", 1) if NoneType in parts else wrong)
    return None


def _may_be(value: Any, kind: Any) -> bool:
    """Whether a value is looked at as one of a type, among several: numbers are not lists."""
    many = isinstance(value, Sequence) and not isinstance(value, str)
    return (get_origin(kind) is list) is many


def as_typed(value: Any) -> str:
    """Return a value as one would write it on a command line."""
    if isinstance(value, list) and value and not any(isinstance(item, list | dict) for item in value):
        return ",".join(map(as_typed, value))
    return value if isinstance(value, str) else json.dumps(value)


def in_words(kind: Any) -> str:
    """Say what values of a type are on a command line."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(str, parts))}"
    if origin in (Union, UnionType):
        return " or ".join(map(in_words, parts))
    if origin is Annotated:
        return in_words(parts[0])
    if origin is list:
        chosen = get_origin(parts[0]) is Literal
        return f"some of {', '.join(map(str, get_args(parts[0])))}" if chosen else f"a list of {_lists(parts[0])}"
    return _WORDS.get(origin or kind, str(kind))


def _lists(item: Any) -> str:
    while get_origin(item) is Annotated:
        item = get_args(item)[0]
    if get_origin(item) is list:
        return "lists ('[[1, 2], [3, 4]]')"
    return {int: "whole numbers (1,2)", float: "numbers (1,2.5)"}.get(item, "names (one,two)")


_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    NoneType: "null",
    dict: "settings of its own",
}
