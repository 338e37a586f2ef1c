"""What pytest knows of pyvfio wherever it is installed: the option ``--vectors FILE``.

It is here, and not in tests/conftest.py alone, because pytest looks for its configuration near the paths on the command
line before it reads any conftest: a FILE elsewhere, behind an option that it does not know yet, would send it there.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option; :file:`tests/vectors` is what reads it."""
    parser.getgroup("pyvfio").addoption(
        "--vectors",
        type=Path,
        metavar="FILE",
        help="in pyvfio's own source: run the vector suite, and nothing else, on FILE instead of its own copy",
    )
