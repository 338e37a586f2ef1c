# SPDX-License-Identifier: MIT
"""The exception by which a handler of the mock answers with an errno."""

from __future__ import annotations

import errno as _errno
from collections.abc import Iterator
from contextlib import contextmanager


class Errno(Exception):
    """The errno that a request returns, as the kernel's `return -EINVAL`: `raise Errno(errno.EINVAL)`."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return _errno.errorcode.get(self.number, str(self.number))


@contextmanager
def descriptors() -> Iterator[None]:
    """Here the mock takes descriptors for itself: where the process has none left, the caller is told.

    :raises Errno: EMFILE
    """
    try:
        yield
    except OSError as error:
        raise Errno(error.errno or _errno.EMFILE) from None
