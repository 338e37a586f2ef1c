# SPDX-License-Identifier: MIT
"""`with refused(errno.EINVAL):` the kernel refuses what is in the block, in just that way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def refused(number: int, words: str | None = None) -> Iterator[None]:
    with pytest.raises(OSError, match=words) as caught:
        yield
    assert caught.value.errno == number, caught.value
