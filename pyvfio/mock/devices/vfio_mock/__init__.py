# SPDX-License-Identifier: MIT
"""vfio-mock: the device of tests/vfio_mock, register for register the same. Its README says what everything does."""

from pyvfio.mock.devices.vfio_mock.device import VfioMock as VfioMock
