"""Fixtures of the robustness tests: a mock, and a way to look at what is left open in it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from pyvfio import mock

MODES = ("type1", "type1v2", "iommufd-type1", "iommufd-type1v2", "iommufd")


@pytest.fixture
def kernel() -> mock.Kernel:
    return mock.Kernel()


@pytest.fixture
def left(kernel: mock.Kernel) -> Callable[[], list[str]]:
    """Return the kinds of files that are open in the kernel, and what is still pinned."""

    def look() -> list[str]:
        pinned = [f"{lock.pages} pages pinned" for lock in (kernel.locked, kernel.locked_by_user) if lock.pages]
        return [file.kind for file in kernel.files.values()] + pinned

    return look
