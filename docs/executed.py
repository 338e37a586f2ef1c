# SPDX-License-Identifier: MIT
"""The notebooks as pages: each is run when the site is built, and shown with what its cells print and draw."""

from __future__ import annotations

import ast
import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt


def render(notebook: Path) -> None:
    """Write a page beside a notebook, and its pictures, unless the page is newer than the notebook."""
    page = notebook.with_suffix(".md")
    if page.exists() and page.stat().st_mtime > notebook.stat().st_mtime:
        return
    names: dict[str, Any] = {"__name__": "notebook"}
    lines: list[str] = []
    with contextlib.chdir(notebook.parent):
        for number, cell in enumerate(
            json.loads(notebook.read_text("utf-8"))["cells"]
        ):
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                lines += [source, ""]
            else:
                lines += [
                    "```python",
                    source,
                    "```",
                    "",
                    *run(source, names, f"{notebook.stem}-{number}"),
                ]
    lines += [
        f"*This page is `docs/notebooks/{notebook.name}` of the source, run when the site was built.*",
        "",
    ]
    page.write_text("\n".join(lines), encoding="utf-8")


def run(source: str, names: dict[str, Any], picture: str) -> Iterator[str]:
    """Run a cell, and yield what it shows: what it prints, the value of its last expression, its figures."""
    tree = ast.parse(source)
    last = (
        tree.body.pop()
        if tree.body and isinstance(tree.body[-1], ast.Expr)
        else None
    )
    printed = io.StringIO()
    value: Any = None
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, picture, "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(
                compile(ast.Expression(last.value), picture, "eval"), names
            )
    if printed.getvalue():
        yield from ("```text", printed.getvalue().rstrip("\n"), "```", "")
    if hasattr(value, "_repr_html_"):
        yield from (
            "```{raw} html",
            f'<div class="notebook-output">{value._repr_html_()}</div>',
            "```",
            "",
        )
    elif value is not None:
        yield from ("```text", repr(value), "```", "")
    for number in plt.get_fignums():
        plt.figure(number).savefig(f"{picture}.png", dpi=150)
        plt.close(number)
        yield from (
            f"```{{image}} {picture}.png",
            ":class: notebook-picture",
            "```",
            "",
        )
