# SPDX-License-Identifier: MIT
"""Fixtures: the command on a mock kernel."""

from __future__ import annotations

import pytest

from pyvfio import host, mock
from tests.cli.command import Command


@pytest.fixture(autouse=True)
def plain_output(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the width and the kernel of the caller's shell out."""
    for name in ("COLUMNS", "PYVFIO_KERNEL", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def kernel(request: pytest.FixtureRequest) -> mock.Kernel:
    """Return a mock kernel; indirect parametrization names another profile than mlx5."""
    return mock.Kernel(getattr(request, "param", "mlx5"))


@pytest.fixture
def pyvfio(capsys: pytest.CaptureFixture[str], kernel: mock.Kernel) -> Command:
    """Return the command, on the mock kernel."""
    return Command(capsys, kernel)


@pytest.fixture
def edu(kernel: mock.Kernel) -> str:
    """Bind the edu device to vfio-pci, and return its address."""
    return host.bind("0000:00:03.0", "vfio-pci", kernel=kernel).address
