# SPDX-License-Identifier: MIT
"""Small changes of a vector's input: of every leaf and every list in turn."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

HEX = re.compile(r"0x[0-9a-f]+\b")


class Mutation(NamedTuple):
    field: str
    """The path of the changed place, without the indices of lists."""
    input: dict[str, Any]


def mutations(
    given: dict[str, Any], words: dict[str, set[str]], also: dict[str, tuple[Any, ...]]
) -> Iterator[Mutation]:
    """Yield every change of one place.

    :param given: the vector's input
    :param words: for a field with text, the texts in other vectors of the operation
    :param also: for a field, further values to try
    """
    for path in list(_paths(given)):
        field = ".".join(str(part) for part in path if not isinstance(part, int))
        value = _get(given, path)
        # The items of a list have the path of the list's field, so try only values of the same type.
        more = [other for other in also.get(field, ()) if isinstance(other, type(value))]
        for other in (*_changed(value, words.get(field, set())), *more):
            changed = copy.deepcopy(given)
            _get(changed, path[:-1])[path[-1]] = other
            yield Mutation(field, changed)


def words_of(vectors: list[dict[str, Any]]) -> dict[str, dict[str, set[str]]]:
    """Return all texts in the vectors, by operation and field."""
    found: dict[str, dict[str, set[str]]] = {}
    for vector in vectors:
        fields = found.setdefault(vector["op"], {})
        for path in _paths(vector["input"]):
            value = _get(vector["input"], path)
            if isinstance(value, str) and not HEX.match(value):
                fields.setdefault(".".join(str(part) for part in path if not isinstance(part, int)), set()).add(value)
    return found


def fields_of(given: dict[str, Any]) -> set[str]:
    """Return the paths of all leaves, without the indices of lists."""
    return {
        ".".join(str(part) for part in path if not isinstance(part, int))
        for path in _paths(given)
        if not isinstance(_get(given, path), (list, dict))
    }


def _paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _paths(inner, (*path, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _paths(inner, (*path, index))


def _get(value: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        value = value[part]
    return value


def _changed(value: Any, words: set[str]) -> Iterator[Any]:
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, value * 2, value // 2, value - 1)
    elif value is None:
        yield from ("0x0", "0x4000000000", "0xffffffffffff")
    elif isinstance(value, str) and (match := HEX.match(value)):
        number = int(match[0], 16)
        for other in (
            number + 0x1000,
            number * 2,
            number // 2,
            number - 0x1000,
            number ^ 1 << 63,
            number ^ 0x800,
            0,
        ):
            if other >= 0 and other != number:
                yield f"0x{other:x}"
    elif isinstance(value, str):
        yield from sorted(words - {value})
    elif isinstance(value, list) and value:
        yield from (value[1:], value[:-1], value[::-1])
