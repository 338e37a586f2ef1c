"""A queue in a guest's memory that the IOMMU's hardware reads by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyvfio.iommufd.object import IommufdObject, call

if TYPE_CHECKING:
    from pyvfio.iommufd.viommu import Viommu


class HwQueue(IommufdObject):
    """Made by :meth:`Viommu.hw_queue`. The memory of the queue cannot be unmapped while it is there."""

    def __init__(self, viommu: Viommu, type: int, index: int, iova: int, size: int) -> None:
        native = call(
            viommu._fd,
            "IOMMU_HW_QUEUE_ALLOC",
            "struct iommu_hw_queue_alloc",
            viommu_id=viommu.id,
            type=type,
            index=index,
            nesting_parent_iova=iova,
            length=size,
        )
        super().__init__(viommu.iommufd, native.out_hw_queue_id, viommu)
        self.index = index
