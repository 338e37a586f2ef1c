# SPDX-License-Identifier: MIT
"""Devices without an IOMMU as objects of an iommufd (struct iommufd_access): the kernel copies through an IOAS."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pyvfio.mock.iommufd import rw
from pyvfio.mock.iommufd.area import LAST, READ, WRITE
from pyvfio.mock.iommufd.ioas import Ioas
from pyvfio.mock.iommufd.object import Object
from pyvfio.mock.machine.errno import Errno
from pyvfio.mock.vfio.space import Space

if TYPE_CHECKING:
    from pyvfio.mock.iommufd.context import Context
    from pyvfio.mock.vfio.device import Device


class Access(Object, Space):
    """An emulated device that is bound to an iommufd.

    :ivar alignment: the alignment that mappings must have: one page, because the device pins pages
    """

    def __init__(self, ctx: Context, device: Device) -> None:
        super().__init__(ctx)
        ctx.hold()
        self.alignment = ctx.kernel.profile.page_size
        self._device = device
        self._ioas: Ioas | None = None
        # The driver that bound the device is a user.
        self.users += 1
        device.space = self

    def unbind(self) -> None:
        """End the binding, for the driver."""
        self.drop()
        self.ctx.remove(self)

    def destroyed(self) -> None:
        self._change(None)
        self._device.space = None
        self.ctx.drop()

    # Attaching.

    def attach(self, number: int, pasid: int | None = None) -> int:
        """Attach the device to an IOAS, or move it to another one. `pasid` is ignored: the device has no PASIDs.

        :raises Errno: ENOENT, no such IOAS; EADDRINUSE, a mapping does not consist of whole pages
        """
        self._change(self.ctx.get(number, Ioas))
        return number

    def detach(self, pasid: int | None = None) -> None:
        self._change(None)

    def _change(self, ioas: Ioas | None) -> None:
        old = self._ioas
        if ioas is old:
            return
        if ioas is not None:
            ioas.table.add_access(self)
            ioas.users += 1
        if old is not None:
            self._device.dma_unmap(0, LAST)
            old.table.remove_access(self)
            old.drop()
        self._ioas = ioas

    def unmapped(self, iova: int, size: int) -> None:
        self._device.dma_unmap(iova, size)

    # DMA.

    def _attached(self) -> Ioas:
        if self._ioas is None:
            raise Errno(errno.ENOENT)
        return self._ioas

    def writable(self) -> Iterator[tuple[int, int]]:
        return rw.writable(self._attached().table)

    def read(self, iova: int, size: int) -> bytes:
        return rw.read(self._attached().table, iova, size, copied=True)

    def write(self, iova: int, data: bytes) -> None:
        for _ in rw.write(self._attached().table, iova, data, copied=True):
            pass

    def pin(self, iova: int, *, write: bool) -> int:
        iova -= iova % self.alignment
        area, _, _ = next(rw.accessible(self._attached().table, iova, self.alignment, WRITE if write else READ))
        area.pin_access(iova, iova + self.alignment - 1)
        return area.pages.address + area.offset(iova)

    def unpin(self, iova: int) -> None:
        iova -= iova % self.alignment
        area = self._attached().table.areas.at(iova)
        if area is not None:
            area.unpin_access(iova, iova + self.alignment - 1)
