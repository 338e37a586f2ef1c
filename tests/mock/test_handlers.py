# SPDX-License-Identifier: MIT
"""Each handler of a request in the mock names the kernel function that it implements, and that function exists in the kernel's source."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from vmtest.error_returns import read_table

import pyvfio.mock

MOCK = Path(pyvfio.mock.__file__).parent
#: The decorators that make a function a handler.
MARKS = ("request", "command")
#: The end of a docstring's first line: the kernel function, and its file if it is not in Linux's own source.
NAME = re.compile(r"\((\w+)(?: of (tests/\S+))?\)\.$")
#: Functions of Linux 7.3 that return no errno themselves. So they are not in returns.tsv, which has only functions with
#: errnos.
WITHOUT_ERRNO = {
    "iommufd_destroy",
    "iommufd_vfio_check_extension",
    "vfio_container_ioctl_check_extension",
    "vfio_group_ioctl_get_device_fd",
}
#: Functions of one variant driver, which represent those of all drivers with migration.
OF_DRIVERS = {"mlx5vf_precopy_ioctl"}


def handlers() -> Iterator[tuple[str, str]]:
    """Yield each handler, as MODULE:FUNCTION, and its docstring."""
    for path in sorted(MOCK.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                marks = [one.func for one in node.decorator_list if isinstance(one, ast.Call)]
                if any(isinstance(mark, ast.Name) and mark.id in MARKS for mark in marks):
                    yield f"{path.relative_to(MOCK)}:{node.name}", ast.get_docstring(node) or ""


HANDLERS = dict(handlers())


def test_handlers_are_found() -> None:
    assert len(HANDLERS) > 50


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_handler_names_the_kernels_function(handler: str) -> None:
    named = NAME.search(HANDLERS[handler].partition("\n")[0])
    assert named, f"{handler}: the docstring's first line ends with (FUNCTION)."
    function, file = named.groups()
    if file is not None:
        assert re.search(rf"\b{function}\(", (Path(__file__).parents[2] / file).read_text())
    else:
        known = {one.function for one in read_table()} | WITHOUT_ERRNO | OF_DRIVERS
        assert function in known
