# SPDX-License-Identifier: MIT
"""The pages of a mapping of a dma-buf: a part of a device's BAR."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from pyvfio.mock.iommufd.pages import Pages
from pyvfio.mock.machine.errno import Errno

if TYPE_CHECKING:
    from pyvfio.mock.iommufd.context import Context
    from pyvfio.mock.vfio.pci.dma_buf import DmaBuf


class DmaBufPages(Pages):
    """A part of a dma-buf. Once the dma-buf is revoked, the mapping is never accessible again."""

    is_dma_buf = True

    def __init__(self, ctx: Context, file: DmaBuf, start: int, size: int, *, writable: bool) -> None:
        """
        :raises Errno: EINVAL, beyond the end of the dma-buf; EOPNOTSUPP, the dma-buf has several ranges; ENODEV, it is
            revoked
        """
        if start + size > file.size:
            raise Errno(errno.EINVAL)
        offset = start % ctx.kernel.profile.page_size
        super().__init__(ctx, start - offset, offset, size, writable=writable)
        if len(file.areas) > 1:
            raise Errno(errno.EOPNOTSUPP)
        if file.era is None:
            raise Errno(errno.ENODEV)
        self._file = file
        self._era = file.era

    def _count(self) -> None:
        """Charge no locked memory: a BAR is not memory of the caller."""

    def check(self, start: int, last: int) -> None:
        # A revoked dma-buf can be pinned; the IOMMU then maps nothing.
        pass

    def _check_reach(self) -> None:
        if self._file.era != self._era:
            raise Errno(errno.EFAULT)

    def read(self, offset: int, size: int) -> bytes:
        self._check_reach()
        return self._file.load(self.address + offset, size)

    def write(self, offset: int, data: bytes) -> None:
        self._check_reach()
        self._file.store(self.address + offset, data)
