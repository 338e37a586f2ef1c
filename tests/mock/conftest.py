# SPDX-License-Identifier: MIT
"""Fixtures of the mock's tests."""

from tests.fixtures import device, edu, emulated, ioas, iommufd, kernel, space

__all__ = ["device", "edu", "emulated", "ioas", "iommufd", "kernel", "space"]
