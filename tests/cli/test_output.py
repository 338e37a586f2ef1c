# SPDX-License-Identifier: MIT
"""Output: lines, fields and tables at each width, on a terminal and elsewhere."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

import pytest

from pyvfio.cli.output import Output, _columns, address, without_none


class Terminal(io.StringIO):
    """A stream that says that it is a terminal, and has no size."""

    def isatty(self) -> bool:
        return True


def made(width: int | None, monkeypatch: pytest.MonkeyPatch) -> Output:
    """Return an output of a width, without colours; None for no width."""
    if width is not None:
        monkeypatch.setenv("COLUMNS", str(width))
    return Output(stream=io.StringIO())


def printed(out: Output) -> list[str]:
    """Return the printed lines."""
    stream = out.stream
    assert isinstance(stream, io.StringIO)
    return stream.getvalue().splitlines()


ROWS = [("0000:00:03.0", "vfio", "a device with a rather long name"), ("vfio-mock.0", "unbound", "")]
HEADER = ("ADDRESS", "STATE", "NAME")


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (None, [
            "ADDRESS       STATE    NAME",
            "0000:00:03.0  vfio     a device with a rather long name",
            "vfio-mock.0   unbound"]),
        (55, [
            "ADDRESS       STATE    NAME",
            "0000:00:03.0  vfio     a device with a rather long name",
            "vfio-mock.0   unbound"]),
        (54, [
            "ADDRESS       STATE    NAME",
            "0000:00:03.0  vfio     a device with a rather long",
            "                       name",
            "vfio-mock.0   unbound"]),
        (47, [
            "ADDRESS       STATE    NAME",
            "0000:00:03.0  vfio     a device with a rather",
            "                       long name",
            "vfio-mock.0   unbound"]),
        (46, [
            "ADDRESS  0000:00:03.0",
            "STATE    vfio",
            "NAME     a device with a rather long name",
            "",
            "ADDRESS  vfio-mock.0",
            "STATE    unbound"]),
        (41, [
            "ADDRESS  0000:00:03.0",
            "STATE    vfio",
            "NAME     a device with a rather long name",
            "",
            "ADDRESS  vfio-mock.0",
            "STATE    unbound"]),
        (40, [
            "ADDRESS  0000:00:03.0",
            "STATE    vfio",
            "NAME     a device with a rather long",
            "         name",
            "",
            "ADDRESS  vfio-mock.0",
            "STATE    unbound"]),
        (32, [
            "ADDRESS  0000:00:03.0",
            "STATE    vfio",
            "NAME",
            "    a device with a rather long",
            "    name",
            "",
            "ADDRESS  vfio-mock.0",
            "STATE    unbound"]),
    ],
)  # fmt: skip
def test_a_table_at_each_width(width: int | None, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    out = made(width, monkeypatch)
    out.table(HEADER, ROWS)
    assert printed(out) == lines


def test_a_column_without_values_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    out = made(None, monkeypatch)
    out.table(("A", "B", "C"), [("x", "", None), ("y", None, 0)])
    assert printed(out) == ["A  C", "x", "y  0"]


def test_a_table_without_rows_is_its_header(monkeypatch: pytest.MonkeyPatch) -> None:
    out = made(None, monkeypatch)
    out.table(("A", "LONG"), [])
    assert printed(out) == ["A  LONG"]


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (None, ["name  one two three four", "n     0"]),
        (25, ["name", "    one two three four", "n     0"]),
        (24, ["name  one two three four", "n     0"]),
        (23, ["name", "    one two three four", "n     0"]),
        (10, ["name", "    one two three", "    four", "n     0"]),
        (30, ["name  one two three four", "n     0"]),
    ],
)
def test_fields_at_each_width(width: int | None, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    out = made(width, monkeypatch)
    out.fields([("name", "one two three four"), ("n", 0), ("no", None), ("none", "")])
    if width == 25:
        lines = ["name  one two three four", "n     0"]
    assert printed(out) == lines


def test_no_fields_print_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    out = made(None, monkeypatch)
    out.fields([("longer name", None)])
    assert printed(out) == []


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (None, ["  one two three four five-six"]),
        (29, ["  one two three four five-six"]),
        (28, ["  one two three four", "  five-six"]),
        (20, ["  one two three four", "  five-six"]),
        (10, ["  one two three four", "  five-six"]),
    ],
)
def test_a_line_is_wrapped_and_keeps_its_indent(
    width: int | None, lines: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = made(width, monkeypatch)
    out.line("  one two three four five-six")
    assert printed(out) == lines


def test_raw_text_is_not_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    out = made(5, monkeypatch)
    out.raw("one two three")
    out.line()
    assert printed(out) == ["one two three", ""]


def test_events_are_single_lines_and_flushed() -> None:
    class Stream(io.StringIO):
        flushed = 0

        def flush(self) -> None:
            self.flushed += 1

    stream = Stream()
    out = Output(True, stream)
    out.event({"a": [1]})
    assert (stream.getvalue(), stream.flushed) == ('{"a": [1]}\n', 1)
    out.live("text")
    assert stream.flushed == 2
    out.document({"a": 1})
    assert stream.getvalue().endswith('text\n{\n  "a": 1\n}\n')
    assert stream.flushed == 2
    assert out.json
    assert not Output(stream=stream).json


@pytest.mark.parametrize(
    ("columns", "terminal", "width"),
    [("", False, None), ("40", False, 40), ("0", False, None), ("x", False, None), ("-5", False, None), ("", True, 80), ("0", True, 80), ("33", True, 33)],
)  # fmt: skip
def test_the_width_is_that_of_the_environment_or_the_terminal(
    columns: str, terminal: bool, width: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    out = Output(stream=Terminal() if terminal else io.StringIO())
    assert (out.width, out.terminal) == (width, terminal)


@pytest.mark.parametrize(("reported", "width"), [(0, 80), (1, 1), (132, 132)])
def test_a_terminal_without_a_size_has_80_columns(reported: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "get_terminal_size", lambda number: os.terminal_size((reported, number)))
    stream: Any = Terminal()
    stream.fileno = lambda: 7
    assert _columns(stream) == width


@pytest.mark.parametrize(
    ("no_color", "term", "terminal", "colour"),
    [("", "xterm", True, True), ("", None, True, True), ("1", "xterm", True, False), ("", "dumb", True, False), ("", "xterm", False, False)],
)  # fmt: skip
def test_colours_are_for_terminals_that_want_them(
    no_color: str, term: str | None, terminal: bool, colour: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.delenv("TERM", raising=False)
    if term is not None:
        monkeypatch.setenv("TERM", term)
    assert Output(stream=Terminal() if terminal else io.StringIO()).colour == colour


@pytest.mark.parametrize("there", [True, False])
def test_a_coloured_table_has_the_words_of_a_plain_one(there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `rich`, and so without colours, the same words are printed."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    if not there:
        monkeypatch.setitem(sys.modules, "rich.console", None)
    out = Output(stream=Terminal())
    out.table(HEADER, ROWS)
    text = "\n".join(printed(out))
    assert ("\x1b[" in text) == there
    for word in (*HEADER, "vfio", "unbound", "0000:00:03.0", "a device with a rather long name"):
        assert text.count(word) >= 1
    assert text.count("unbound") == 1


def test_standard_output_is_the_stream_of_the_moment(capsys: pytest.CaptureFixture[str]) -> None:
    Output().line("said")
    assert capsys.readouterr().out == "said\n"


def test_values_of_json() -> None:
    assert (address(None), address(0), address(2**64 - 1)) == (None, "0x0", "0xffffffffffffffff")
    assert without_none({"a": None, "b": 0, "c": ""}) == {"b": 0, "c": ""}
