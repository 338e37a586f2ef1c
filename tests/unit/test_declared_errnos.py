# SPDX-License-Identifier: MIT
"""The declarations of requests have the errnos with which a kernel answers, according to a table that is not made from the declarations."""

from __future__ import annotations

import errno
from collections.abc import Iterable
from pathlib import Path

from pyvfio import abi
from pyvfio._core.request import DECLARED, Request

TABLE = Path(__file__).with_name("declared_errnos.txt")


def names(numbers: Iterable[int]) -> str:
    return " ".join(sorted("EOPNOTSUPP" if n == errno.EOPNOTSUPP else errno.errorcode[n] for n in numbers))


def line(request: Request) -> str:
    """Return a declaration as a line of the table: the documented errnos, then the others that are explained."""
    return f"{request.label}: {names(request.errnos)} | {names(request.otherwise)}"


def test_each_request_has_the_errnos_of_the_table() -> None:
    assert list(abi.documented()), "every declaring module is imported"
    assert sorted(map(line, DECLARED.values())) == TABLE.read_text().splitlines()
