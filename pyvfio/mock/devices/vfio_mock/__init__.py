# SPDX-License-Identifier: MIT
"""vfio-mock: a model of the kernel module in tests/vfio_mock, with the same registers. Its README describes them."""

from pyvfio.mock.devices.vfio_mock.device import VfioMock as VfioMock
