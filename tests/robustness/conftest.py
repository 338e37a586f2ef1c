# SPDX-License-Identifier: MIT
"""Fixtures of the robustness tests: a mock, and a function that returns what is still open in it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pyvfio import Device, mock
from tests.fixtures import edu, emulated, kernel

#: Fixtures that are imported from another module.
__all__ = ["edu", "emulated", "kernel"]
MODES = ("type1", "type1v2", "iommufd-type1", "iommufd-type1v2", "iommufd")


@pytest.fixture
def device(emulated: Device) -> Device:
    """vfio-mock.0 in its own address space, which closes with the device."""
    return emulated


@pytest.fixture
def left(kernel: mock.Kernel) -> Callable[[], list[str]]:
    """A function that returns the kinds of files that are open in the kernel, and the number of pinned pages."""

    def look() -> list[str]:
        pinned = [f"{lock.pages} pages pinned" for lock in (kernel.locked, kernel.locked_by_user) if lock.pages]
        return [file.kind for file in kernel.files.values()] + pinned

    return look
