# SPDX-License-Identifier: MIT
"""Checks of arguments: `TypeError` names the argument, `ValueError` names the argument and its limit.

Each function returns the argument in its plain form, so that a check and a conversion are one statement. An integer is anything
with `__index__`, also numpy's integers, but not a bool. Nothing here knows about VFIO; all other modules may import this one.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from enum import Enum
from functools import wraps
from math import inf, isnan
from operator import index
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")
E = TypeVar("E", bound=Enum)
F = TypeVar("F", bound=Callable[..., Any])
#: a check: it is given a value and the argument's name, and returns the value in its plain form
Check: TypeAlias = "Callable[[Any, str], Any]"

U8_LAST = 2**8 - 1
U16_LAST = 2**16 - 1
U32_LAST = 2**32 - 1
U64_LAST = 2**64 - 1
#: the largest page size, in bytes, that fits in 64 bits
PAGE_SIZE_LAST = 2**63


def integer(value: object, name: str, least: int | None = None, most: int | None = None) -> int:
    """Return an integer within limits, both included.

    :param name: the argument's name, for the message
    :raises TypeError: it is not an integer
    :raises ValueError: it is below `least` or above `most`
    """
    if type(value) is int:
        number = value
    else:
        # numpy's bool has no __index__ since numpy 2; before, it had a deprecated one.
        if isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):
            raise wrong_type(value, name, "an integer")
        try:
            number = index(value)  # type: ignore[arg-type]  # the except handles objects without __index__
        except TypeError:
            raise wrong_type(value, name, "an integer") from None
    if least is not None and number < least:
        raise ValueError(f"{name} must be at least {limit(least)}, not {limit(number)}")
    if most is not None and number > most:
        raise ValueError(f"{name} must be at most {limit(most)}, not {limit(number)}")
    return number


def u8(value: object, name: str) -> int:
    """Return an unsigned 8-bit integer."""
    return integer(value, name, 0, U8_LAST)


def u16(value: object, name: str) -> int:
    """Return an unsigned 16-bit integer."""
    return integer(value, name, 0, U16_LAST)


def u32(value: object, name: str) -> int:
    """Return an unsigned 32-bit integer."""
    return integer(value, name, 0, U32_LAST)


def u64(value: object, name: str) -> int:
    """Return an unsigned 64-bit integer: an address, or a size that the kernel keeps in 64 bits."""
    return integer(value, name, 0, U64_LAST)


def s32(value: object, name: str) -> int:
    """Return a signed 32-bit integer, such as a file descriptor."""
    return integer(value, name, -(2**31), 2**31 - 1)


def size(value: object, name: str = "size") -> int:
    """Return a number of bytes, 1 to 2^64."""
    return integer(value, name, 1, U64_LAST + 1)


def power_of_two(value: object, name: str, most: int = PAGE_SIZE_LAST) -> int:
    """Return a power of two.

    :raises ValueError: it is not one, or above `most`
    """
    number = integer(value, name, 1, most)
    if number & (number - 1):
        raise ValueError(f"{name} must be a power of two, not {limit(number)}")
    return number


def page_size(value: object, name: str = "page_size") -> int:
    """Return a page size in bytes: a power of two, 1 to 2^63."""
    return power_of_two(value, name)


def boolean(value: object, name: str) -> bool:
    """Return a bool; numpy's is one too."""
    if isinstance(value, bool):
        return value
    if type(value).__name__ in ("bool", "bool_"):
        return bool(value)
    raise wrong_type(value, name, "a bool")


def string(value: object, name: str) -> str:
    """Return a str."""
    if not isinstance(value, str):
        raise wrong_type(value, name, "a str")
    return value


def choice(value: T, name: str, choices: Collection[T]) -> T:
    """Return one of several values.

    :raises ValueError: it is not one of them; the message lists them
    """
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, not {value!r}")
    return value


def member(value: object, name: str, kind: type[E]) -> E:
    """Return a member of an enumeration, given it, its value, or its name in any case (`"stop_copy"`).

    :raises ValueError: there is no such member; the message lists the names
    """
    if isinstance(value, kind):
        return value
    # The enumeration itself would accept a float or a bool that equals a member's value.
    if isinstance(value, bool | float) or type(value).__name__ in ("bool", "bool_"):
        raise wrong_type(value, name, _a(kind))
    if isinstance(value, str) and value.upper().replace("-", "_") in kind.__members__:
        return kind[value.upper().replace("-", "_")]
    try:
        return kind(value)
    except ValueError:
        names = ", ".join(each.lower() for each in kind.__members__)
        raise ValueError(f"{name} must be one of {names}, not {value!r}") from None


def instance(value: object, name: str, kind: type[T], called: str | None = None) -> T:
    """Return an object of a class.

    :param called: the name of the class in the message, for example "a pyvfio.Device"
    """
    if not isinstance(value, kind):
        raise wrong_type(value, name, called or _a(kind))
    return value


def instances(value: Iterable[T], name: str, kind: type[T]) -> list[T]:
    """Return the objects of an iterable, each of a class."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise wrong_type(value, name, f"an iterable of {kind.__name__}")
    items = list(value)
    for item in items:
        if not isinstance(item, kind):
            raise TypeError(f"{name} must have {kind.__name__} objects only, not {type(item).__name__}")
    return items


def strings(value: object, name: str) -> list[str]:
    """Return the strings of an iterable that is not itself a string."""
    if isinstance(value, str | bytes) or not isinstance(value, Iterable):
        raise wrong_type(value, name, "an iterable of str")
    items = list(value)
    for item in items:
        if not isinstance(item, str):
            raise TypeError(f"{name} must have str objects only, not {type(item).__name__}")
    return items


def function(value: F, name: str) -> F:
    """Return something that can be called."""
    if not callable(value):
        raise wrong_type(value, name, "a function")
    return value


def seconds(value: object, name: str = "timeout") -> float:
    """Return a time in seconds, finite and not negative; numpy's numbers are numbers too."""
    number = _float(value, name)
    if isnan(number) or number == inf or number < 0:
        raise ValueError(f"{name} must be a number of seconds, 0 or more and finite, not {value}")
    return number


def seconds_or_none(value: object, name: str = "timeout") -> float | None:
    """Return a time in seconds, or None for a wait without an end, which `math.inf` means too."""
    if value is None:
        return None
    number = _float(value, name)
    return None if number == inf else seconds(value, name)


def time_left(value: object, name: str = "timeout") -> float | None:
    """Return a time to wait in seconds: None or inf for a wait without an end, 0 for a time that has passed already."""
    if value is None:
        return None
    number = _float(value, name)
    if isnan(number):
        raise ValueError(f"{name} must be a number of seconds, not {value}")
    return None if number == inf else max(0.0, number)


def _float(value: object, name: str) -> float:
    if isinstance(value, bool | str | bytes) or not (hasattr(value, "__float__") or hasattr(value, "__index__")):
        raise wrong_type(value, name, "a number of seconds")
    try:
        return float(value)  # type: ignore[arg-type]  # one of the two methods is there
    except OverflowError:
        raise ValueError(f"{name} must be a number of seconds that a float can hold, not {value}") from None
    except TypeError:
        raise wrong_type(value, name, "a number of seconds") from None


def path(value: object, name: str = "path") -> str:
    """Return a path as text."""
    if not isinstance(value, str | os.PathLike):
        raise wrong_type(value, name, "a str or an os.PathLike")
    return os.fsdecode(value)


def octets(value: object, name: str) -> memoryview:
    """Return the bytes of an object with a contiguous buffer, as a view of its memory."""
    try:
        return memoryview(value).cast("B")  # type: ignore[arg-type]  # the except handles objects without a buffer
    except TypeError:
        raise wrong_type(value, name, "an object with a contiguous buffer, such as bytes") from None


def named_index(value: object, name: str, count: int, names: Sequence[str]) -> int:
    """Return an index of a sequence, given it (negative ones count from the end) or a name in any case.

    :param names: the names of the first indexes
    :raises IndexError: there is no such index
    :raises ValueError: there is no such name; the message lists the names
    """
    if isinstance(value, str):
        known = [each.upper() for each in names[:count]]
        if value.upper() not in known:
            raise ValueError(
                f"{name} must be a number below {count}{' or one of ' if known else ''}{', '.join(known)}, not {value!r}"
            )
        return known.index(value.upper())
    number = integer(value, name)
    if not -count <= number < count:
        raise IndexError(f"{name} {number} does not exist; there are {count}")
    return number % count


def within(least: int, most: int) -> Check:
    """Return the check for an integer within limits, both included."""
    return lambda value, name: integer(value, name, least, most)


def optional(check: Check) -> Check:
    """Return the check that takes None too."""
    return lambda value, name: None if value is None else check(value, name)


def every(check: Check) -> Check:
    """Return the check for an iterable of values, which it returns as a tuple."""

    def values(value: object, name: str) -> tuple[Any, ...]:
        if isinstance(value, str | bytes) or not isinstance(value, Iterable):
            raise wrong_type(value, name, "an iterable")
        return tuple(check(item, name) for item in value)

    return values


def of_class(kind: type[Any]) -> Check:
    """Return the check for an object of a class."""
    return lambda value, name: instance(value, name, kind)


def member_of(kind: type[Enum]) -> Check:
    """Return the check for a member of an enumeration, as :func:`member` takes it."""
    return lambda value, name: member(value, name, kind)


def checked(**checks: Check) -> Callable[[type[T]], type[T]]:
    """Check the fields of a NamedTuple when one is made, and when `_replace` changes one; for use as a decorator.

    :param checks: name of a field -> its check
    """

    def enter(kind: Any) -> Any:
        make, replace = kind.__new__, tuple.__new__
        plan = [(kind._fields.index(name), name, check) for name, check in checks.items()]

        @wraps(make)
        def new(cls: Any, *values: Any, **more: Any) -> Any:
            made = make(cls, *values, **more)
            fields = list(made)
            for at, name, check in plan:
                plain = check(fields[at], name)
                # Keep a member of an IntEnum, which the check turns into a plain integer.
                if not isinstance(fields[at], int):
                    fields[at] = plain
            return replace(cls, fields)

        kind.__new__ = new
        kind._make = classmethod(lambda cls, values: cls(*values))
        return kind

    return enter


def _a(kind: type[Any]) -> str:
    """Return a class's name with its article."""
    return f"{'an' if kind.__name__[0] in 'AEIOU' else 'a'} {kind.__name__}"


def wrong_type(value: object, name: str, wanted: str) -> TypeError:
    """Return the TypeError for an argument of a wrong type.

    :param wanted: the expected type, with its article: "an integer"
    """
    return TypeError(f"{name} must be {wanted}, not {type(value).__name__}")


def limit(number: int) -> str:
    """Return a number as messages show it: powers of two as such, small ones in decimal, others in hex."""
    if -1024 < number < 1024:
        return str(number)
    if number > 0 and not number & (number - 1):
        return f"2^{number.bit_length() - 1}"
    if number > 0 and not number & (number + 1):
        return f"2^{number.bit_length()}-1"
    return f"{number:#x}"
