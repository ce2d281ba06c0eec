"""Bounds and choices of settings, as the types of their fields have them."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np
import pytest

from jpegdl.errors import UsageError
from jpegdl.settings import Count, Positive, Quality, Range, as_typed, check_fields, in_words


@dataclass
class Inner:
    lr: Positive = 0.1
    name: Literal["sgd", "adam"] = "sgd"


@dataclass
class Outer:
    epochs: Count = 3
    share: Annotated[float, Range(0, 1, below=True)] = 0.0
    limit: Count | None = None
    seeds: Count | list[Quality] = 3
    names: list[Literal["a", "b"]] = field(default_factory=list)
    pairs: list[list[Annotated[int, Range(0, 7)]]] = field(default_factory=list)
    text: str = "free"
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 0}, "epochs must be at least 1, got 0"),
        ({"epochs": "3"}, "epochs must be a whole number, got '3'"),
        ({"epochs": 1.5}, "epochs must be a whole number, got 1.5"),
        ({"epochs": True}, "epochs must be a whole number, got True"),
        ({"epochs": None}, "epochs must be a whole number, got None"),
        ({"share": 1}, "share must be at least 0 and less than 1, got 1"),
        ({"share": "much"}, "share must be a number, got 'much'"),
        ({"limit": 0}, "limit must be at least 1, or null, got 0"),
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"seeds": [1, 101]}, "seeds must each be from 1 to 100, got 101"),
        ({"names": ["a", "c"]}, "names must each be one of a, b, got 'c'"),
        ({"names": "a"}, "names must be a list, got 'a'"),
        ({"pairs": [[0, 1], [0, 8]]}, "pairs must each be from 0 to 7, got 8"),
        ({"inner": Inner(lr=0)}, "inner.lr must be greater than 0, got 0"),
        ({"inner": Inner(lr=math.inf)}, "inner.lr must be finite and greater than 0, got inf"),
        ({"inner": Inner(lr=math.nan)}, "inner.lr must be finite and greater than 0, got nan"),
        ({"inner": Inner(name="sdg")}, "inner.name must be one of sgd, adam, got 'sdg'"),
    ],
)
def test_what_is_out_of_bounds_is_named(settings, message):
    with pytest.raises(UsageError) as error:
        check_fields(Outer(**settings))
    assert str(error.value) == message
    with pytest.raises(UsageError, match=r"^training\."):
        check_fields(Outer(**settings), "training.")


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"epochs": np.int64(1), "share": np.float32(0.5)},
        {"share": 0, "limit": 5, "seeds": [1, 100], "names": ("a", "b"), "pairs": [[0, 7], []]},
        {"text": 5},  # of other types nothing is said
    ],
)
def test_what_is_within(settings):
    check_fields(Outer(**settings))


@pytest.mark.parametrize(
    ("value", "typed"),
    [
        (["plain", "jpeg-dl"], "plain,jpeg-dl"),
        ([1.0, 2.5], "1.0,2.5"),
        ([], "[]"),
        ([[0, 1], [3, 3]], "[[0, 1], [3, 3]]"),
        (True, "true"),
        (None, "null"),
        ("x", "x"),
        ({"a": 1}, '{"a": 1}'),
    ],
)
def test_values_as_they_are_typed(value, typed):
    assert as_typed(value) == typed


def test_types_in_words():
    assert in_words(Count | None) == "a whole number or null"
    assert in_words(float | list[Positive]) == "a number or a list of numbers (1,2.5)"
    assert in_words(list[Literal["a", "b"]]) == "some of a, b"
    assert in_words(list[list[int]]) == "a list of lists ('[[1, 2], [3, 4]]')"
