# SPDX-License-Identifier: MIT
"""Fixtures: a device that writes on command, and pictures without a display."""

from __future__ import annotations

from collections.abc import Iterator

import matplotlib as mpl
import pytest

import pyvfio
from pyvfio.mock import Kernel

mpl.use("Agg")


@pytest.fixture
def device() -> Iterator[pyvfio.Device]:
    """A device of the mock that logs."""
    with pyvfio.open("vfio-mock.0", kernel=Kernel("amd")) as opened:
        yield opened
