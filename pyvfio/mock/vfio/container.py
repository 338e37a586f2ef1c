# SPDX-License-Identifier: MIT
"""A VFIO container: an open /dev/vfio/vfio, and the IOMMU backend of its groups (container.c)."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvfio._abi import lib
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.machine.file import request
from pyvfio.mock.vfio.group import Group, GroupContainer
from pyvfio.mock.vfio.no_iommu import NoIommu
from pyvfio.mock.vfio.type1 import Type1, extension

if TYPE_CHECKING:
    from pyvfio.mock.machine.kernel import Kernel
    from pyvfio.mock.vfio.device import Device


class ContainerFile(GroupContainer):
    """An open /dev/vfio/vfio. It outlives its descriptor as long as a group is in it.

    :ivar groups: the groups in it, the latest first, which is the kernel's order
    :ivar iommu: the IOMMU backend from VFIO_SET_IOMMU until the last group leaves; else None
    """

    iommu: Type1 | NoIommu | None

    kind = "container"

    def __init__(self, kernel: Kernel) -> None:
        super().__init__(kernel)
        self.groups: list[Group] = []
        self.iommu = None

    def ioctl(self, number: int, argument: int) -> int:
        if number in self.handlers:
            return super().ioctl(number, argument)
        if self.iommu is None:
            raise Errno(errno.EINVAL)
        return self.iommu.ioctl(number, argument)

    @request(lib.VFIO_GET_API_VERSION)
    def _api_version(self, argument: int) -> int:
        """Return the version of VFIO (vfio_fops_unl_ioctl)."""
        return lib.VFIO_API_VERSION

    @request(lib.VFIO_CHECK_EXTENSION)
    def _check_extension(self, argument: int) -> int:
        """Return whether an extension is supported (vfio_container_ioctl_check_extension)."""
        return int(self._has(argument))

    def _has(self, number: int) -> bool:
        """Whether the backend supports an extension. Before VFIO_SET_IOMMU: whether a backend for the groups would."""
        if self.iommu is not None:
            return bool(self.iommu.extension(number))
        by_type1, without = bool(extension(None, number)), NoIommu(self.kernel).extension(number)
        return by_type1 or without if not self.groups else without if self.groups[0].no_iommu else by_type1

    @request(lib.VFIO_SET_IOMMU)
    def _set_iommu(self, argument: int) -> None:
        """Set the IOMMU backend of the container (vfio_ioctl_set_iommu)."""
        if not self.groups or self.iommu is not None:
            raise Errno(errno.EINVAL)
        if not self._has(argument):
            raise Errno(errno.ENODEV)
        iommu: Type1 | NoIommu
        if self.groups[0].no_iommu:
            self.kernel.check_raw_io(self.groups[0])
            iommu = NoIommu(self.kernel)
        else:
            iommu = Type1.of_type(self.kernel, argument)
        for group in self.groups:
            iommu.attach(group)
        self.iommu = iommu

    # Groups, and devices opened by their groups.

    def attach_group(self, group: Group) -> None:
        self.kernel.check_raw_io(group)
        if self.groups and self.groups[0].no_iommu != group.no_iommu:
            raise Errno(errno.EPERM)
        if group.backed:
            group.claim(self)
        if self.iommu is not None:
            try:
                self.iommu.attach(group)
            except Errno:
                if group.backed:
                    group.release()
                raise
        self.groups.insert(0, group)

    def detach_group(self, group: Group) -> None:
        if self.iommu is not None:
            self.iommu.detach(group)
        if group.backed:
            group.release()
        self.groups.remove(group)
        if not self.groups and self.iommu is not None:
            self.iommu.release()
            self.iommu = None

    def use(self, device: Device) -> None:
        if self.iommu is None:
            raise Errno(errno.EINVAL)
        self.iommu.register(device)

    def unuse(self, device: Device) -> None:
        if self.iommu is not None:
            self.iommu.unregister(device)
