"""The kernel's own mock IOMMU (CONFIG_IOMMUFD_TEST): devices and page tables without hardware, and calls that look into them.

Numbers and layouts are those of drivers/iommu/iommufd/iommufd_test.h.
"""

from __future__ import annotations

import os
import struct

from pyvfio import DmaBuffer, Iommufd
from pyvfio._abi import ffi
from pyvfio.iommufd import BoundDevice, Ioas
from pyvfio.iommufd.object import IommufdObject

IOMMU_TEST_CMD = ord(";") << 8 | 0x80 + 32
(
    ADD_RESERVED, MOCK_DOMAIN, CHECK_MAP, CHECK_REFS, CREATE_ACCESS, DESTROY_ACCESS_PAGES, ACCESS_PAGES, ACCESS_RW,
    SET_TEMP_MEMORY_LIMIT, DOMAIN_REPLACE, ACCESS_REPLACE_IOAS, DOMAIN_FLAGS, DIRTY, CHECK_IOTLB, TRIGGER_IOPF,
    CHECK_DEV_CACHE, TRIGGER_VEVENT, PASID_ATTACH, PASID_REPLACE, PASID_DETACH, PASID_CHECK_HWPT,
) = range(1, 22)  # fmt: skip

APERTURE_START, APERTURE_LAST, PAGE_SIZE = 1 << 24, (1 << 31) - 1, 2048
NO_DIRTY, PASID = 1 << 0, 1 << 2
HW_INFO_TYPE, HW_INFO_REGISTER = 0xFEEDBEEF, 0xDEADBEEF
HWPT_DATA, IOTLB_DEFAULT = 0xDEAD, 0xBADBEEF
HWPT_INVALIDATE, VIOMMU_TYPE, VIOMMU_INVALIDATE = 0xDEADBEEF, 0xDEADBEEF, 0xDEADBEEF
DEV_CACHE_DEFAULT = 0xBADDAD
VEVENTQ_TYPE, HW_QUEUE_TYPE = 0xBEEFBEEF, 0xDEADBEEF
# struct iommu_test_cmd: four u32, a union of 48 bytes, `last` and padding.
_SIZE = 72


def call(iommufd: Iommufd, op: int, id_: int, union: bytes = b"") -> bytes:
    """One IOMMU_TEST_CMD: the union as the kernel left it."""
    command = bytearray(struct.pack("=4I", _SIZE, op, id_, 0) + union.ljust(_SIZE - 16, b"\0"))
    error = iommufd._fd.ioctl(IOMMU_TEST_CMD, ffi.from_buffer(command))
    if error < 0:
        raise OSError(-error, f"IOMMU_TEST_CMD {op}: {os.strerror(-error)}")
    return bytes(command[16:])


class MockDevice(IommufdObject):
    """A device of the mock IOMMU, attached to an address space. Destroying it detaches it."""

    def __init__(self, ioas: Ioas, flags: int = 0) -> None:
        self_id, self.hwpt_id, device_id, _ = struct.unpack_from(
            "=4I", call(ioas.iommufd, DOMAIN_FLAGS, ioas.id, struct.pack("=4I", 0, 0, 0, flags))
        )
        super().__init__(ioas.iommufd, self_id, ioas)
        self.bound = BoundDevice(ioas.iommufd, device_id, "mock device")

    def attach(self, to: IommufdObject) -> None:
        call(self.iommufd, DOMAIN_REPLACE, self._id, struct.pack("=I", to.id))
        self._live_under(to)

    def check_map(self, iova: int, memory: DmaBuffer, offset: int, size: int) -> None:
        """Have the kernel compare the page table with the memory's own pages."""
        call(
            self.iommufd, CHECK_MAP, self.hwpt_id, struct.pack("=3Q", iova, size, memory.address + offset)
        )

    def make_dirty(self, hwpt: IommufdObject, iova: int, size: int, page_size: int, bits: bytes) -> int:
        """Set dirty bits as a device's writes would; how many pages are dirty then."""
        held = ffi.from_buffer(bytearray(bits))
        address = int(ffi.cast("uintptr_t", held))
        union = struct.pack("=I4x5Q", 0, iova, size, page_size, address, 0)
        return int(struct.unpack_from("=I4x5Q", call(self.iommufd, DIRTY, hwpt.id, union))[5])

    def trigger_fault(self, address: int, *, pasid: int = 0xFFFFFFFF, group: int = 1, permissions: int = 1) -> None:
        union = struct.pack("=4IQ", self.bound.id, pasid, group, permissions, address)
        call(self.iommufd, TRIGGER_IOPF, 0, union)

    def trigger_event(self) -> None:
        call(self.iommufd, TRIGGER_VEVENT, 0, struct.pack("=I", self.bound.id))

    def pasid(self, op: int, pasid: int, to: IommufdObject | None = None) -> None:
        call(self.iommufd, op, self._id, struct.pack("=2I", pasid, to.id if to else 0))


def check_iotlb(hwpt: IommufdObject, index: int, value: int) -> None:
    call(hwpt.iommufd, CHECK_IOTLB, hwpt.id, struct.pack("=2I", index, value))


def check_cache(device: MockDevice, index: int, value: int) -> None:
    call(device.iommufd, CHECK_DEV_CACHE, device.bound.id, struct.pack("=2I", index, value))
