# SPDX-License-Identifier: MIT
"""The backend of a container for groups without an IOMMU (vfio_noiommu_ops), which maps nothing."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvfio._abi import lib
from pyvfio.mock.machine.errno import Errno

if TYPE_CHECKING:
    from pyvfio.mock.machine.kernel import Kernel
    from pyvfio.mock.vfio.device import Device
    from pyvfio.mock.vfio.group import Group


class NoIommu:
    """The backend VFIO_NOIOMMU_IOMMU, in place of type1."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def extension(self, number: int) -> bool:
        return number == lib.VFIO_NOIOMMU_IOMMU and self._kernel.host.enable_no_iommu.value

    def ioctl(self, number: int, argument: int) -> int:
        """Refuse every ioctl.

        :raises Errno: ENOTTY
        """
        raise Errno(errno.ENOTTY)

    # Nothing to do for groups and devices.

    def attach(self, group: Group) -> None: ...

    def detach(self, group: Group) -> None: ...

    def register(self, device: Device) -> None: ...

    def unregister(self, device: Device) -> None: ...

    def release(self) -> None: ...
