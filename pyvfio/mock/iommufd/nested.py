# SPDX-License-Identifier: MIT
"""Nested page tables: a guest's page table, translated further by one of the kernel's (struct iommufd_hwpt_nested)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvfio.mock.iommufd.hwpt import Hwpt, PagingHwpt

if TYPE_CHECKING:
    from pyvfio.mock.iommufd.viommu import Viommu


class NestedHwpt(Hwpt):
    """A guest's page table.

    :ivar paging: the kernel's page table that translates further
    :ivar cache: the driver's cached entries of it
    """

    def __init__(self, parent: PagingHwpt | Viommu, flags: int, cache: list[int]) -> None:
        super().__init__(parent.ctx, parent.driver, flags)
        self._parent = parent
        self.viommu = None if isinstance(parent, PagingHwpt) else parent
        self.paging = parent if isinstance(parent, PagingHwpt) else parent.parent
        # The mock has no IOMMU that walks the guest's tables: DMA goes through the parent alone.
        self.domain = self.paging.domain
        self.cache = cache
        parent.users += 1

    def destroyed(self) -> None:
        super().destroyed()
        self._parent.drop()
