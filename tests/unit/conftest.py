# SPDX-License-Identifier: MIT
"""Fixtures of the unit tests: the mock, with answers to single requests overridden."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.fixtures import device, kernel, space
from tests.overriding import Overriding

__all__ = ["device", "kernel", "space", "vfio_kernel"]

# deadline, too_slow: on a busy host an example may be slow, which is no fault of the code. derandomize: two runs of one
# commit try the same examples.
settings.register_profile("repeatable", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")


@pytest.fixture
def vfio_kernel(request: pytest.FixtureRequest) -> Overriding:
    """The kernel for the plugin's fixtures and for the fixture `kernel`."""
    marked: dict[str, Any] = {}
    for marker in request.node.iter_markers("vfio"):
        marked = marker.kwargs | marked
    fields = {name: value for name, value in marked.items() if name not in ("profile", "mode", "device")}
    return Overriding(marked.get("profile", "intel-39"), **fields)
