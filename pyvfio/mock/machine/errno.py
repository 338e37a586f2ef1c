# SPDX-License-Identifier: MIT
"""The exception by which a handler of the mock fails with an errno."""

from __future__ import annotations

import errno as _errno
from collections.abc import Iterator
from contextlib import contextmanager


class Errno(Exception):
    """An errno for the caller: `raise Errno(errno.EINVAL)` corresponds to `return -EINVAL` in the kernel."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return _errno.errorcode.get(self.number, str(self.number))


@contextmanager
def descriptors() -> Iterator[None]:
    """Convert an OSError to Errno, where the mock opens a descriptor of its own in the process.

    :raises Errno: EMFILE, the process has no descriptor left
    """
    try:
        yield
    except OSError as error:
        raise Errno(error.errno or _errno.EMFILE) from None
