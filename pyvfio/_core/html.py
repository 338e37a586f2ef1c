# SPDX-License-Identifier: MIT
"""Tables that notebooks show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

# The standard module html is not used: it loads a table of all entities, and this module is loaded with every start.
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"})
#: the most rows that a table shows
MOST = 100


def escape(text: str) -> str:
    """Return text in which no character has a meaning in HTML."""
    return text.translate(_ESCAPES)


def table(caption: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return an HTML table. Of more than :data:`MOST` rows the first are shown, and how many follow."""
    lines = list(rows)
    head = "".join(f"<th>{escape(each)}</th>" for each in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(str(each))}</td>' for each in line)}</tr>" for line in lines[:MOST])
    if len(lines) > MOST:
        body += f'<tr><td colspan="{len(header)}">and {len(lines) - MOST} more</td></tr>'
    return f"<table><caption>{escape(caption)}</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
