# SPDX-License-Identifier: MIT
"""Each handler of the mock's requests names the kernel function that it stands for, which the kernel's source has."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from vmtest.error_returns import read_table

import pyvfio.mock

MOCK = Path(pyvfio.mock.__file__).parent
#: what makes a function a handler
MARKS = ("request", "command")
#: the end of a docstring's first line: the function, and for those that are in no source of Linux the file
NAME = re.compile(r"\((\w+)(?: of (tests/\S+))?\)\.$")
#: functions of Linux 7.3 that return no errno of their own, so that returns.tsv, which was made of its source, does not have them
WITHOUT_ERRNO = {
    "iommufd_destroy",
    "iommufd_vfio_check_extension",
    "vfio_container_ioctl_check_extension",
    "vfio_group_ioctl_get_device_fd",
}
#: a driver's own, which stands for those that migrate
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
