# SPDX-License-Identifier: MIT
"""`with refused(errno.EINVAL):` asserts that a part of the mock raises this errno."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import pytest

from pyvfio.mock.machine.errno import Errno


@contextmanager
def refused(number: int) -> Iterator[None]:
    with pytest.raises(Errno) as caught:
        yield
    assert errno.errorcode[caught.value.number] == errno.errorcode[number]


def works_or(number: int | None) -> AbstractContextManager[None]:
    """Assert that the block raises this errno; None: that it raises nothing."""
    return nullcontext() if number is None else refused(number)
