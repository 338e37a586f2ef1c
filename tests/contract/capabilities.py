# SPDX-License-Identifier: MIT
"""Run code without one of root's capabilities."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CAPABILITIES = {"CAP_IPC_LOCK": 14, "CAP_SYS_RAWIO": 17, "CAP_SYS_RESOURCE": 24}
_VERSION_3 = 0x20080522


@contextmanager
def without_capability(name: str, kernel: Any = None) -> Iterator[None]:
    """Drop a capability from this thread's effective set during the block.

    A mock `kernel` has its own set of capabilities.
    """
    if (held := getattr(kernel, "capabilities", None)) is not None:
        held.remove(name)
        try:
            yield
        finally:
            held.add(name)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    data = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    effective = data[0]
    data[0] = effective & ~(1 << CAPABILITIES[name])
    assert libc.capset(header, data) == 0
    try:
        yield
    finally:
        data[0] = effective
        assert libc.capset(header, data) == 0
