# SPDX-License-Identifier: MIT
"""Each call to the kernel fails in turn. After close(), which is tried again if it fails, nothing is left."""

from __future__ import annotations

import errno
from contextlib import suppress

import pytest

from pyvfio.spaces.opening import Mode
from tests.robustness.conftest import MODES
from tests.robustness.program import World

ERRNOS = (errno.ENOMEM, errno.EIO, errno.EINTR, errno.EBADF, errno.EINVAL, errno.EBUSY)


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", ERRNOS, ids=errno.errorcode.get)
@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_left_whichever_call_fails(mode: Mode, number: int) -> None:
    """Each call of the program fails in turn, including those of its close()."""
    wrong: list[str] = []
    at = 1
    while True:
        world = World(mode)
        failure = world.kernel.failures.fail(number, nth=at)
        with suppress(OSError):
            world.run()
        world.kernel.failures.clear()
        if left := world.left():
            wrong.append(f"call {at}: left {left}")
        if failure.left:
            break
        at += 1
    assert at > 20
    assert wrong == []
