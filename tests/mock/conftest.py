# SPDX-License-Identifier: MIT
"""Fixtures for the tests of the mock."""

from tests.fixtures import device, edu, emulated, ioas, iommufd, kernel, space

__all__ = ["device", "edu", "emulated", "ioas", "iommufd", "kernel", "space"]
