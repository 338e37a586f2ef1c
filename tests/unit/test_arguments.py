# SPDX-License-Identifier: MIT
"""Checks of arguments."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
import re
from enum import IntEnum
from typing import Any, NamedTuple

import numpy
import pytest

from pyvfio._core import arguments


class Mood(IntEnum):
    GOOD = 1
    VERY_GOOD = 2


class Indexed:
    def __index__(self) -> int:
        return 7


@pytest.mark.parametrize("value", [7, numpy.uint8(7), numpy.int64(7), Indexed()])
def test_integer_takes_whatever_has_index(value: Any) -> None:
    number = arguments.integer(value, "count")
    assert number == 7
    assert type(number) is int


@pytest.mark.parametrize("value", [True, numpy.bool_(True), 7.0, "7", None, b"7", [7]])
def test_integer_refuses_other_types_by_name(value: Any) -> None:
    with pytest.raises(TypeError, match=f"^count must be an integer, not {type(value).__name__}$"):
        arguments.integer(value, "count")


@pytest.mark.parametrize(
    ("check", "value", "message"),
    [
        (arguments.u8, 256, "x must be at most 255, not 256"),
        (arguments.u16, 2**16, "x must be at most 2^16-1, not 2^16"),
        (arguments.u32, -1, "x must be at least 0, not -1"),
        (arguments.u64, 2**64, "x must be at most 2^64-1, not 2^64"),
        (arguments.u64, -4096, "x must be at least 0, not -0x1000"),
        (arguments.s32, 2**31, "x must be at most 2^31-1, not 2^31"),
        (arguments.size, 0, "x must be at least 1, not 0"),
        (arguments.page_size, 0, "x must be at least 1, not 0"),
        (arguments.page_size, 4097, "x must be a power of two, not 0x1001"),
        (arguments.page_size, 2**64, "x must be at most 2^63, not 2^64"),
    ],
)
def test_limit_and_name_are_in_the_message(check: Any, value: int, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        check(value, "x")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (arguments.u64, 2**64 - 1),
        (arguments.u32, 0),
        (arguments.size, 2**64),
        (arguments.page_size, 1),
        (arguments.page_size, 2**63),
        (arguments.s32, -(2**31)),
    ],
)
def test_limits_are_inclusive(check: Any, value: int) -> None:
    assert check(value, "x") == value


@pytest.mark.parametrize("value", [0, 0.5, 3, numpy.float32(2), numpy.int8(1)])
def test_seconds_take_numbers(value: Any) -> None:
    assert arguments.seconds(value) == float(value)
    assert arguments.seconds_or_none(value) == float(value)


@pytest.mark.parametrize("value", [-1, math.nan, -math.inf, 10**400])
def test_seconds_refuse_what_is_no_time(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^timeout must be a number of seconds"):
        arguments.seconds(value)
    with pytest.raises(ValueError, match=r"^timeout must be a number of seconds"):
        arguments.seconds_or_none(value)


def test_only_a_wait_may_be_without_end() -> None:
    assert arguments.seconds_or_none(None) is None
    assert arguments.seconds_or_none(math.inf) is None
    with pytest.raises(ValueError, match="finite"):
        arguments.seconds(math.inf)
    with pytest.raises(TypeError, match="timeout"):
        arguments.seconds(None)


@pytest.mark.parametrize("value", ["10", b"1", True, [1], 1j])
def test_seconds_refuse_other_types(value: Any) -> None:
    with pytest.raises(TypeError, match=r"^timeout must be a number of seconds, not "):
        arguments.seconds(value)


@pytest.mark.parametrize("value", [Mood.VERY_GOOD, 2, "very_good", "VERY-GOOD"])
def test_member_takes_itself_its_value_and_its_name(value: Any) -> None:
    assert arguments.member(value, "mood", Mood) is Mood.VERY_GOOD


def test_member_lists_the_names_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"^mood must be one of good, very_good, not 'bad'$"):
        arguments.member("bad", "mood", Mood)
    with pytest.raises(TypeError, match=r"^mood must be a Mood, not bool$"):
        arguments.member(True, "mood", Mood)
    # 2.0 is equal to the member's value.
    with pytest.raises(TypeError, match=r"^mood must be a Mood, not float$"):
        arguments.member(2.0, "mood", Mood)


@arguments.checked(
    number=arguments.u8,
    mood=arguments.member_of(Mood),
    words=arguments.every(arguments.string),
    other=arguments.optional(arguments.within(1, 9)),
)
class Report(NamedTuple):
    number: int
    mood: Mood = Mood.GOOD
    words: tuple[str, ...] = ()
    other: int | None = None
    free: object = None


def test_checked_fields_are_kept_in_plain_form() -> None:
    made = Report(numpy.uint8(3), "very-good", ["a", "b"], other=4)  # type: ignore[arg-type]
    assert tuple(made) == (3, Mood.VERY_GOOD, ("a", "b"), 4, None)
    assert type(made.number) is int
    assert Report(Mood.GOOD).number is Mood.GOOD
    assert pickle.loads(pickle.dumps(made)) == copy.copy(made) == made
    assert type(made._replace(number=numpy.int64(5))) is Report  # type: ignore[arg-type]
    assert list(inspect.signature(Report).parameters) == ["number", "mood", "words", "other", "free"]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"number": True}, "number must be an integer, not bool"),
        ({"number": 256}, "number must be at most 255, not 256"),
        ({"mood": "bad"}, "mood must be one of good, very_good, not 'bad'"),
        ({"words": "ab"}, "words must be an iterable, not str"),
        ({"words": ["a", 5]}, "words must be a str, not int"),
        ({"other": 10}, "other must be at most 9, not 10"),
    ],
)
def test_checked_fields_are_refused_by_name(fields: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(message)}$"):
        Report(**{"number": 1, **fields})
    with pytest.raises((TypeError, ValueError), match=f"^{re.escape(message)}$"):
        Report(1)._replace(**fields)


def test_strings_are_no_string() -> None:
    assert arguments.strings(("a", "b"), "names") == ["a", "b"]
    with pytest.raises(TypeError, match=r"^names must be an iterable of str, not str$"):
        arguments.strings("ab", "names")
    with pytest.raises(TypeError, match=r"^names must have str objects only, not int$"):
        arguments.strings(["a", 5], "names")


def test_plain_types_by_name() -> None:
    assert arguments.boolean(numpy.bool_(False), "write") is False
    with pytest.raises(TypeError, match=r"^write must be a bool, not str$"):
        arguments.boolean("off", "write")
    with pytest.raises(TypeError, match=r"^address must be a str, not NoneType$"):
        arguments.string(None, "address")
    with pytest.raises(TypeError, match=r"^space must be a pyvfio.AddressSpace, not int$"):
        arguments.instance(5, "space", dict, "a pyvfio.AddressSpace")
    with pytest.raises(TypeError, match=r"^strategy must be a function, not int$"):
        arguments.function(5, "strategy")  # type: ignore[type-var]
    with pytest.raises(ValueError, match=r"^mode must be one of a, b, not 'c'$"):
        arguments.choice("c", "mode", ("a", "b"))
