# SPDX-License-Identifier: MIT
"""Page tables of guests, which an IOMMU walks on top of the kernel's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvfio.mock.iommufd.hwpt import Hwpt, PagingHwpt

if TYPE_CHECKING:
    from pyvfio.mock.iommufd.viommu import Viommu


class NestedHwpt(Hwpt):
    """A guest's page table.

    :ivar paging: the page table below it
    :ivar cache: what the IOMMU's driver keeps of it
    """

    def __init__(self, parent: PagingHwpt | Viommu, flags: int, cache: list[int]) -> None:
        super().__init__(parent.ctx, parent.driver, flags)
        self._parent = parent
        self.viommu = None if isinstance(parent, PagingHwpt) else parent
        self.paging = parent if isinstance(parent, PagingHwpt) else parent.parent
        # What the guest's own tables say is the IOMMU's business; there is none here that walks them.
        self.domain = self.paging.domain
        self.cache = cache
        parent.users += 1

    def destroyed(self) -> None:
        super().destroyed()
        self._parent.drop()
