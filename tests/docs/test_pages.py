# SPDX-License-Identifier: MIT
"""The documentation: its examples run, it names what exists, and the site builds without a warning."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

import pyvfio
from pyvfio import mock

mpl.use("Agg")
ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)(?:#[^)]*)?\)")


def name_of(path: Path) -> str:
    return str(path.relative_to(DOCS))


@pytest.fixture
def host() -> Iterator[mock.Kernel]:
    """A host with the AMD hole, for programs that name no kernel."""
    with pyvfio.kernel.as_default(mock.Kernel("amd")) as kernel:
        assert isinstance(kernel, mock.Kernel)
        yield kernel


def run(source: str, place: Path, line: int, names: dict[str, Any]) -> None:
    """Run source as if it stood in the file from that line on."""
    exec(compile("\n" * (line - 1) + source, str(place), "exec"), names)


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize("page", [each for each in PAGES if BLOCK.search(each.read_text("utf-8"))], ids=name_of)
def test_the_programs_of_a_page_run(page: Path) -> None:
    text = page.read_text("utf-8")
    names: dict[str, Any] = {"__name__": "page", "LOG": (DOCS / "notebooks" / "qemu-8.1.log").read_text("utf-8")}
    for block in BLOCK.finditer(text):
        run(block[1], page, text.count("\n", 0, block.start(1)) + 1, names)


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name_of)
def test_the_cells_of_a_notebook_run(notebook: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(notebook.parent)
    names: dict[str, Any] = {"__name__": "notebook"}
    for number, cell in enumerate(json.loads(notebook.read_text("utf-8"))["cells"]):
        assert not cell.get("outputs"), f"cell {number} has outputs; notebooks are kept without"
        if cell["cell_type"] == "code":
            run("".join(cell["source"]), notebook, 1, names)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_modules_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    generated = {DOCS / "reference" / "findings.md", DOCS / "reference" / "command.md"}
    for target in LINK.findall(text):
        path = (page.parent / target).resolve()
        assert path.exists() or path in generated, f"{target} does not exist"
    for line in re.findall(r"^\*Modules: (.*)\*$", text, re.MULTILINE):
        for module in re.findall(r"`([\w.]+)`", line):
            assert find_spec(module), f"{module} does not exist"


def test_guides_name_their_modules() -> None:
    assert not [each.name for each in (DOCS / "guides").glob("*.md") if "*Modules: " not in each.read_text("utf-8")]


def test_every_page_is_in_a_table_of_contents() -> None:
    index = (DOCS / "index.md").read_text("utf-8")
    named = {line.strip() for line in index.splitlines()}
    missing = [
        name_of(each) for each in PAGES if each.name != "index.md" and name_of(each).removesuffix(".md") not in named
    ]
    assert missing == []


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-b",
        "html",
        str(DOCS),
        str(tmp_path / "site"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "reference" / "findings.html").exists()


def test_nothing_is_misspelt() -> None:
    places = [
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "SECURITY.md",
        "docs",
        "pyvfio",
        "cdefs",
        "scripts/vmtest",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "codespell_lib", *places], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
