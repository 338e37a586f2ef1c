# SPDX-License-Identifier: MIT
"""scripts/mutants: the changes that are made, the code that is left out, and the outcomes of mutants."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from vmtest.line_map import MeasuredTest, Moves, Session
from vmtest.mutant_session import change_functions
from vmtest.mutants import Equivalents, Result, Serving, repeated, sample
from vmtest.mutation import Mutation, mutations


def changes(source: str) -> set[tuple[str, str]]:
    """Return the kinds of a source's mutations and the whole text after each."""
    text = source.encode()
    return {(m.kind, m.apply(text).decode()) for m in mutations("file.py", text) if m.changes(text)}


@pytest.mark.parametrize(
    ("source", "kind", "after"),
    [
        ("x = a < b", "boundary", "x = (a <= b)"),
        ("x = a < b", "comparison", "x = (a >= b)"),
        ("x = a in b", "comparison", "x = (a not in b)"),
        ("x = 7", "constant", "x = 8"),
        ("x = f(True)", "constant", "x = f(False)"),
        ("x = a and b", "logic", "x = (a or b)"),
        ("x = a and b", "operand", "x = b"),
        ("x = not a", "not", "x = a"),
        ("x = a << b", "arithmetic", "x = (a >> b)"),
        ("x += 1", "arithmetic", "x -= 1"),
        ("x += a", "statement", "pass"),
        ("f(x)", "statement", "pass"),
        ("x.y = a", "statement", "pass"),
        ("raise E", "statement", "pass"),
        ("if a:\n    f()\nelse:\n    g()", "branch", "if (not a):\n    f()\nelse:\n    g()"),
        ("x = a if b else c", "branch", "x = (c if b else a)"),
        ("def f():\n    return a", "return", "def f():\n    return None"),
        ("def f() -> bool:\n    return a", "return", "def f() -> bool:\n    return (not a)"),
        ("x = min(a)", "call", "x = max(a)"),
        ("x = errno.EBUSY", "errno", "x = errno.EIO"),
    ],
)
def test_a_source_is_changed_in_one_place(source: str, kind: str, after: str) -> None:
    assert (kind, after) in changes(source)


@pytest.mark.parametrize(
    "source",
    [
        '"""Docstring."""',
        "x: Literal[1]",
        "def f(x: Literal[1] = y) -> Literal[2]: pass",
        "assert a < 1",
        "if TYPE_CHECKING:\n    x = 1",
        "raise NotImplementedError",
        "x = f'{a < 1}'",
        "x = zip(a, b, strict=True)",
        "@overload\ndef f(x):\n    return a",
    ],
)
def test_what_no_test_can_tell_is_left_alone(source: str) -> None:
    assert changes(source) == set()


def test_text_outside_of_ascii_moves_no_mutation() -> None:
    assert ("constant", "x = 'é', 8  # é") in changes("x = 'é', 7  # é")


def test_a_mutation_knows_its_function_and_statement() -> None:
    source = b"class A:\n    def f(self):\n        g(\n            1,\n        )\n    x = 2\n"
    one, two = (m for m in mutations("file.py", source) if m.kind == "constant")
    assert (one.scope, one.line, one.lines, one.in_function) == ("A.f", 4, (3, 5), True)
    assert (two.scope, two.line, two.lines, two.in_function) == ("A", 6, (6, 6), False)


def test_a_diff_shows_the_line_before_and_after() -> None:
    (mutation,) = mutations("pyvfio/file.py", b"x = 7\n")
    assert mutation.diff(b"x = 7\n").splitlines()[-2:] == ["-x = 7", "+x = 8"]


def test_a_sample_depends_on_its_seed_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = "".join(f"x = {number} + {number}\n" for number in range(50))
    (tmp_path / "file.py").write_text(source)
    monkeypatch.setattr("vmtest.mutants.ROOT", tmp_path)
    every = mutations("file.py", source.encode())
    first = sample(every, 1, 20)
    assert first == sample(every, 1, 20)
    assert first != sample(every, 2, 20)
    assert len({m.line for m in first}) == 20


def test_exactly_the_survivors_of_an_earlier_run_are_repeated(tmp_path: Path) -> None:
    source = b"def f():\n    a = g(0, 0)\n    b = 0\n    a = g(0, 0)\n"
    before = mutations("file.py", source)
    first, second, b, third, fourth = (m for m in before if m.kind == "constant")
    outcomes = {first: "found", second: "survived", b: "found", third: "survived", fourth: "found"}
    log = tmp_path / "log"
    lines = [json.dumps(Result(m, outcome, "")._asdict()) for m, outcome in outcomes.items()]
    # The second entry of a mutant that only an unreliable test had found.
    lines.append(json.dumps(Result(b, "survived", "")._asdict()))
    log.write_text("\n".join(lines))
    assert set(repeated(log, before)) == {second, third, b}
    after = mutations("file.py", b"import x\n\n" + source.replace(b"b = 0", b"b = 1"))
    added = len(b"import x\n\n")
    assert [(m.line, m.start - added) for m in repeated(log, after)] == [(4, second.start), (6, third.start)]


def test_an_equivalent_mutant_is_known_by_its_text(tmp_path: Path) -> None:
    file = tmp_path / "equivalent.toml"
    entry = '[[mutant]]\nfile = "file.py"\nscope = ""\nbefore = "7"\nafter = "8"\nreason = "who cares"\n'
    file.write_text(entry + entry.replace("7", "9"))
    every = mutations("file.py", b"x = 7; y = 1\n")
    listed = Equivalents(file)
    assert {m.before: listed.reason(m) for m in every} == {"7": "who cares", "1": None}
    assert listed.stale(every) == ["file.py : 9 -> 8"]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    file = tmp_path / "pyvfio_changed.py"
    file.write_text("def outer():\n    def inner():\n        return 1\n    return inner\n\nkept = outer()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield file
    sys.modules.pop("pyvfio_changed", None)


def test_functions_that_are_imported_are_changed_in_place(module: Path) -> None:
    import pyvfio_changed  # type: ignore[import-not-found]

    assert change_functions(module, module.read_bytes().replace(b"return 1", b"return 2"))
    assert pyvfio_changed.kept() == 2
    assert pyvfio_changed.outer()() == 2


def test_a_change_outside_of_functions_cannot_be_made_in_place(module: Path) -> None:
    import pyvfio_changed

    assert pyvfio_changed.kept() == 1
    assert not change_functions(module, module.read_bytes().replace(b"kept = outer()", b"kept = outer"))


def judged(folder: Path, after: bytes) -> tuple[str, str]:
    """Return the outcome for a change of a small package with one test, and the test that found it."""
    (folder / "counted.py").write_text("def step(x):\n    return x - 1\n")
    (folder / "test_counted.py").write_text(
        "import counted\n\ndef test_it_ends():\n    x = 3\n    while x:\n        x = counted.step(x)\n        assert x < 4\n"
    )
    session = Session("small", (".",))
    test = MeasuredTest("small", "test_counted.py::test_it_ends", 0, {})
    serving = Serving(folder, session, session.files(folder))
    try:
        serving.seconds = 1
        file = folder / "counted.py"
        answer = serving.run([test], file, file.read_bytes().replace(b"return x - 1", after))
        # A mutant does not affect the next request.
        assert serving.run([test])["outcome"] == "survived"
    finally:
        serving.close()
    return answer["outcome"], answer["test"]


@pytest.mark.parametrize(
    ("after", "outcome"),
    [(b"return x - 1 - 0", "survived"), (b"return x + 1", "found"), (b"return x", "too slow"), (b"import os; os.abort()", "crashed")],
)  # fmt: skip
def test_a_mutant_is_judged_by_its_tests(tmp_path: Path, after: bytes, outcome: str) -> None:
    found, by = judged(tmp_path, after)
    assert found == outcome
    if outcome == "found":
        assert by == "test_counted.py::test_it_ends"


def test_mutations_can_be_written_and_read() -> None:
    (mutation,) = mutations("file.py", b"x = 7\n")
    assert Mutation(*mutation) == mutation


def numbers(bits: int) -> list[int]:
    return [number for number in range(bits.bit_length()) if bits >> number & 1]


@pytest.mark.parametrize(
    ("after", "executed"),
    [
        ("a b c d e", [2, 4]),
        ("x y a b c d e", [4, 6]),
        ("a c d e", [3]),
        ("a b x y c d e", [2, 3, 4, 6]),
        ("a x y c d z", [2, 3, 5, 6]),
        ("", []),
    ],
)
def test_measured_lines_move_with_the_source(after: str, executed: list[int]) -> None:
    """The tests of what a new line replaces, or of the line before it, are its own."""
    before = "a b c d e"
    assert numbers(Moves(*(text.replace(" ", "\n") for text in (before, after))).apply(1 << 2 | 1 << 4)) == executed
