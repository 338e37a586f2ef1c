# SPDX-License-Identifier: MIT
"""Text, tables and JSON on standard output.

Text is plain, without colours and as wide as it needs, unless the output is a terminal. There it fits the width, and `rich` draws tables
in colour if it is installed (extra `cli`) and NO_COLOR is not set.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

#: the least width of a last column that is worth wrapping
_LEAST = 24
#: the words that are shown in a colour
STYLES = {
    "vfio": "green",
    "kernel": "yellow",
    "unbound": "cyan",
    "passed": "green",
    "yes": "green",
    "failed": "bold red",
    "refused": "bold red",
    "no": "red",
    "skipped": "yellow",
    "unknown": "magenta",
}


class Output:
    """The output of a subcommand.

    :param json_wanted: whether to print only JSON
    :param stream: the stream to write to; None for standard output
    :ivar json: whether JSON was asked for
    :ivar width: the number of columns; None for as many as a line needs
    :ivar colour: whether text may be coloured
    """

    def __init__(self, json_wanted: bool = False, stream: IO[str] | None = None) -> None:
        self.json = json_wanted
        self._stream = stream
        terminal = self.stream.isatty()
        self.terminal = terminal
        self.width = _columns(self.stream if terminal else None)
        self.colour = terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    @property
    def stream(self) -> IO[str]:
        """The stream to write to: the present sys.stdout, unless another was given."""
        return self._stream if self._stream is not None else sys.stdout

    def document(self, value: object) -> None:
        """Print one JSON document."""
        print(json.dumps(value, indent=2), file=self.stream)

    def event(self, value: object) -> None:
        """Print one JSON line, at once: the reader may be waiting for it."""
        print(json.dumps(value), file=self.stream, flush=True)

    def line(self, text: str = "") -> None:
        """Print text. If there is a width, wrap it, and indent the further lines like the first."""
        if self.width is None or len(text) <= self.width:
            print(text, file=self.stream)
            return
        indent = text[: len(text) - len(text.lstrip())]
        wrapped = textwrap.wrap(
            text.strip(), max(self.width, 20), initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
        )
        print("\n".join(wrapped), file=self.stream)

    def raw(self, text: str) -> None:
        """Print text as it is."""
        print(text, file=self.stream)

    def live(self, text: str) -> None:
        """Print a line and flush it, for commands that print events as they occur."""
        self.line(text)
        self.stream.flush()

    def fields(self, fields: Iterable[tuple[str, object]]) -> None:
        """Print names and values, one pair a line; None and empty values are left out."""
        shown = [(name, str(value)) for name, value in fields if value is not None and value != ""]
        size = max((len(name) for name, _ in shown), default=0) + 2
        for name, value in shown:
            if self.width is not None and size + len(value) > self.width:
                room = max(self.width - 4, 16) if self.width < size + _LEAST else self.width - size
                lines = textwrap.wrap(value, room, break_on_hyphens=False) or [""]
                if self.width < size + _LEAST:
                    self.raw(f"{name}")
                    self.raw("\n".join(f"    {line}" for line in lines))
                else:
                    self.raw(f"{name:<{size}}" + f"\n{'':{size}}".join(lines))
            else:
                self.raw(f"{name:<{size}}{value}")

    def table(self, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print a table; one that does not fit the width is printed as records, a field a line."""
        cells = [["" if cell is None else str(cell) for cell in row] for row in rows]
        used = [index for index, name in enumerate(header) if not rows or any(row[index] for row in cells)]
        header = [header[index] for index in used]
        cells = [[row[index] for index in used] for row in cells]
        sizes = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
        before = sum(sizes[:-1]) + 2 * (len(sizes) - 1)
        if self.width is not None and before + sizes[-1] > self.width:
            if before + _LEAST > self.width:
                self._records(header, cells)
                return
            sizes[-1] = self.width - before
        if self.colour and self._rich_table(header, cells, sizes):
            return
        for row in [header, *cells]:
            self._row(row, sizes)

    def _row(self, row: Sequence[str], sizes: Sequence[int]) -> None:
        front = "".join(f"{cell:<{size}}  " for cell, size in zip(row[:-1], sizes[:-1], strict=True))
        last = textwrap.wrap(row[-1], sizes[-1], break_on_hyphens=False) or [""]
        for index, line in enumerate(last):
            self.raw(f"{front if not index else ' ' * len(front)}{line}".rstrip())

    def _records(self, header: Sequence[str], cells: Iterable[Sequence[str]]) -> None:
        for index, row in enumerate(cells):
            if index:
                self.raw("")
            self.fields(zip(header, row, strict=True))

    def _rich_table(self, header: Sequence[str], cells: Iterable[Sequence[str]], sizes: Sequence[int]) -> bool:
        """Draw a table with rich; return False where it is not installed."""
        try:
            from rich.console import Console
            from rich.table import Table
            from rich.text import Text
        except ImportError:
            return False
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
        for name, size in zip(header, sizes, strict=True):
            table.add_column(name, no_wrap=name != header[-1], min_width=min(size, self.width or size), overflow="fold")
        for row in cells:
            table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
        Console(file=self.stream, width=self.width, highlight=False).print(table)
        return True


def _columns(terminal: IO[str] | None) -> int | None:
    """Return the width to keep to: COLUMNS of the environment, else the terminal's; None without either.

    shutil.get_terminal_size() does the same, but importing shutil takes as long as importing all of this package.
    """
    given = os.environ.get("COLUMNS", "")
    if given.isdecimal() and int(given):
        return int(given)
    if terminal is None:
        return None
    try:
        return os.get_terminal_size(terminal.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


def address(value: int | None) -> str | None:
    """Return an address or a register's value as JSON has it: hexadecimal text, since many readers keep 53 bits of a number."""
    return None if value is None else f"{value:#x}"


def without_none(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that have a value."""
    return {name: value for name, value in fields.items() if value is not None}
