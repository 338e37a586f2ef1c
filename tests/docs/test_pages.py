# SPDX-License-Identifier: MIT
"""The documentation: its examples run, the names in it exist, and the site builds without a warning."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import matplotlib as mpl
import pytest

import pyvfio
from pyvfio import mock
from pyvfio.mock.machine.profile import PROFILES

mpl.use("Agg")
ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
ERRORS = DOCS / "reference" / "errors.md"
#: Pages that people write. The others are generated when the site is built.
WRITTEN = [DOCS / "index.md", DOCS / "tested-on.md", *(DOCS / each for each in ("about", "guides", "start"))]
PAGES = sorted([page for each in WRITTEN for page in (each.glob("*.md") if each.is_dir() else [each])] + [ERRORS])
#: Number of columns of a program that a screen of 1400 pixels shows without scrolling.
COLUMNS = 84
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def name_of(path: Path) -> str:
    return str(path.relative_to(DOCS))


@pytest.fixture
def host() -> Iterator[mock.Kernel]:
    """Make a mock with AMD's hole the default kernel, for programs that name none."""
    with pyvfio.kernel.as_default(mock.Kernel("amd")) as kernel:
        assert isinstance(kernel, mock.Kernel)
        yield kernel


def run(source: str, place: Path, line: int, names: dict[str, Any]) -> None:
    """Run source code, with line numbers as if it were in the file from the given line on."""
    exec(compile("\n" * (line - 1) + source, str(place), "exec"), names)


@pytest.mark.usefixtures("host")
@pytest.mark.parametrize("page", [each for each in PAGES if BLOCK.search(each.read_text("utf-8"))], ids=name_of)
def test_the_programs_of_a_page_run(page: Path) -> None:
    text = page.read_text("utf-8")
    names: dict[str, Any] = {"__name__": "page", "LOG": (DOCS / "notebooks" / "qemu-8.1.log").read_text("utf-8")}
    for block in BLOCK.finditer(text):
        run(block[1], page, text.count("\n", 0, block.start(1)) + 1, names)


@pytest.mark.parametrize("page", [each for each in PAGES if "\ndef test_" in each.read_text("utf-8")], ids=name_of)
def test_the_tests_of_a_page_pass(page: Path, tmp_path: Path) -> None:
    program = tmp_path / "test_page.py"
    program.write_text("\n\n".join(BLOCK.findall(page.read_text("utf-8"))), "utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", program],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "skipped" not in done.stdout, done.stdout


def test_the_page_on_tests_lists_all_profiles() -> None:
    text = (DOCS / "guides" / "testing.md").read_text("utf-8")
    assert [name for name in PROFILES if f"`{name}`" not in text] == []


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
def test_modules_exist(page: Path) -> None:
    for line in re.findall(r"^\*Modules: (.*)\*$", page.read_text("utf-8"), re.MULTILINE):
        for module in re.findall(r"`([\w.]+)`", line):
            assert find_spec(module), f"{module} does not exist"


@pytest.mark.parametrize("page", [*PAGES, *NOTEBOOKS], ids=name_of)
def test_programs_fit_the_page(page: Path) -> None:
    if page.suffix == ".ipynb":
        cells = json.loads(page.read_text("utf-8"))["cells"]
        blocks = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    else:
        blocks = re.findall(r"^```(?:python|sh)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert [line for block in blocks for line in block.splitlines() if len(line) > COLUMNS] == []


def test_the_site_has_every_page(site: Path) -> None:
    for page in [*PAGES, *NOTEBOOKS, DOCS / "reference" / "findings.md", DOCS / "reference" / "api.md"]:
        assert (site / page.relative_to(DOCS)).with_suffix(".html").exists()


class Anchors(HTMLParser):
    """A parser that collects the ids and links of a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record an id, a link or a picture."""
        for name, value in attrs:
            if value and name == "id":
                self.ids.add(value)
            elif value and name in ("href", "src") and not re.match("[a-z]+:|//", value):
                self.links.add(value)


def test_links_of_the_site_lead_somewhere(site: Path) -> None:
    pages = {path: Anchors(path) for path in site.rglob("*.html") if "_modules" not in path.parts}
    dead = []
    for path, page in pages.items():
        for link in page.links:
            place, _, anchor = link.partition("#")
            target = (path.parent / unquote(place.partition("?")[0])).resolve() if place else path
            if not target.exists() or (anchor and target in pages and unquote(anchor) not in pages[target].ids):
                dead.append(f"{path.relative_to(site)}: {link}")
    assert dead == []


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
