# SPDX-License-Identifier: MIT
"""`with refused(errno.EINVAL):` asserts that the kernel refuses the block's request with this errno."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def refused(number: int, words: str | None = None) -> Iterator[None]:
    with pytest.raises(OSError, match=words) as caught:
        yield
    assert caught.value.errno == number, caught.value
