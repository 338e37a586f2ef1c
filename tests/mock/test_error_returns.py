# SPDX-License-Identifier: MIT
"""For each errno that the kernel's source can return (returns.tsv), answers.toml names the mock's code that returns it, or a reason."""

from __future__ import annotations

import ast
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from vmtest.error_returns import Return, of_source, read_table

import pyvfio.mock

HERE = Path(__file__).parent / "error_returns"
MOCK = Path(pyvfio.mock.__file__).parent
#: Functions that copy a request's argument, and so return EFAULT for every bad argument.
COPIES = ("machine/caller:read", "machine/caller:write")

ANSWERS = tomllib.loads((HERE / "answers.toml").read_text())
REASONS: dict[str, str] = ANSWERS.pop("reasons")
RETURNS = read_table()


@cache
def source_of(handler: str) -> str:
    """Return the source of a function or class of the mock, given as MODULE:NAME, without docstrings.

    :raises LookupError: the mock has no function or class of that name
    """
    module, _, name = handler.partition(":")
    node: ast.AST = ast.parse((MOCK / f"{module}.py").read_text())
    for part in name.split("."):
        kinds = (ast.FunctionDef, ast.ClassDef)
        there = [one for one in getattr(node, "body", ()) if isinstance(one, kinds) and one.name == part]
        if not there:
            raise LookupError(f"pyvfio.mock has no {handler}")
        node = there[-1]  # the definitions before the last may be overloads
    for one in ast.walk(node):
        if isinstance(one, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(one, clean=False) is not None:
            one.body = one.body[1:] or [ast.Pass()]
    return ast.unparse(node)


def answers(one: Return) -> Iterator[str]:
    """Yield the handlers that return an errno, and the reasons why none does."""
    words = ANSWERS.get(one.file, {}).get(one.function, "").split()
    for word in words:
        number, _, reason = word.partition("=")
        if reason and number == one.errno:
            yield reason
            return
    handlers = [word for word in words if ":" in word]
    found = [handler for handler in handlers if f"errno.{one.errno}" in source_of(handler)]
    if not found and one.errno == "EFAULT":
        found = list(COPIES)
    yield from found
    if not found:
        yield from (word for word in words if word in REASONS)
    if not found and one.errno == "ENOMEM":
        yield "memory"


@pytest.mark.parametrize("file", sorted({one.file for one in RETURNS}))
def test_each_errno_is_answered_or_has_a_reason(file: str) -> None:
    without = [f"{one.function} {one.errno}" for one in RETURNS if one.file == file and not list(answers(one))]
    assert without == []


def test_no_answer_is_left_over() -> None:
    """No entry is stale: every function and errno is in returns.tsv, and every reason is used."""
    there = {(one.file, one.function, one.errno) for one in RETURNS}
    functions = {name[:2] for name in there}
    extra = []
    for file, table in ANSWERS.items():
        for function, words in table.items():
            if (file, function) not in functions:
                extra.append(f"{file} {function}")
            for word in words.split():
                number, _, reason = word.rpartition("=")
                if ":" not in word and (reason not in REASONS or (number and (file, function, number) not in there)):
                    extra.append(f"{file} {function} {word}")
    assert extra == []


def test_every_handler_exists_and_answers_something() -> None:
    used = {word for one in RETURNS for word in answers(one) if ":" in word}
    named = {word for table in ANSWERS.values() for words in table.values() for word in words.split() if ":" in word}
    assert {handler for handler in named if not source_of(handler)} == set()
    assert named - used == set()


def test_reasons_are_the_exception() -> None:
    kinds = Counter("answered" if ":" in next(answers(one), "") else "reason" for one in RETURNS)
    assert kinds["answered"] > kinds["reason"]


def test_errnos_are_found_by_function() -> None:
    text = """
/* return -EPERM; */
#define READ(x) \\
	if (x) \\
		return -EIO;

static int first(int a)
{
	if (a) {
		return -EINVAL; // -ENOENT
	}
	say("-EBUSY");
	return a ? -ENOMEM : -EINVAL;
}

int second(void);
static long
second_of(struct x *x, int b)
{
	return ERR_PTR( -EFAULT);
}
"""
    found = [one[1:] for one in of_source(text, "x.c")]
    assert found == [
        ("READ", "EIO", (5,)),
        ("first", "EINVAL", (10, 13)),
        ("first", "ENOMEM", (13,)),
        ("second_of", "EFAULT", (20,)),
    ]
