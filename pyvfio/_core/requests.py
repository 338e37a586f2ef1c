"""Request number <-> name, by kind of descriptor.

The same number means different things on different descriptors (`VFIO_DEVICE_GET_PCI_HOT_RESET_INFO` and `VFIO_IOMMU_GET_INFO`,
for one pair), so a number alone has no name.
"""

from __future__ import annotations

from functools import cache

from pyvfio._abi import lib

#: The requests that each kind of descriptor takes. A container takes type1's once an IOMMU type is set.
NAMES: dict[str, tuple[str, ...]] = {
    "container": (
        "VFIO_GET_API_VERSION",
        "VFIO_CHECK_EXTENSION",
        "VFIO_SET_IOMMU",
        "VFIO_IOMMU_GET_INFO",
        "VFIO_IOMMU_MAP_DMA",
        "VFIO_IOMMU_UNMAP_DMA",
        "VFIO_IOMMU_DIRTY_PAGES",
    ),
    "group": (
        "VFIO_GROUP_GET_STATUS",
        "VFIO_GROUP_SET_CONTAINER",
        "VFIO_GROUP_UNSET_CONTAINER",
        "VFIO_GROUP_GET_DEVICE_FD",
    ),
    "device": (
        "VFIO_DEVICE_GET_INFO",
        "VFIO_DEVICE_GET_REGION_INFO",
        "VFIO_DEVICE_GET_IRQ_INFO",
        "VFIO_DEVICE_SET_IRQS",
        "VFIO_DEVICE_RESET",
        "VFIO_DEVICE_GET_PCI_HOT_RESET_INFO",
        "VFIO_DEVICE_PCI_HOT_RESET",
        "VFIO_DEVICE_IOEVENTFD",
        "VFIO_DEVICE_FEATURE",
        "VFIO_DEVICE_BIND_IOMMUFD",
        "VFIO_DEVICE_ATTACH_IOMMUFD_PT",
        "VFIO_DEVICE_DETACH_IOMMUFD_PT",
    ),
    "migration": ("VFIO_MIG_GET_PRECOPY_INFO",),
    "iommufd": (
        "IOMMU_DESTROY",
        "IOMMU_IOAS_ALLOC",
        "IOMMU_IOAS_ALLOW_IOVAS",
        "IOMMU_IOAS_COPY",
        "IOMMU_IOAS_IOVA_RANGES",
        "IOMMU_IOAS_MAP",
        "IOMMU_IOAS_UNMAP",
        "IOMMU_OPTION",
        "IOMMU_VFIO_IOAS",
        "IOMMU_HWPT_ALLOC",
        "IOMMU_GET_HW_INFO",
        "IOMMU_HWPT_SET_DIRTY_TRACKING",
        "IOMMU_HWPT_GET_DIRTY_BITMAP",
        "IOMMU_HWPT_INVALIDATE",
        "IOMMU_FAULT_QUEUE_ALLOC",
        "IOMMU_IOAS_MAP_FILE",
        "IOMMU_VIOMMU_ALLOC",
        "IOMMU_VDEVICE_ALLOC",
        "IOMMU_IOAS_CHANGE_PROCESS",
        "IOMMU_VEVENTQ_ALLOC",
        "IOMMU_HW_QUEUE_ALLOC",
        "IOMMU_IOAS_NOIOMMU_GET_PA",
    ),
}
# The compatibility container of iommufd takes both, and their numbers do not meet.
NAMES["iommufd"] += NAMES["container"]


def number(name: str) -> int:
    """The number of a request, from the compiled declarations."""
    return int(getattr(lib, name))


@cache
def _names(kind: str) -> dict[int, str]:
    return {number(name): name for name in NAMES.get(kind, ())}


def name(kind: str, request: int) -> str:
    """What `request` is called on a descriptor of that kind; the number in hex if it has no name there."""
    return _names(kind).get(request, f"{request:#x}")
