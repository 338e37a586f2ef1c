# SPDX-License-Identifier: MIT
"""Fixtures of the robustness tests: a mock, and a way to look at what is left open in it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pyvfio import Device, mock
from tests.fixtures import edu, emulated, kernel

#: fixtures that are written elsewhere
__all__ = ["edu", "emulated", "kernel"]
MODES = ("type1", "type1v2", "iommufd-type1", "iommufd-type1v2", "iommufd")


@pytest.fixture
def device(emulated: Device) -> Device:
    """vfio-mock.0 in an address space of its own, which closes with it."""
    return emulated


@pytest.fixture
def left(kernel: mock.Kernel) -> Callable[[], list[str]]:
    """Return the kinds of files that are open in the kernel, and what is still pinned."""

    def look() -> list[str]:
        pinned = [f"{lock.pages} pages pinned" for lock in (kernel.locked, kernel.locked_by_user) if lock.pages]
        return [file.kind for file in kernel.files.values()] + pinned

    return look
